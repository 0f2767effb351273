package roomdb_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
)

// Statements are planned once for a connection, often when the tables are empty. Whatever the plan was: later, in a
// partition of many events, a look-up of some reads these and not all that there are.
func TestLookUpsOfOldConnections(t *testing.T) {
	const part, events, wanted = 7, 20_000, 500
	ctx := context.Background()
	db := newCounted(t, part, roomdb.Config{})
	rooms := db.rooms
	var ids []id.Event
	var nids []int64
	for n := range int64(wanted) {
		nids, ids = append(nids, 1+n), append(ids, id.Event(fmt.Sprint("$", 1+n)))
	}
	lookUps := map[string]func() (int, error){
		"EventsByID": func() (int, error) { found, err := rooms.EventsByID(ctx, part, ids); return len(found), err },
		"Events":     func() (int, error) { found, err := rooms.Events(ctx, part, nids); return len(found), err },
		"Memberships": func() (int, error) {
			found, err := rooms.Memberships(ctx, roomdb.RoomKey{Part: part, NID: 1}, nids)
			return len(found), err
		},
		"EventIDs": func() (int, error) { found, err := rooms.EventIDs(ctx, part, nids); return len(found), err },
		"EachRaw": func() (n int, err error) {
			err = rooms.EachRaw(ctx, roomdb.RoomKey{Part: part, NID: 1}, nids, func(*roomdb.Raw) error { n++; return nil })
			return n, err
		},
		"EachRaw of few": func() (n int, err error) {
			for few := range slices.Chunk(nids, 100) {
				err = errors.Join(err, rooms.EachRaw(ctx, roomdb.RoomKey{Part: part, NID: 1}, few, func(*roomdb.Raw) error { n++; return nil }))
			}
			return n, err
		},
	}
	for name, lookUp := range lookUps {
		for range 10 { // PostgreSQL plans anew the first five times
			if n, err := lookUp(); n != 0 || err != nil {
				t.Fatalf("%s of an empty room: %d, %v", name, n, err)
			}
		}
	}
	db.exec(`INSERT INTO room (part, room_nid, room_id, version, sid, extremities, depth) VALUES (7, 1, '!r:x', '11', 0, '{}', 0)`)
	db.exec(fmt.Sprintf(`INSERT INTO event (part, event_nid, room_nid, event_id, depth, type, state_key, sender, origin_ts, auth, prev, json)
		SELECT 7, n, 1, '$' || n, 1, 'm.room.message', n, '@a:x', 0, '{}', '{}',
		'{"type":"x","sender":"@a:x","room_id":"!r:x","content":{},"origin_server_ts":1,"depth":1,"prev_events":[],"auth_events":[]}'
		FROM generate_series(1, %d) n`, events))
	for name, lookUp := range lookUps {
		before := db.read("event")
		if n, err := lookUp(); n != wanted || err != nil {
			t.Fatalf("%s: %d, %v", name, n, err)
		}
		if tuples := db.read("event") - before; tuples < wanted || tuples > 2*wanted {
			t.Errorf("%s read %d rows for %d events", name, tuples, wanted)
		}
	}
}
