package view

import (
	"context"
	"fmt"

	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

// strippedTypes is the state that somebody who is not in a room yet is shown (client-server API, "Stripped state").
var strippedTypes = []string{"m.room.create", "m.room.join_rules", "m.room.canonical_alias", "m.room.avatar",
	"m.room.encryption", "m.room.name", "m.room.topic"}

// maxStripped bounds the stripped state of one room, in bytes.
const maxStripped = 128 << 10

// Stripped returns the stripped state that goes with an invitation or a knock of our room as a JSON array: the state of the room as it
// was then, and the membership itself.
func Stripped(ctx context.Context, db *roomdb.DB, own *roomdb.Event) ([]byte, error) {
	m, err := db.State(ctx, own.Part, own.SID)
	if err != nil {
		return nil, fmt.Errorf("stripped state: %w", err)
	}
	var nids []int64
	for _, typ := range strippedTypes {
		if nid, ok := m.Get(state.Key{Type: typ}); ok {
			nids = append(nids, nid)
		}
	}
	if own.Membership() == "invite" { // who invites (MSC4319)
		if nid, ok := m.Get(state.Key{Type: "m.room.member", StateKey: string(own.Sender)}); ok {
			nids = append(nids, nid)
		}
	}
	shown, err := db.InOrder(ctx, own.Part, nids)
	if err != nil {
		return nil, fmt.Errorf("stripped state: %w", err)
	}
	list := []byte{'['}
	for _, e := range shown {
		if len(list)+len(e.Content) <= maxStripped { // what is too large is left out
			list = append(e.Stripped(list), ',')
		}
	}
	return append(own.Stripped(list), ']'), nil
}
