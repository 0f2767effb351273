package view

import (
	"context"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
)

// Memberships returns what a user was to the room of some events just after each of them (client-server API, "Room Event Format",
// unsigned.membership): "leave" if they were nothing. A client that cannot decrypt an event sees by it whether it ought to. All events
// must belong to one room.
func Memberships(ctx context.Context, db *roomdb.DB, user id.User, events []*roomdb.Event) (map[*roomdb.Event]string, error) {
	v := visibility{db: db, reader: Reader{User: user}}
	standings, err := v.load(ctx, events)
	if err != nil {
		return nil, err
	}
	found := make(map[*roomdb.Event]string, len(events))
	for i, e := range events {
		if found[e] = v.after(standings[i], e).membership; found[e] == "" {
			found[e] = "leave"
		}
	}
	return found, nil
}
