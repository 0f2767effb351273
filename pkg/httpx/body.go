package httpx

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"time"
	"unicode/utf8"

	"hanse/pkg/merr"
)

// MaxDepth is how deeply JSON in a request may be nested.
const MaxDepth = 100

// bodyTimeout bounds the reading of a request body.
const bodyTimeout = 60 * time.Second

// Body reads the request body, up to the route's limit (413 M_TOO_LARGE beyond it).
func Body(r *http.Request) ([]byte, error) {
	limit, rc := int64(1<<20), (*http.ResponseController)(nil)
	if s := stateOf(r); s != nil {
		limit = s.route.maxBody
		rc = http.NewResponseController(s.w.ResponseWriter)
	}
	if r.ContentLength > limit {
		return nil, merr.TooLarge("The request body is too large")
	}
	if r.ContentLength == 0 || r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	if rc != nil {
		// Errors mean that the connection cannot have deadlines, as in tests. The deadline ends
		// with the body: a long poll has none.
		_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout))
		defer func() { _ = rc.SetReadDeadline(time.Time{}) }()
	}
	// A client may promise much and send nothing: memory follows what arrives.
	var buf bytes.Buffer
	if n := r.ContentLength; n > 0 {
		buf.Grow(int(min(n, 64<<10)) + bytes.MinRead)
	}
	if _, err := buf.ReadFrom(io.LimitReader(r.Body, limit+1)); err != nil {
		return nil, bodyError(err)
	}
	b := buf.Bytes()
	if int64(len(b)) > limit {
		return nil, merr.TooLarge("The request body is too large")
	}
	return b, nil
}

func bodyError(err error) error {
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		return merr.New(http.StatusRequestTimeout, merr.CodeUnknown, "The request body took too long").WithCause(err)
	}
	return merr.NotJSON("The request body was cut short").WithCause(err)
}

// JSONBody reads a body that must be a JSON object, and checks its form: M_NOT_JSON if it is not
// JSON in UTF-8, M_BAD_JSON if it is not an object or nested deeper than MaxDepth. An empty body
// counts as {}, as many clients send none where every member is optional.
func JSONBody(r *http.Request) ([]byte, error) {
	b, err := Body(r)
	if err != nil {
		return nil, err
	}
	b = bytes.TrimLeft(b, " \t\r\n")
	if len(b) == 0 {
		return []byte("{}"), nil
	}
	if err := CheckJSON(b); err != nil {
		return nil, err
	}
	if b[0] != '{' {
		return nil, merr.BadJSON("The request body must be a JSON object")
	}
	return b, nil
}

// CheckJSON checks that b is one JSON value in UTF-8, nested at most MaxDepth deep.
func CheckJSON(b []byte) error {
	if !utf8.Valid(b) {
		return merr.NotJSON("The request body is not UTF-8")
	}
	if tooDeep(b) {
		return merr.BadJSON("The request body is nested too deeply")
	}
	if !json.Valid(b) {
		return merr.NotJSON("The request body is not JSON")
	}
	return nil
}

// tooDeep looks at brackets outside strings only: it runs before the parser, which recurses.
func tooDeep(b []byte) bool {
	depth, inString := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case inString:
			switch c {
			case '\\':
				i++
			case '"':
				inString = false
			}
		case c == '"':
			inString = true
		case c == '{' || c == '[':
			if depth++; depth > MaxDepth {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}

// Decode reads a JSON object into v. Unknown members are ignored; members of a wrong type are
// M_BAD_JSON.
func Decode(r *http.Request, v any) error {
	b, err := JSONBody(r)
	if err != nil {
		return err
	}
	return Unmarshal(b, v)
}

// Unmarshal decodes JSON that was checked already, with Matrix errors.
func Unmarshal(b []byte, v any) error {
	err := json.Unmarshal(b, v)
	if err == nil {
		return nil
	}
	if e, ok := merr.As(err); ok {
		return e
	}
	var te *json.UnmarshalTypeError
	if errors.As(err, &te) && te.Field != "" {
		return merr.BadJSON("Wrong type of member " + te.Field).WithCause(err)
	}
	return merr.BadJSON("The request body does not have the right form").WithCause(err)
}
