package notify

import (
	"context"

	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/pushrule"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

// Room is what rules look at beside the event: a room in one state.
type Room struct {
	// Members is how many have joined.
	Members int
	// Names are the display names of those users that rules were asked for.
	Names map[id.User]string

	power auth.State // m.room.create and m.room.power_levels
}

// LoadRoom reads what rules look at of a room as it is now, with the names of some users.
func LoadRoom(ctx context.Context, db *roomdb.DB, key roomdb.RoomKey, users ...id.User) (*Room, error) {
	rows, err := db.RoomsByNID(ctx, []roomdb.RoomKey{key})
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		m, err := db.State(ctx, row.Part, row.SID)
		if err != nil {
			return nil, err
		}
		return RoomIn(ctx, db, key.Part, m, row.Joined, users...)
	}
	return &Room{}, nil
}

// RoomIn reads what rules look at of a room in a state.
func RoomIn(ctx context.Context, db *roomdb.DB, part uint32, m state.Map, members int, users ...id.User) (*Room, error) {
	r := &Room{Members: members, Names: make(map[id.User]string, len(users)), power: make(auth.State, 2)}
	keys := []state.Key{{Type: "m.room.create"}, {Type: "m.room.power_levels"}}
	for _, u := range users {
		keys = append(keys, state.Key{Type: "m.room.member", StateKey: string(u)})
	}
	var nids []int64
	for _, k := range keys {
		if nid, ok := m.Get(k); ok {
			nids = append(nids, nid)
		}
	}
	events, err := db.Events(ctx, part, nids)
	if err != nil {
		return nil, err
	}
	for _, e := range events {
		if e.Type == "m.room.member" {
			r.Names[id.User(*e.StateKey)] = gjson.GetBytes(e.Content, "displayname").Str
			continue
		}
		r.power[event.Tuple{Type: e.Type}] = e.PDU
	}
	return r, nil
}

// contextOf is the context of a user's rules for one event.
func (r *Room) contextOf(user id.User, e *event.PDU) pushrule.Context {
	return pushrule.Context{User: user, DisplayName: r.Names[user], Members: r.Members, MayNotify: func(key string) bool { return r.MayNotify(e.Sender, key) }}
}

// MayNotify says whether a user may notify the room (client-server API, sender_notification_permission). Power levels that are
// malformed grant nothing.
func (r *Room) MayNotify(sender id.User, key string) bool {
	required, malformed := auth.PowerLevelsOf(r.power).Notification(key)
	return malformed == nil && auth.PowerOf(sender, r.power) >= required
}
