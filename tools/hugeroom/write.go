package hugeroom

import (
	"bufio"
	"io"
)

// Write writes all events as lines of JSON, each after those that it names.
func (r *Room) Write(w io.Writer) error {
	out := bufio.NewWriterSize(w, 1<<20)
	for _, pdu := range r.events[1:] {
		_, _ = out.Write(pdu.JSON) // a bufio.Writer keeps its first error for Flush
		_ = out.WriteByte('\n')
	}
	return out.Flush()
}
