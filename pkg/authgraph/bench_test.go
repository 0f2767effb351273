package authgraph_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/authgraph"
	"hanse/pkg/pg/pgtest"
	"hanse/pkg/state"
)

// largeRoom makes the state events of a room with n of them: joins of users of many servers, some of whom come back, and
// now and then power levels, join rules and server ACLs.
func largeRoom(n int) []authgraph.Node {
	nodes := make([]authgraph.Node, 0, n)
	add := func(typ, key string, auth ...int64) int64 {
		nid := int64(len(nodes))*3 + 1 // snapshots take numbers too
		nodes = append(nodes, authgraph.Node{NID: nid, Key: state.Key{Type: typ, StateKey: key}, Auth: auth})
		return nid
	}
	create := add("m.room.create", "")
	admin := add("m.room.member", "@admin:server0.example", create)
	levels := add("m.room.power_levels", "", create, admin)
	rules := add("m.room.join_rules", "", create, admin, levels)
	members := make(map[int]int64)
	for i := 0; len(nodes) < n; i++ {
		switch {
		case i%15_000 == 14_999:
			levels = add("m.room.power_levels", "", create, admin, levels)
		case i%25_000 == 24_999:
			rules = add("m.room.join_rules", "", create, admin, levels)
		case i%500 == 499:
			add("m.room.server_acl", "", create, admin, levels)
		default:
			u := i
			if i%5 == 4 { // somebody comes back, or changes their name
				u = (i * 7919) % i
			}
			auth := []int64{create, levels, rules}
			if m := members[u]; m != 0 {
				auth = append(auth, m)
			}
			members[u] = add("m.room.member", fmt.Sprintf("@%s%d:server%d.example", []string{"anna", "bert.b", "chris_"}[u%3], u*31, u*u%(n/35+1)), auth...)
		}
	}
	return nodes
}

func copyIn(tb testing.TB, db interface {
	CopyFrom(context.Context, pgx.Identifier, []string, pgx.CopyFromSource) (int64, error)
}, room int64, nodes []authgraph.Node) {
	tb.Helper()
	cols := []string{"part", "event_nid", "room_nid", "event_id", "depth", "type", "state_key", "sender", "origin_ts", "auth", "prev", "json"}
	json := make([]byte, 900)
	_, err := db.CopyFrom(context.Background(), pgx.Identifier{"event"}, cols, pgx.CopyFromSlice(len(nodes), func(i int) ([]any, error) {
		n := &nodes[i]
		return []any{part, n.NID, room, fmt.Sprintf("$%043d", n.NID), 1, n.Key.Type, n.Key.StateKey, "@a:x", 0, append([]int64{}, n.Auth...), []int64{}, json}, nil
	}))
	if err != nil {
		tb.Fatal(err)
	}
}

// BenchmarkLoad reads the graph of a room from its blocks, and from events alone as if there were no blocks yet.
func BenchmarkLoad(b *testing.B) {
	for _, n := range []int{100, 10_000, 350_000, 1_000_000} {
		db := pgtest.New(b).For(part)
		copyIn(b, db, 1, largeRoom(n))
		if _, err := db.Exec(context.Background(), `ANALYZE event`); err != nil {
			b.Fatal(err)
		}
		room := authgraph.Room{Part: part, NID: 1}
		for _, from := range []string{"events", "blocks"} {
			b.Run(fmt.Sprintf("n=%d/%s", n, from), func(b *testing.B) {
				for b.Loop() {
					if from == "events" {
						b.StopTimer()
						exec(b, db, `DELETE FROM auth_block`)
						b.StartTimer()
					}
					g, err := authgraph.NewStore(1<<20, nil).Load(context.Background(), db, room)
					if err != nil || g.Len() != n {
						b.Fatalf("%v", err)
					}
				}
				var bytes float64
				if err := db.QueryRow(context.Background(), `SELECT coalesce(sum(length(data)), 0)::float8 FROM auth_block`).Scan(&bytes); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(bytes/float64(n), "B/event-stored")
			})
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		g, err := authgraph.NewStore(1<<20, nil).Load(context.Background(), db, room)
		if err != nil {
			b.Fatal(err)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.Logf("n=%d: heap %.0f B/event, by its own estimate %.0f", n, float64(after.HeapAlloc-before.HeapAlloc)/float64(n), float64(g.Bytes())/float64(n))
		b.Run(fmt.Sprintf("n=%d/chain", n), func(b *testing.B) {
			all := make([]authgraph.Index, n)
			for i := range all {
				all[i] = authgraph.Index(i)
			}
			for b.Loop() {
				if _, err := g.Chain(all, n); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
