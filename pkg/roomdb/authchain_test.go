package roomdb_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"hanse/pkg/authgraph"
	"hanse/pkg/pg/pgtest"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

// bySQL is the auth chain as PostgreSQL walks it, with the distance of each event ("Definitions", server-server API).
func bySQL(t rapid.TB, db *pgxpool.Pool, part uint32, of []int64) map[int64]int {
	t.Helper()
	distance := make(map[int64]int)
	for d, next := 1, of; len(next) > 0; d++ {
		rows, err := db.Query(context.Background(), `SELECT DISTINCT unnest(auth) FROM event WHERE part = $1 AND event_nid = ANY($2)`, int32(part), next)
		if err != nil {
			t.Fatal(err)
		}
		next = nil
		for rows.Next() {
			var nid int64
			if err := rows.Scan(&nid); err != nil {
				t.Fatal(err)
			}
			if distance[nid] == 0 {
				distance[nid] = d
				next = append(next, nid)
			}
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
	}
	return distance
}

// Auth chains of stored rooms are those that a walk through the table finds, the nearest first.
func TestAuthChain(t *testing.T) {
	const part = 7
	shards := pgtest.New(t)
	db := shards.For(part)
	ctx := context.Background()
	if _, err := db.Exec(ctx, `INSERT INTO room (part, room_nid, room_id, version, sid, extremities, depth) VALUES ($1, 1, '!r:x', '11', 0, '{}', 0)`, part); err != nil {
		t.Fatal(err)
	}
	next := int64(1)
	room := roomdb.RoomKey{Part: part, NID: 1}
	rooms := roomdb.Open(shards, state.NewStore(state.DefaultConfig(), nil), roomdb.DefaultConfig(), nil)
	rapid.Check(t, func(t *rapid.T) {
		var stateEvents, all []int64
		for range rapid.IntRange(1, 40).Draw(t, "n") {
			next += int64(rapid.IntRange(1, 3).Draw(t, "gap"))
			var auth []int64
			for range rapid.IntRange(0, min(len(stateEvents), 4)).Draw(t, "cites") {
				auth = append(auth, rapid.SampledFrom(stateEvents).Draw(t, "auth"))
			}
			typ := rapid.SampledFrom([]string{"m.room.power_levels", "m.room.topic", "m.room.message"}).Draw(t, "type")
			_, err := db.Exec(ctx, `
INSERT INTO event (part, event_nid, room_nid, event_id, depth, type, state_key, sender, origin_ts, auth, prev, json)
VALUES ($1, $2::bigint, 1, '$' || $2, 1, $3, CASE WHEN $3 = 'm.room.message' THEN NULL ELSE '' END, '@a:x', 0, $4, '{}',
	'{"type":"x","sender":"@a:x","room_id":"!r:x","content":{},"origin_server_ts":1,"depth":1,"prev_events":[],"auth_events":[]}')`,
				part, next, typ, append([]int64{}, auth...))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, next)
			if typ != "m.room.message" {
				stateEvents = append(stateEvents, next)
			}
		}
		check := func(chain []int64, err error, want map[int64]int) {
			t.Helper()
			if err != nil || len(chain) != len(want) {
				t.Fatalf("%v, %v; want %v", chain, err, want)
			}
			for n, nid := range chain {
				if want[nid] == 0 || slices.Contains(chain[:n], nid) || n > 0 && want[nid] < want[chain[n-1]] {
					t.Fatalf("%v; want %v", chain, want)
				}
			}
		}
		if len(stateEvents) > 0 {
			of := rapid.SliceOfN(rapid.SampledFrom(stateEvents), 1, 5).Draw(t, "of")
			want := bySQL(t, db, part, of)
			chain, err := rooms.AuthChain(ctx, room, of, 40)
			check(chain, err, want)
			if len(want) > 0 {
				if _, err := rooms.AuthChain(ctx, room, of, len(want)-1); !errors.Is(err, authgraph.ErrTooMany) {
					t.Fatalf("beyond the bound: %v", err)
				}
			}
		}
		one := rapid.SampledFrom(all).Draw(t, "one")
		events, err := rooms.InOrder(ctx, part, []int64{one})
		if err != nil {
			t.Fatal(err)
		}
		chain, err := rooms.AuthChainOf(ctx, events[0], 40)
		check(chain, err, bySQL(t, db, part, []int64{one}))
		if _, err := rooms.AuthChain(ctx, room, []int64{next + 1}, 40); !errors.Is(err, roomdb.ErrNotFound) {
			t.Fatalf("of an event that is not there: %v", err)
		}
	})
}
