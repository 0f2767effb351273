package sync

import (
	"context"
	"fmt"

	"hanse/pkg/userdb"
	"hanse/pkg/view"
)

// stripped returns the stripped state of an invitation or a knock as a JSON array: what came with it from elsewhere, or
// the state of our room as it was then, and the membership itself.
func (s *Service) stripped(ctx context.Context, r *userdb.Membership) ([]byte, error) {
	if len(r.Stripped) > 0 {
		return r.Stripped, nil
	}
	events, err := s.rooms.Events(ctx, r.RoomPart, []int64{r.EventNID})
	if err != nil {
		return nil, fmt.Errorf("stripped state of %s: %w", r.Room, err)
	}
	own := events[r.EventNID]
	if own == nil {
		return []byte("[]"), nil // the room was purged
	}
	list, err := view.Stripped(ctx, s.rooms, own)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.Room, err)
	}
	return list, nil
}
