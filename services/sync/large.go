package sync

import (
	"context"
	"slices"
	"time"

	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

// A device that does not load members lazily is told the whole state of a room in one answer, be it the network's largest
// room, with hundreds of megabytes. Such a state is read and written some events at a time and not cached, so that beside
// the answer itself, which nobody else has, it costs next to nothing; and only a few such answers are under way at once.

const (
	// largeState is from how many events on a state is large; largeStep how many of it are read at once, largeEvent how
	// many bytes one takes in an answer, roughly.
	largeState, largeStep, largeEvent = 20_000, 1000, 600
	// largeAnswers is how many answers with a large state are made and sent at once, largeWait how long others wait.
	largeAnswers = 2
	largeWait    = 30 * time.Second
)

// isLarge says whether a state is large for the poll's device. Without members none is.
func (p *poll) isLarge(m state.Map) bool {
	return !p.filter.Room.State.LazyLoadMembers && m.Len() > largeState
}

// beginLarge waits for a slot, which the poll keeps until it is answered.
func (s *Service) beginLarge(ctx context.Context, p *poll) error {
	if p.large {
		return nil
	}
	timer := time.NewTimer(largeWait)
	defer timer.Stop()
	select {
	case s.large <- struct{}{}:
		p.large = true
		return nil
	case <-timer.C:
		return merr.Unavailable("too many large answers are under way")
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Service) endLarge(p *poll) {
	if p.large {
		p.large = false
		<-s.large
	}
}

// appendLater appends the rest of a room's state to the list that began at start.
func (s *Service) appendLater(ctx context.Context, p *poll, v *roomView, b []byte, start int) ([]byte, error) {
	for nids := range slices.Chunk(v.later, largeStep) {
		found, err := s.rooms.EventsOnce(ctx, v.r.RoomPart, nids)
		if err != nil {
			return nil, err
		}
		events := make([]*roomdb.Event, 0, len(nids))
		for _, nid := range nids {
			if e := found[nid]; e != nil {
				events = append(events, e)
			}
		}
		before := len(b)
		if before > start {
			b = append(b, ',')
		}
		comma := len(b)
		if b, err = s.appendTold(ctx, p, b, filterState(&p.filter.Room.State, events)); err != nil {
			return nil, err
		}
		if len(b) == comma {
			b = b[:before] // the filter wants none of them
		}
	}
	return b, nil
}
