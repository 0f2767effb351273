package room

import (
	"context"
	"fmt"

	"hanse/pkg/matrix/id"
)

// warmFrom is from how many entries of state on a room that was joined is made ready for its first fork: the auth graph of a
// smaller one is read from events in some milliseconds.
const warmFrom = 4000

// warmSoon stores the auth graph of a room that has just got all of its state, in the background: whoever needs the graph then reads
// blocks of it, and does not wait while each state event is read to make them. What fails is made up for by the first reader.
func (s *Service) warmSoon(p *tenure, roomID id.Room) {
	s.work.Go(func() {
		if err := s.warm(p.ctx, roomID); err != nil && p.ctx.Err() == nil {
			s.log.Debug("auth graph of a joined room", "room", roomID, "err", err)
		}
	})
}

func (s *Service) warm(ctx context.Context, roomID id.Room) error {
	r, err := s.lockRoom(ctx, roomID)
	if err != nil {
		return err
	}
	key, large := r.key(), r.head.state.Len() >= warmFrom
	err = r.settle(ctx)
	r.unlock()
	if err != nil || !large {
		return err
	}
	if err := s.loads.enter(ctx); err != nil {
		return err
	}
	defer s.loads.leave()
	if _, err := s.db.AuthGraph(ctx, key); err != nil {
		return fmt.Errorf("auth graph of %s: %w", roomID, err)
	}
	return nil
}
