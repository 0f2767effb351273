package roomdb_test

import (
	"context"
	"testing"

	"hanse/pkg/pg/pgtest"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

// Whoever asks for the mentions alone pays for no other event of the room: the notifying events are read once for all who ask for
// them (client-server API, "Receiving notifications": the counts of each user).
func TestUnreadReadsWhatIsAskedFor(t *testing.T) {
	const part, events = 7, 500
	ctx := context.Background()
	cfg := pgtest.Config(t, 1)
	cfg.MaxConns = 2 // the one that was used last is used first
	shards := pgtest.Open(t, cfg)
	db := shards.For(part)
	rooms := roomdb.Open(shards, state.NewStore(state.DefaultConfig(), nil), roomdb.Config{}, nil)
	exec := func(sql string) {
		t.Helper()
		if _, err := db.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	read := func() (tuples int64) {
		t.Helper()
		exec("SELECT pg_stat_force_next_flush()")
		if err := db.QueryRow(ctx, "SELECT coalesce(idx_tup_fetch, 0) + seq_tup_read FROM pg_stat_user_tables WHERE relname = 'event'").Scan(&tuples); err != nil {
			t.Fatal(err)
		}
		exec("SELECT pg_stat_force_next_flush()") // what comes next is counted when it ends
		return tuples
	}
	exec(`INSERT INTO room (part, room_nid, room_id, version, sid, extremities, depth) VALUES (7, 1, '!r:x', '11', 0, '{}', 0)`)
	exec(`INSERT INTO event (part, event_nid, room_nid, event_id, ord, depth, type, sender, origin_ts, sid, flags, auth, prev, notify_seq, json)
		SELECT 7, n, 1, '$' || n, n, n, 'm.room.message', '@a:x', n, 0, 0, '{}', '{}', n / 2, '{}' FROM generate_series(1, 500) n`)
	spans := []roomdb.UnreadSpan{{RoomKey: roomdb.RoomKey{Part: part, NID: 1}, After: 0, UpTo: events}}
	for _, list := range []bool{true, false} {
		before := read()
		found, err := rooms.Unread(ctx, "@b:x", nil, spans, []bool{list})
		if err != nil {
			t.Fatal(err)
		}
		tuples := read() - before
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
