package roomdb_test

import (
	"context"
	"testing"

	"hanse/pkg/roomdb"
)

// Whoever asks for the mentions alone pays for no other event of the room: the notifying events are read once for all who ask for
// them (client-server API, "Receiving notifications": the counts of each user).
func TestUnreadReadsWhatIsAskedFor(t *testing.T) {
	const part, events = 7, 500
	ctx := context.Background()
	db := newCounted(t, part, roomdb.Config{})
	rooms := db.rooms
	db.exec(`INSERT INTO room (part, room_nid, room_id, version, sid, extremities, depth) VALUES (7, 1, '!r:x', '11', 0, '{}', 0)`)
	db.exec(`INSERT INTO event (part, event_nid, room_nid, event_id, ord, depth, type, sender, origin_ts, sid, flags, auth, prev, notify_seq, json)
		SELECT 7, n, 1, '$' || n, n, n, 'm.room.message', '@a:x', n, 0, 0, '{}', '{}', n / 2, '{}' FROM generate_series(1, 500) n`)
	spans := []roomdb.UnreadSpan{{RoomKey: roomdb.RoomKey{Part: part, NID: 1}, After: 0, UpTo: events}}
	for _, list := range []bool{true, false} {
		before := db.read("event")
		found, err := rooms.Unread(ctx, "@b:x", nil, spans, []bool{list})
		if err != nil {
			t.Fatal(err)
		}
		tuples := db.read("event") - before
		n := found[spans[0].RoomKey].Notifying
		switch {
		case list && (n == nil || len(n.Ords) != events/2):
			t.Errorf("notifying events: %v", n)
		case list && tuples < events:
			t.Errorf("rows are not counted: %d", tuples)
		case !list && (n != nil || tuples > 10):
			t.Errorf("mentions alone: read %d rows, notifying events %v", tuples, n)
		}
	}
}
