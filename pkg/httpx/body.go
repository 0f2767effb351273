package httpx

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"hanse/pkg/admission"
	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/merr"
)

// MaxDepth is how deeply JSON in a request may be nested.
const MaxDepth = 100

// bodyLeast is what a body is charged for at least while it is read: a buffer, and its connection.
const bodyLeast = 4 << 10

// Body reads the request body, up to the route's limit (413 M_TOO_LARGE beyond it). Its memory is taken as it arrives, from
// the account of the user (KnownUser) or the address that sends it, and is given back when the request is answered. 429 if
// the account has no room, 408 if the body comes too slowly.
func Body(r *http.Request) ([]byte, error) {
	s := stateOf(r)
	if s == nil && r.Body == nil {
		return nil, nil
	}
	if s == nil {
		return io.ReadAll(io.LimitReader(r.Body, 1<<20)) // outside of a router, in tests
	}
	b, _, err := s.read(r, s.payers())
	if err != nil {
		return nil, err
	}
	return b, s.settle(nil)
}

// ServerBody reads the body of a request that claims to come from a server, until Proven. A body of which that is likely,
// as it comes from where the server has proven it before, is charged to the server's account; others to the sender's
// address and to the claimed name, among strangers. It may have to make room for others: the context ends when it has to.
func ServerBody(r *http.Request, server string, likely bool) ([]byte, context.Context, error) {
	s := stateOf(r)
	names := serverPayers(server)
	if !likely {
		names = append(s.payers(), admission.Name{Kind: payClaimed, Key: server})
	}
	return s.read(r, names)
}

// Proven says that the request comes from the server: from now on its body is charged to the server's account.
func Proven(r *http.Request, server string) error { return stateOf(r).settle(serverPayers(server)) }

func serverPayers(server string) []admission.Name {
	return []admission.Name{{Kind: payKnown}, {Kind: payServer, Key: server}}
}

// KeepBody has the body's memory counted until release is called, also after the answer.
func KeepBody(r *http.Request) (release func()) {
	s := stateOf(r)
	if s == nil || s.body == nil {
		return func() {}
	}
	e := s.body
	s.body = nil
	return e.Release
}

// settle says that a body that was read stays, and to whom it is charged if that has changed.
func (s *state) settle(names []admission.Name) error {
	var err error
	switch {
	case s.body == nil:
		return nil
	case names == nil:
		err = s.body.Settle()
	default:
		err = s.body.Move(names...)
	}
	if err != nil {
		return merr.LimitExceeded(1000).WithCause(err)
	}
	return nil
}

// read reads the body into memory that is charged to accounts. The context is the request's, and ends when the body has to
// make room for others.
func (s *state) read(r *http.Request, names []admission.Name) ([]byte, context.Context, error) {
	limit := s.route.maxBody
	if r.ContentLength > limit {
		return nil, nil, merr.TooLarge("The request body is too large")
	}
	if r.ContentLength == 0 || r.Body == nil || r.Body == http.NoBody {
		return nil, r.Context(), nil
	}
	// An error of the controller means that the connection cannot have deadlines, as in tests.
	rc := http.NewResponseController(s.w.ResponseWriter)
	ctx, cancel := context.WithCancel(r.Context())
	s.cancel = cancel
	s.body = s.intake.pool.Enter(func() {
		s.bodyFailed.Store(true)
		_ = rc.SetReadDeadline(longAgo)
		cancel()
	}, names...)
	s.giveSlot()
	b, err := s.fill(r, rc, limit)
	if err != nil {
		s.bodyFailed.Store(true)
		return nil, nil, s.bodyError(err)
	}
	_ = rc.SetReadDeadline(time.Time{}) // it is for the body only: a long poll has none
	if err := s.takeSlot(); err != nil {
		return nil, nil, err
	}
	return b, ctx, nil
}

// longAgo is a deadline that ends what goes on.
var longAgo = time.Unix(1, 0)

// fill reads the body. The buffer grows as bytes arrive, whatever length was announced.
func (s *state) fill(r *http.Request, rc *http.ResponseController, limit int64) ([]byte, error) {
	most := limit + 1 // one more byte says that it is too large
	if r.ContentLength > 0 {
		most = r.ContentLength
	}
	if err := s.body.Take(bodyLeast); err != nil {
		return nil, err
	}
	b := make([]byte, 0, min(most, bodyLeast))
	for began := time.Now(); ; {
		if len(b) == cap(b) {
			if int64(len(b)) == most {
				return b, s.end(r, limit, most)
			}
			larger := min(2*int64(cap(b)), most)
			if err := s.body.Take(larger); err != nil {
				return nil, err
			}
			grown := make([]byte, len(b), larger)
			copy(grown, b)
			s.body.Free(int64(max(cap(b), bodyLeast)))
			b = grown
		}
		_ = rc.SetReadDeadline(s.intake.deadline(began, len(b)))
		if s.body.Evicted() { // the deadline that said so is overwritten
			return nil, admission.ErrEvicted
		}
		n, err := r.Body.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF {
			if int64(len(b)) > limit {
				return nil, errTooLarge
			}
			return b, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// end looks whether a body ends where it has to.
func (s *state) end(r *http.Request, limit, most int64) error {
	if most > limit {
		return errTooLarge
	}
	// The announced length has arrived. Readers that say so with the last bytes have been heard already.
	if _, err := r.Body.Read(make([]byte, 1)); err != nil && err != io.EOF {
		return err
	}
	return nil
}

var errTooLarge = merr.TooLarge("The request body is too large")

func (s *state) bodyError(err error) error {
	var ne net.Error
	switch {
	case errors.Is(err, errTooLarge):
		return err
	case errors.Is(err, admission.ErrFull), errors.Is(err, admission.ErrEvicted), s.body.Evicted():
		return merr.LimitExceeded(1000).WithCause(err)
	case errors.As(err, &ne) && ne.Timeout():
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

// CheckJSON checks that b is one JSON value in UTF-8 without lone surrogates, nested at most MaxDepth deep: what has no
// canonical form could not be signed later.
func CheckJSON(b []byte) error {
	err := canonjson.Check(b, MaxDepth-1)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, canonjson.ErrUTF8):
		return merr.NotJSON("The request body is not UTF-8").WithCause(err)
	case errors.Is(err, canonjson.ErrDepth):
		return merr.BadJSON("The request body is nested too deeply").WithCause(err)
	case errors.Is(err, canonjson.ErrNumber):
		return merr.BadJSON("The request body has a number that is too large").WithCause(err)
	}
	return merr.NotJSON("The request body is not JSON").WithCause(err)
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
