package state_test

import (
	"context"
	"math/rand/v2"
	"testing"

	"hanse/pkg/growth"
	"hanse/pkg/pg/pgtest"
	"hanse/pkg/state"
)

// What is stored of a state event is its change, and what is read of a state whose parent is known is the same: docs/state.md,
// "Storage", BenchmarkPersist and BenchmarkColdLoad.
func TestStoredIsTheChange(t *testing.T) {
	cfg := pgtest.Config(t, 1)
	counter := pgtest.Counted(&cfg)
	db := pgtest.Open(t, cfg).For(part)
	sid := int64(10_000_000)
	const events = 2_000
	growth.Flat(t, "a state event", 100, 10_000, 2.5, func(n int) growth.Cost {
		rng := rand.New(rand.NewPCG(2, 2))
		m, keys := room(n)
		w := state.NewWriter(nil)
		root := w.Batch()
		sid++
		s, err := root.Root(part, sid, m)
		if err != nil {
			t.Fatal(err)
		}
		commit(t, db, root, true)
		stored := func() (bytes float64) {
			if err := db.QueryRow(context.Background(), `SELECT (SELECT sum(octet_length(delta)) FROM state_delta) +
				(SELECT coalesce(sum(octet_length(data)), 0) FROM state_seg)`).Scan(&bytes); err != nil {
				t.Fatal(err)
			}
			return bytes
		}
		before := stored()
		statements, rows := counter.Of(func() {
			for range events / 50 {
				b := w.Batch()
				for range 50 {
					sid++
					if s, err = b.Child(s, sid, s.Map().Set(keys[rng.IntN(n)], sid)); err != nil {
						t.Fatal(err)
					}
				}
				commit(t, db, b, true)
			}
		})
		written := stored() - before
		store := state.NewStore(state.Config{Cache: 1 << 30}, nil)
		if _, err := store.Load(context.Background(), db, part, sid-1); err != nil {
			t.Fatal(err)
		}
		read, readRows := counter.Of(func() {
			if _, err := store.Load(context.Background(), db, part, sid); err != nil {
				t.Fatal(err)
			}
		})
		cold, _ := counter.Of(func() {
			if _, err := state.NewStore(state.DefaultConfig(), nil).Load(context.Background(), db, part, sid); err != nil {
				t.Fatal(err)
			}
		})
		return growth.Cost{"statements": statements / events, "rows": rows / events, "hundreds of bytes": written / events / 100,
			"statements to read it": read, "rows to read it": readRows, "statements to read all": cold}
	})
}
