package fedout

import (
	"fmt"
	"testing"

	"hanse/pkg/growth"
)

// An event leaves no row for a server that it goes to, as long as the server answers: docs/architecture.md, law 9, and
// BenchmarkFanout. (What is looked at and noted for destinations goes by the clock, and not by events.)
func TestServersCostNoRows(t *testing.T) {
	growth.Flat(t, "an event", 2, 42, 1, func(servers int) growth.Cost {
		w := newWorld(t)
		var names []string
		var all []*remote
		for range servers {
			r := w.remote()
			names, all = append(names, r.name), append(all, r)
		}
		room := w.room("r", names...)
		w.start("one")
		before := w.rows()
		const events = 10
		for range events {
			ids := room.send("x")
			for _, r := range all {
				r.until("events are missing", func() bool { got := r.events(); return len(got) > 0 && got[len(got)-1] == ids[0] })
			}
		}
		return growth.Cost{"rows left": float64(w.rows()-before) / events}
	})
}

// rows counts those of all tables but where the test writes its events, and where a worker notes what it owns and has read: once for
// each partition, of which there are no more where there are more servers.
func (w *world) rows() (n int) {
	w.t.Helper()
	db := w.shards.For(0)
	found, err := db.Query(w.t.Context(), `SELECT relname FROM pg_stat_user_tables WHERE relname NOT IN ('event', 'log', 'fed_cursor', 'fed_owner')`)
	if err != nil {
		w.t.Fatal(err)
	}
	var tables []string
	for found.Next() {
		var name string
		if err := found.Scan(&name); err != nil {
			w.t.Fatal(err)
		}
		tables = append(tables, name)
	}
	if err := found.Err(); err != nil || len(tables) < 20 {
		w.t.Fatal(tables, err)
	}
	for _, name := range tables {
		var count int
		if err := db.QueryRow(w.t.Context(), fmt.Sprintf(`SELECT count(*) FROM %q`, name)).Scan(&count); err != nil {
			w.t.Fatal(err)
		}
		n += count
	}
	return n
}
