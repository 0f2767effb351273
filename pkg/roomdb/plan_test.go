package roomdb_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"hanse/pkg/matrix/id"
	"hanse/pkg/pg/pgtest"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

// Statements are planned once for a connection, often when the tables are empty. Whatever the plan was: later, in a
// partition of many events, a look-up of some reads these and not all that there are.
func TestLookUpsOfOldConnections(t *testing.T) {
	const part, events, wanted = 7, 20_000, 500
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
	exec(`INSERT INTO room (part, room_nid, room_id, version, sid, extremities, depth) VALUES (7, 1, '!r:x', '11', 0, '{}', 0)`)
	exec(fmt.Sprintf(`INSERT INTO event (part, event_nid, room_nid, event_id, depth, type, state_key, sender, origin_ts, auth, prev, json)
		SELECT 7, n, 1, '$' || n, 1, 'm.room.message', n, '@a:x', 0, '{}', '{}',
		'{"type":"x","sender":"@a:x","room_id":"!r:x","content":{},"origin_server_ts":1,"depth":1,"prev_events":[],"auth_events":[]}'
		FROM generate_series(1, %d) n`, events))
	for name, lookUp := range lookUps {
		before := read()
		if n, err := lookUp(); n != wanted || err != nil {
			t.Fatalf("%s: %d, %v", name, n, err)
		}
		if tuples := read() - before; tuples < wanted || tuples > 2*wanted {
			t.Errorf("%s read %d rows for %d events", name, tuples, wanted)
		}
	}
}
