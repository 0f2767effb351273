package httpx

import (
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"hanse/pkg/merr"
)

// StreamBody returns the request's body to be read as it arrives: for bodies that go elsewhere and that nobody holds. It may
// have any length; the reader bounds it. As with Body, one that comes too slowly ends with 408, one that is broken off with
// 400. The route must be bounded by something else, as for a long poll.
func StreamBody(r *http.Request) io.Reader {
	s := stateOf(r)
	if s == nil {
		return r.Body // outside of a router, in tests
	}
	return &streamedBody{r: r, s: s, rc: http.NewResponseController(s.w.ResponseWriter), began: time.Now()}
}

type streamedBody struct {
	r       *http.Request
	s       *state
	rc      *http.ResponseController
	began   time.Time
	arrived int
	err     error
}

// Read implements io.Reader.
func (b *streamedBody) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	_ = b.rc.SetReadDeadline(b.s.intake.deadline(b.began, b.arrived)) // an error: there are no deadlines, as in tests
	n, err := b.r.Body.Read(p)
	b.arrived += n
	if err != nil {
		b.err = b.failed(err)
	}
	return n, b.err
}

func (b *streamedBody) failed(err error) error {
	if errors.Is(err, io.EOF) {
		_ = b.rc.SetReadDeadline(time.Time{})
		return err
	}
	b.s.bodyFailed.Store(true)
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		return merr.New(http.StatusRequestTimeout, merr.CodeUnknown, "The request body took too long").WithCause(err)
	}
	return merr.New(http.StatusBadRequest, merr.CodeUnknown, "The request body was cut short").WithCause(err)
}
