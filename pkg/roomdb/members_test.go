package roomdb_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"hanse/pkg/matrix/id"
	"hanse/pkg/pg/pgtest"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

var key = roomdb.RoomKey{Part: 3, NID: 1}

// populated is a room of n members, numbered from 1 on, of whom every third has left; a member is i's event.
func populated(tb testing.TB, part uint32, n int) (*roomdb.DB, state.Map) {
	tb.Helper()
	shards := pgtest.New(tb)
	ctx := context.Background()
	for _, sql := range []string{
		`INSERT INTO room (part, room_nid, room_id, version, sid, extremities, depth) VALUES ($1, 1, '!r:x', '11', 0, '{}', 0)`,
		`INSERT INTO event (part, room_nid, event_nid, event_id, type, state_key, sender, depth, origin_ts, flags, auth, prev, json)
		SELECT $1, 1, i, '$' || i, 'm.room.member', '@u' || i || ':x', '@u' || i || ':x', i, 0, 0, '{}', '{}',
			convert_to(format('{"type":"m.room.member","room_id":"!r:x","sender":"@u%s:x","state_key":"@u%s:x","content":{"membership":"%s"},"depth":1,"origin_server_ts":1,"prev_events":[],"auth_events":[],"pad":"%s"}',
				i, i, CASE i % 3 WHEN 0 THEN 'leave' ELSE 'join' END, repeat('x', 500)), 'UTF8')
		FROM generate_series(1, ` + fmt.Sprint(n) + `) i`,
	} {
		if _, err := shards.For(part).Exec(ctx, sql, int32(part)); err != nil {
			tb.Fatal(err)
		}
	}
	m := state.New(func(yield func(state.Key, int64) bool) {
		for i := range n {
			if !yield(state.Key{Type: "m.room.member", StateKey: fmt.Sprintf("@u%d:x", i+1)}, int64(i+1)) {
				return
			}
		}
	})
	return roomdb.Open(shards, state.NewStore(state.DefaultConfig(), nil), roomdb.DefaultConfig(), nil), m
}

// Who is joined is found out for few and for many members, and many are handed out some at a time.
func TestEachJoined(t *testing.T) {
	for _, n := range []int{0, 1, 200, 201, 5003} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			d, m := populated(t, 3, n)
			var got []id.User
			err := d.EachJoined(context.Background(), key, m.Type("m.room.member"), func(users []id.User) error {
				if len(users) > 2000 {
					t.Errorf("%d users at a time", len(users))
				}
				got = append(got, users...)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			var want []id.User
			for i := 1; i <= n; i++ {
				if i%3 != 0 {
					want = append(want, id.User(fmt.Sprintf("@u%d:x", i)))
				}
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Fatalf("%d users, not %d", len(got), len(want))
			}
			is, err := d.Memberships(context.Background(), key, []int64{0, 3, 5, int64(n) + 1})
			if err != nil || is[0] != "" || n >= 5 && (is[3] != "leave" || is[5] != "join") || is[int64(n)+1] != "" {
				t.Fatalf("memberships %v, %v", is, err)
			}
		})
	}
}

// Device lists (client-server API, "Tracking the device list for a user") are about encrypted rooms.
func TestListsDevices(t *testing.T) {
	plain := state.New(func(func(state.Key, int64) bool) {})
	encrypted := plain.Set(state.Key{Type: "m.room.encryption"}, 1)
	for _, c := range []struct {
		m    state.Map
		n    int
		want bool
	}{{plain, 1000, true}, {plain, 1001, false}, {encrypted, 1001, true}, {encrypted, 323_368, true}} {
		if got := roomdb.ListsDevices(c.m, c.n); got != c.want {
			t.Errorf("%d members, %d other entries: %t", c.n, c.m.Len(), got)
		}
	}
}

// BenchmarkEachJoined is about the members of the network's largest room.
func BenchmarkEachJoined(b *testing.B) {
	d, m := populated(b, 3, 323_368)
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		err := d.EachJoined(context.Background(), key, m.Type("m.room.member"), func(users []id.User) error { n += len(users); return nil })
		if err != nil || n == 0 {
			b.Fatal(n, err)
		}
	}
}
