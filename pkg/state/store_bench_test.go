package state_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"hanse/pkg/pg/pgtest"
	"hanse/pkg/state"
)

// room returns a state of n entries like a large public room's.
func room(n int) (state.Map, []state.Key) {
	rng := rand.New(rand.NewPCG(1, uint64(n)))
	names := []string{"alice", "bob", "irc_", "telegram_", "maria.", "x", "dev-", "user"}
	var m state.Map
	keys := make([]state.Key, 0, n)
	for m.Len() < n {
		k := state.Key{Type: "m.room.member", StateKey: fmt.Sprintf("@%s%d:srv%d.example.org", names[rng.IntN(len(names))], rng.IntN(10*n), rng.IntN(1+n/35))}
		m = m.Set(k, 1_000_000+int64(len(keys))*3)
		keys = append(keys, k)
	}
	return m, keys
}

func wal(b *testing.B, db *pgxpool.Pool) (bytes int64) {
	b.Helper()
	if err := db.QueryRow(context.Background(), `SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint`).Scan(&bytes); err != nil {
		b.Fatal(err)
	}
	return bytes
}

func tables(b *testing.B, db *pgxpool.Pool) (total, delta, seg int64) {
	b.Helper()
	err := db.QueryRow(context.Background(), `SELECT pg_total_relation_size('state_delta') + pg_total_relation_size('state_seg'),
		(SELECT coalesce(sum(octet_length(delta)), 0) FROM state_delta WHERE parent > 0),
		(SELECT coalesce(sum(octet_length(data)), 0) FROM state_seg)`).Scan(&total, &delta, &seg)
	if err != nil {
		b.Fatal(err)
	}
	return total, delta, seg
}

// BenchmarkPersist measures one state event at the owner: the new map, its rows, and
// a fiftieth of a transaction. Run it with -benchtime of at least N, so that every
// kind of segment occurs: go test -bench Persist/N=350000 -benchtime 400000x.
func BenchmarkPersist(b *testing.B) {
	for _, n := range []int{100, 10_000, 350_000} {
		for _, churn := range []int{n, 50} {
			b.Run(fmt.Sprintf("N=%d/keys=%d", n, churn), func(b *testing.B) {
				db := pgtest.New(b).For(part)
				rng := rand.New(rand.NewPCG(2, 2))
				m, keys := room(n)
				w := state.NewWriter(nil)
				sid := int64(10_000_000)
				batch := w.Batch()
				s, err := batch.Root(part, sid, m)
				if err != nil {
					b.Fatal(err)
				}
				commit(b, db, batch, true)
				wal0 := wal(b, db)
				total0, _, seg0 := tables(b, db)
				b.ResetTimer()
				for i := 0; i < b.N; {
					batch = w.Batch()
					for range 50 {
						sid += 3 // events that are not state take numbers too
						if s, err = batch.Child(s, sid, s.Map().Set(keys[rng.IntN(churn)], sid-1)); err != nil {
							b.Fatal(err)
						}
						i++
					}
					commit(b, db, batch, true)
				}
				b.StopTimer()
				total, delta, seg := tables(b, db)
				per := func(v int64, unit string) { b.ReportMetric(float64(v)/float64(b.N), unit) }
				per(delta, "deltaB/ev")
				per(seg-seg0, "segB/ev")
				per(total-total0, "tableB/ev")
				per(wal(b, db)-wal0, "walB/ev")
			})
		}
	}
}

// BenchmarkColdLoad reads the newest of many snapshots with an empty cache, as a
// reader and as the new owner of the partition, and a child of a cached one.
func BenchmarkColdLoad(b *testing.B) {
	ctx := context.Background()
	for _, n := range []int{100, 1_000, 10_000, 100_000, 350_000} {
		db := pgtest.New(b).For(part)
		rng := rand.New(rand.NewPCG(2, 2))
		m, keys := room(n)
		w := state.NewWriter(nil)
		batch := w.Batch()
		sid := int64(10_000_000)
		s, err := batch.Root(part, sid, m)
		if err != nil {
			b.Fatal(err)
		}
		for range 3*n/4 + 15 {
			sid += 3
			if s, err = batch.Child(s, sid, s.Map().Set(keys[rng.IntN(n)], sid-1)); err != nil {
				b.Fatal(err)
			}
		}
		commit(b, db, batch, true)
		if _, err := db.Exec(ctx, `ANALYZE state_delta, state_seg`); err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("reader/N=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			store := state.NewStore(state.Config{Cache: 1 << 30}, nil)
			load(b, store, db, sid)
			runtime.GC()
			runtime.ReadMemStats(&after)
			for b.Loop() {
				load(b, state.NewStore(state.DefaultConfig(), nil), db, sid)
			}
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(n), "heapB/entry")
			b.ReportMetric(float64(store.Bytes())/float64(n), "cacheB/entry")
		})
		b.Run(fmt.Sprintf("owner/N=%d", n), func(b *testing.B) {
			for b.Loop() {
				if _, err := w.Open(ctx, db, part, sid); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("child/N=%d", n), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				store := state.NewStore(state.Config{Cache: 1 << 30}, nil)
				store.Put(part, sid-3, s.Map(), 0)
				b.StartTimer()
				load(b, store, db, sid)
			}
		})
	}
}

func load(b *testing.B, s *state.Store, db *pgxpool.Pool, sid int64) {
	b.Helper()
	if _, err := s.Load(context.Background(), db, part, sid); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkInitialSync loads the states of 300 rooms with an empty cache.
func BenchmarkInitialSync(b *testing.B) {
	db := pgtest.New(b).For(part)
	w := state.NewWriter(nil)
	batch := w.Batch()
	sid := int64(0)
	var refs []state.Ref
	for r := range 300 {
		sid++
		n := 20 + r*r/90 // up to 1,000 members
		m, keys := room(n)
		s, err := batch.Root(part, sid, m)
		if err != nil {
			b.Fatal(err)
		}
		for i := range 200 {
			sid++
			if s, err = batch.Child(s, sid, s.Map().Set(keys[i%n], sid)); err != nil {
				b.Fatal(err)
			}
		}
		refs = append(refs, state.Ref{Part: part, SID: s.SID()})
	}
	commit(b, db, batch, true)
	for b.Loop() {
		if _, err := state.NewStore(state.DefaultConfig(), nil).LoadMany(context.Background(), db, refs); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkImport stores a state that arrives whole, as from /send_join.
func BenchmarkImport(b *testing.B) {
	for _, n := range []int{1_000, 100_000, 350_000} {
		db := pgtest.New(b).For(part)
		m, _ := room(n)
		b.Run(fmt.Sprintf("N=%d", n), func(b *testing.B) {
			sid := int64(0)
			w := state.NewWriter(nil)
			for b.Loop() {
				sid++
				batch := w.Batch()
				if _, err := batch.Root(part, sid, m); err != nil {
					b.Fatal(err)
				}
				commit(b, db, batch, true)
			}
			total, _, _ := tables(b, db)
			b.ReportMetric(float64(total)/float64(sid)/float64(n), "B/entry")
		})
	}
}
