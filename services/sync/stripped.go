package sync

import (
	"context"
	"fmt"

	"hanse/pkg/state"
	"hanse/pkg/userdb"
)

// strippedTypes is the state that somebody who is not in a room yet is shown (client-server API, "Stripped state").
var strippedTypes = []string{"m.room.create", "m.room.join_rules", "m.room.canonical_alias", "m.room.avatar",
	"m.room.encryption", "m.room.name", "m.room.topic"}

// maxStripped bounds the stripped state of one room, in bytes.
const maxStripped = 128 << 10

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
	m, err := s.rooms.State(ctx, r.RoomPart, own.SID)
	if err != nil {
		return nil, fmt.Errorf("stripped state of %s: %w", r.Room, err)
	}
	var nids []int64
	for _, typ := range strippedTypes {
		if nid, ok := m.Get(state.Key{Type: typ}); ok {
			nids = append(nids, nid)
		}
	}
	if r.Membership == "invite" { // who invites (MSC4319)
		if nid, ok := m.Get(state.Key{Type: "m.room.member", StateKey: string(own.Sender)}); ok {
			nids = append(nids, nid)
		}
	}
	shown, err := s.rooms.InOrder(ctx, r.RoomPart, nids)
	if err != nil {
		return nil, fmt.Errorf("stripped state of %s: %w", r.Room, err)
	}
	list := []byte{'['}
	for _, e := range shown {
		if len(list)+len(e.Content) <= maxStripped { // what is too large is left out
			list = append(e.Stripped(list), ',')
		}
	}
	return append(own.Stripped(list), ']'), nil
}
