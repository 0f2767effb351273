package room

import (
	"context"
	"time"
)

const (
	// freeAnswer is how large an answer of another server may become without a slot, and largeAnswers how many slots there
	// are for those that become larger: each may take hundreds of megabytes.
	freeAnswer   = 16 << 20
	largeAnswers = 4
)

// slot is memory for one large answer and for what is built from it. It is taken only when an answer has become large: a server
// whose answer is slow does not delay the answers of others.
type slot struct {
	s    *Service
	held bool
}

type slotKey struct{}

// withSlot lets the requests that are made with the context share a slot, if they need one, until it is left. A context that
// has one keeps it: waiting for a second slot while holding the first could block for ever.
func (s *Service) withSlot(ctx context.Context) (context.Context, func()) {
	if slotOf(ctx) != nil {
		return ctx, func() {}
	}
	sl := &slot{s: s}
	return context.WithValue(ctx, slotKey{}, sl), sl.leave
}

// slotOf returns the slot of the context, nil if it has none.
func slotOf(ctx context.Context) *slot {
	sl, _ := ctx.Value(slotKey{}).(*slot)
	return sl
}

// take waits for the slot. If there is none in time the request has to be made again.
func (sl *slot) take(ctx context.Context) error {
	if sl.held {
		return nil
	}
	select {
	case sl.s.large <- struct{}{}:
		sl.held = true
		return nil
	case <-ctx.Done():
		return busy(5 * time.Second)
	}
}

func (sl *slot) leave() {
	if sl.held {
		sl.held = false
		<-sl.s.large
	}
}
