package httpx

import (
	"net/http"

	"hanse/pkg/merr"
)

// A slot is one of the router's places for requests in progress. A request has it while we work on it, and not while we wait
// for its sender or for another server: those may take long, and whoever opens requests decides how many do.

// takeSlot takes a slot: 429 at once if there is none.
func (s *state) takeSlot() error {
	select {
	case s.slots <- struct{}{}:
		s.hasSlot = true
		return nil
	default:
		s.refused.Inc()
		return merr.LimitExceeded(1000)
	}
}

func (s *state) giveSlot() {
	if s.hasSlot {
		<-s.slots
		s.hasSlot = false
	}
}

// Waiting gives a request's slot back while it waits for something outside. resume takes one again: 429 if there is none.
// A request that waits must be bounded by something else.
func Waiting(r *http.Request) (resume func() error) {
	s := stateOf(r)
	if s == nil {
		return func() error { return nil }
	}
	s.giveSlot()
	return s.takeSlot
}
