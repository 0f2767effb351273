package hugerooms

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"testing"
	"time"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/tools/hugeroom"
	"hanse/tools/mxclient"
)

// close sends an event that comes after all others, and demands that both clusters have the state that plain resolution
// has there.
func (s *split) close(n int) {
	t := s.t
	t.Helper()
	begin := time.Now()
	last, err := s.shores[n%2].admin.SendText(t.Context(), s.room, fmt.Sprint("close", n), "that was it")
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the last message", func() error {
		for _, sh := range s.shores {
			if err := sh.reader.lacks([]id.Event{id.Event(last)}); err != nil {
				return fmt.Errorf("%s: %w", sh.name, err)
			}
		}
		left, err := s.peer.CatchUp()
		if err != nil {
			t.Fatal(err)
		}
		return s.peer.Room(func(r *hugeroom.Room) error {
			if ends := r.Ends(); len(ends) != 1 || r.PDU(ends[0]).ID != id.Event(last) {
				return fmt.Errorf("the room's servers have %d ends, and %d events without a place", len(ends), left)
			}
			return nil
		})
	})
	t.Logf("round %d: the room's servers have caught up after %s", n, since(begin))
	want := s.expected()
	for _, sh := range s.shores {
		until(t, "the state on "+sh.name, func() error { return s.has(sh, want) })
	}
	t.Logf("round %d: states of %d entries compared after %s", n, len(want), since(begin))
}

// expected is the state that plain resolution makes of what the room's servers have.
func (s *split) expected() map[string]id.Event {
	s.t.Helper()
	want := make(map[string]id.Event)
	in(s.t, s.peer, func(r *hugeroom.Room) error {
		m, err := r.Before(r.Ends()...)
		for k, e := range r.Set(m) {
			want[k.Type+"\x00"+k.StateKey] = e
		}
		return err
	})
	return want
}

func (s *split) has(sh *shore, want map[string]id.Event) error {
	have, err := stateOf(s.t, sh.admin, s.room)
	if err != nil || maps.Equal(have, want) {
		return err
	}
	return differ(have, want)
}

// same compares what the sides have changed of the state.
func (s *split) same() error {
	for _, k := range s.touched {
		var has [2]string
		for i, sh := range s.shores {
			var err error
			if has[i], err = sh.state(s.t, s.room, k); err != nil {
				return err
			}
		}
		if has[0] != has[1] {
			return fmt.Errorf("%v: %q and %q", k, has[0], has[1])
		}
	}
	return nil
}

// state is the event that a cluster has for a piece of state; empty if there is none.
func (sh *shore) state(t *testing.T, room string, k event.Tuple) (string, error) {
	e, err := sh.admin.StateEvent(t.Context(), room, k.Type, k.StateKey)
	if refused := (*mxclient.Error)(nil); errors.As(err, &refused) && refused.Status == http.StatusNotFound {
		return "", nil
	}
	return e.EventID, err
}

// heardAlike compares what readers of both sides have heard of those who write all the time.
func (s *split) heardAlike() error {
	all := append(s.shores[0].talkers(), s.shores[1].talkers()...)
	here, there := s.shores[0].reader.heard(all), s.shores[1].reader.heard(all)
	if len(here) == 0 || !maps.Equal(here, there) {
		return fmt.Errorf("%d and %d messages", len(here), len(there))
	}
	return nil
}
