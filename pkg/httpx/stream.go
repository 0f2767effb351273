package httpx

import (
	"iter"
	"net/http"
)

// streamBytes is how many bytes of a stream are sent at a time, at least.
const streamBytes = 256 << 10

// Stream sends a long answer while it is made. An error before the first bytes are sent is an answer like any other; one
// after that breaks the connection off, so that nobody takes half an answer for a whole one.
type Stream struct {
	w    http.ResponseWriter
	sent bool
	// B is what is to be sent next.
	B []byte
}

// NewStream returns a stream of JSON with status 200.
func NewStream(w http.ResponseWriter) *Stream { return &Stream{w: w} }

// Send sends what write appends to B.
func (s *Stream) Send(write func() error) error {
	err := write()
	switch {
	case err != nil:
	case !s.sent:
		return Raw(s.w, http.StatusOK, s.B)
	default:
		err = s.flush()
	}
	if err != nil && s.sent {
		panic(http.ErrAbortHandler)
	}
	return err
}

// StreamList appends elements, step by step: add appends those of one step with commas between them. more says that there
// are elements before them already.
func StreamList[T any](s *Stream, more bool, steps iter.Seq[T], add func(b []byte, step T) ([]byte, error)) error {
	for step := range steps {
		before := len(s.B)
		if more {
			s.B = append(s.B, ',')
		}
		start := len(s.B)
		b, err := add(s.B, step)
		if err != nil {
			return err
		}
		if s.B = b; len(b) == start {
			s.B = b[:before] // it has none
			continue
		}
		more = true
		if len(b) >= streamBytes {
			if err := s.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// Flow sends B if it has enough, and empties it then.
func (s *Stream) Flow() error {
	if len(s.B) < streamBytes {
		return nil
	}
	return s.flush()
}

func (s *Stream) flush() error {
	if !s.sent {
		s.sent = true
		s.w.Header()["Content-Type"] = jsonType
		s.w.WriteHeader(http.StatusOK)
	}
	_, err := s.w.Write(s.B)
	s.B = s.B[:0]
	return err
}
