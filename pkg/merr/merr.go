package merr

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"strconv"
)

// Error is the standard error response of the Matrix APIs (client-server API, section "Standard
// error response").
type Error struct {
	// Status is the HTTP status.
	Status int
	// Code is the errcode, such as M_FORBIDDEN. Empty only in the first answer of user-interactive
	// authentication, which is a 401 without an errcode.
	Code string
	// Msg is the text for a person.
	Msg string
	// RetryAfterMS, if positive, is sent as the Retry-After header and as retry_after_ms.
	RetryAfterMS int64
	// Extra are further top-level members of the response.
	Extra map[string]any

	cause error
}

// Error implements error.
func (e *Error) Error() string {
	s := e.Code
	if s == "" {
		s = "status " + strconv.Itoa(e.Status)
	}
	if e.Msg != "" {
		s += ": " + e.Msg
	}
	if e.cause != nil {
		s += ": " + e.cause.Error()
	}
	return s
}

// Unwrap returns the cause given by WithCause.
func (e *Error) Unwrap() error { return e.cause }

// Is reports whether target is an *Error with the same errcode, so that errors.Is(err,
// merr.NotFound("")) works.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && t.Code != ""
}

// WithCause returns a copy of e that remembers why; the cause is logged, never sent.
func (e *Error) WithCause(err error) *Error {
	c := *e
	c.cause = err
	return &c
}

// With returns a copy of e with one more top-level member.
func (e *Error) With(key string, value any) *Error {
	c := *e
	c.Extra = maps.Clone(e.Extra)
	if c.Extra == nil {
		c.Extra = make(map[string]any, 1)
	}
	c.Extra[key] = value
	return &c
}

// WithStatus returns a copy of e with another HTTP status.
func (e *Error) WithStatus(status int) *Error {
	c := *e
	c.Status = status
	return &c
}

// As returns the Matrix error in err's chain.
func As(err error) (*Error, bool) {
	var e *Error
	if errors.As(err, &e) {
		return e, true
	}
	return nil, false
}

// HasCode reports whether err's chain has a Matrix error with this errcode.
func HasCode(err error, code string) bool {
	e, ok := As(err)
	return ok && e.Code == code
}

// From returns the Matrix error in err's chain, or what stands for an error that has none: 504 for
// an expired deadline, else 500, both M_UNKNOWN and with err as the cause.
func From(err error) *Error {
	if e, ok := As(err); ok {
		return e
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return New(http.StatusGatewayTimeout, CodeUnknown, "The request took too long").WithCause(err)
	}
	return New(http.StatusInternalServerError, CodeUnknown, "Internal server error").WithCause(err)
}

// AppendJSON appends the response body.
func (e *Error) AppendJSON(b []byte) []byte {
	b = append(b, '{')
	if e.Code != "" {
		b = appendMember(b, "errcode", e.Code)
		b = appendMember(b, "error", e.Msg)
	}
	if e.RetryAfterMS > 0 {
		b = appendMember(b, "retry_after_ms", e.RetryAfterMS)
	}
	for k, v := range e.Extra {
		b = appendMember(b, k, v)
	}
	return append(b, '}')
}

func appendMember(b []byte, key string, v any) []byte {
	val, err := json.Marshal(v)
	if err != nil {
		return b // a value that JSON cannot express was put there by our own code; the errcode still goes out
	}
	name, err := json.Marshal(key)
	if err != nil {
		return b
	}
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	b = append(b, name...)
	b = append(b, ':')
	return append(b, val...)
}

// WriteHTTP answers a request with err. It returns the Matrix error that was sent, for logs and
// metrics.
func WriteHTTP(w http.ResponseWriter, err error) *Error {
	e := From(err)
	body := e.AppendJSON(make([]byte, 0, 128))
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if e.RetryAfterMS > 0 {
		h.Set("Retry-After", strconv.FormatInt((e.RetryAfterMS+999)/1000, 10))
	}
	w.WriteHeader(e.Status)
	_, _ = w.Write(body) // the peer has gone: nobody is left to tell
	return e
}
