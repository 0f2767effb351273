package authgraph_test

import (
	"context"
	"testing"

	"hanse/pkg/authgraph"
	"hanse/pkg/growth"
	"hanse/pkg/pg/pgtest"
)

// A graph takes the same for each event, in memory and stored, and is read by the same statements: docs/state.md, "The auth
// graph", BenchmarkLoad.
func TestEventsTakeTheSame(t *testing.T) {
	cfg := pgtest.Config(t, 1)
	counter := pgtest.Counted(&cfg)
	db := pgtest.Open(t, cfg).For(part)
	growth.Flat(t, "an event of a graph", 8_192, 40_960, 1.5, func(n int) growth.Cost {
		room := authgraph.Room{Part: part, NID: int64(n)}
		exec(t, db, `DELETE FROM auth_block`)
		exec(t, db, `DELETE FROM event`)
		copyIn(t, db, int64(n), largeRoom(n))
		load := func() *authgraph.Graph {
			g, err := authgraph.NewStore(1<<20, nil).Load(context.Background(), db, room)
			if err != nil || g.Len() != n {
				t.Fatal(err)
			}
			return g
		}
		load() // stores the blocks
		var g *authgraph.Graph
		statements, rows := counter.Of(func() { g = load() })
		var stored float64
		if err := db.QueryRow(context.Background(), `SELECT sum(length(data))::float8 FROM auth_block`).Scan(&stored); err != nil {
			t.Fatal(err)
		}
		return growth.Cost{"bytes of memory": float64(g.Bytes()) / float64(n), "bytes stored": stored / float64(n),
			"statements to read all": statements, "rows to read it": rows / float64(n)}
	})
}
