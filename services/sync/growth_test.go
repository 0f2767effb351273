package sync

import (
	"net/http"
	"testing"

	"hanse/pkg/growth"
	"hanse/pkg/session"
)

// nowhere takes an answer and keeps nothing of it.
type nowhere struct{ header http.Header }

func (w nowhere) Header() http.Header       { return w.header }
func (nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (nowhere) WriteHeader(int)             {}

// A large state is sent some thousand events at a time, of which nothing is kept: docs/state.md, "Joining without the members",
// and BenchmarkLargeState. What grows is the list of their numbers.
func TestLargeStateKeepsNothing(t *testing.T) {
	growth.Flat(t, "sending a large state", 5_000, 40_000, 3, func(n int) growth.Cost {
		s, v := inLargeRoom(t, n)
		p := &poll{asker: asker{who: &session.Identity{User: "@a:x"}}, filter: noFilter}
		bytes, _ := growth.Bytes(func() {
			json := []byte(`[]`)
			v.rest = rest{room: v, at: 1}
			if err := s.send(t.Context(), nowhere{http.Header{}}, p, &body{json: &json, rests: []rest{v.rest}}); err != nil {
				t.Fatal(err)
			}
		})
		return growth.Cost{"bytes": bytes}
	})
}
