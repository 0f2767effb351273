package fedin

import (
	"bytes"
	"context"
	"net/http"
	"slices"

	"hanse/pkg/roomdb"
)

const (
	// streamStep is how many elements of a long answer are read at a time, streamBytes how many bytes are sent at a time.
	streamStep, streamBytes = 500, 256 << 10
)

// stream sends a long answer while it is read. An error before the first bytes are sent is an answer like any other; one
// after that breaks the connection off, so that nobody takes half an answer for a whole one.
type stream struct {
	ctx  context.Context
	w    http.ResponseWriter
	buf  bytes.Buffer
	sent bool
}

// send sends an object whose members write writes, all but the last brace.
func (s *stream) send(write func() error) error {
	err := write()
	if err == nil {
		s.buf.WriteByte('}')
		err = s.flush()
	}
	if err != nil && s.sent {
		panic(http.ErrAbortHandler)
	}
	return err
}

// list writes a member that is a list, in the order of the numbers.
func (s *stream) list(name string, nids []int64, read func(ctx context.Context, nids []int64) ([][]byte, error)) error {
	s.buf.WriteString(name)
	s.buf.WriteByte('[')
	comma := false
	for step := range slices.Chunk(nids, streamStep) {
		elements, err := read(s.ctx, step)
		if err != nil {
			return err
		}
		for _, e := range elements {
			if comma {
				s.buf.WriteByte(',')
			}
			comma = true
			s.buf.Write(e)
		}
		if s.buf.Len() >= streamBytes {
			if err := s.flush(); err != nil {
				return err
			}
		}
	}
	s.buf.WriteByte(']')
	return nil
}

func (s *stream) flush() error {
	if !s.sent {
		s.sent = true
		s.w.Header().Set("Content-Type", "application/json")
		s.w.WriteHeader(http.StatusOK)
	}
	_, err := s.w.Write(s.buf.Bytes())
	s.buf.Reset()
	return err
}

// writeEvents writes a member that is a list of events.
func writeEvents(b *bytes.Buffer, name string, events []*roomdb.Event) {
	b.WriteString(name)
	b.WriteByte('[')
	for i, e := range events {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(e.JSON)
	}
	b.WriteByte(']')
}
