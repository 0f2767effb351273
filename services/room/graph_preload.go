package room

import (
	"context"
	"fmt"

	"hanse/pkg/matrix/id"
)

// preloadFrom is the number of state entries from which the auth graph of a joined room is read in advance. The graph of a
// smaller room is read from events in some milliseconds.
const preloadFrom = 4000

// preloadGraphSoon reads the auth graph of a room that has just got all of its state, in the background. Its first fork then does
// not wait while each state event is read, nor do later readers, because the graph is stored in blocks. If this fails, the first
// reader does the work.
func (s *Service) preloadGraphSoon(p *lease, roomID id.Room) {
	s.work.Go(func() {
		if err := s.preloadGraph(p.ctx, roomID); err != nil && p.ctx.Err() == nil {
			s.log.Debug("auth graph of a joined room", "room", roomID, "err", err)
		}
	})
}

func (s *Service) preloadGraph(ctx context.Context, roomID id.Room) error {
	r, err := s.lockRoom(ctx, roomID)
	if err != nil {
		return err
	}
	large := r.head.state.Len() >= preloadFrom
	r.unlock()
	if !large {
		return nil
	}
	select {
	case r.unlockedSlot <- struct{}{}:
		defer func() { <-r.unlockedSlot }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if _, ok := s.graphs.Peek(r); ok {
		return nil
	}
	if _, err := r.readGraphUnlocked(ctx); err != nil {
		return fmt.Errorf("auth graph of %s: %w", roomID, err)
	}
	return nil
}
