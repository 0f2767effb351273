package state_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"pgregory.net/rapid"

	"hanse/pkg/pg/pgtest"
	"hanse/pkg/state"
)

const part = 7

func member(i int) state.Key {
	return state.Key{Type: "m.room.member", StateKey: fmt.Sprintf("@user%d:server%d.example", i, i%7)}
}

// history is a DAG of snapshots as a room's owner makes it, and what each must hold.
type history struct {
	w     *state.Writer
	next  int64
	snaps []*state.Snapshot
	want  map[int64]state.Map
}

func newHistory(w *state.Writer, sid int64) *history {
	return &history{w: w, next: sid, want: map[int64]state.Map{}}
}

func (h *history) add(t fatal, s *state.Snapshot, err error) *state.Snapshot {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	h.next++
	h.snaps = append(h.snaps, s)
	h.want[s.SID()] = s.Map()
	return s
}

type fatal interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

func commit(t fatal, db *pgxpool.Pool, b *state.Batch, later bool) {
	t.Helper()
	q := &pgx.Batch{}
	b.Queue(q)
	if q.Len() > 2 {
		t.Fatalf("%d statements", q.Len())
	}
	ctx := context.Background()
	if q.Len() > 0 {
		if err := db.SendBatch(ctx, q).Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, seg := range b.Later() {
		if later {
			if err := errors.Join(seg.Store(ctx, db), seg.Store(ctx, db)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestPersistenceRoundTrip(t *testing.T) {
	db := pgtest.New(t).For(part)
	sid := int64(1)
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		w := state.NewWriter(nil)
		h := newHistory(w, sid)
		loseSegments := rapid.Bool().Draw(t, "lose large segments")
		small := rapid.Bool().Draw(t, "small room")
		keys := 400
		if small {
			keys = 12
		}
		b := w.Batch()
		var first state.Map
		for range rapid.IntRange(0, 300).Draw(t, "first") {
			first = first.Set(member(rapid.IntRange(0, keys).Draw(t, "key")), h.next)
		}
		s, err := b.Root(part, h.next, first)
		h.add(t, s, err)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		for range rapid.IntRange(0, 700).Draw(t, "steps") {
			tip := h.snaps[max(0, len(h.snaps)-1-rng.IntN(3))]
			switch op := rng.IntN(100); {
			case op < 2: // a merge of two states
				other := h.snaps[rng.IntN(len(h.snaps))]
				m := tip.Map()
				for c := range state.Diff(tip.Map(), other.Map()) {
					if rng.IntN(2) == 0 {
						m = m.Set(c.Key, c.New)
					}
				}
				s, err := b.Merge([]*state.Snapshot{other, tip}, h.next, m)
				h.add(t, s, err)
			case op < 4: // the owner restarts
				commit(t, db, b, !loseSegments)
				b = w.Batch()
				s, err := w.Open(ctx, db, part, tip.SID())
				if err != nil {
					t.Fatal(err)
				}
				if !s.Map().Equal(tip.Map()) {
					t.Fatalf("Open %d: other state", tip.SID())
				}
				h.snaps = append(h.snaps, s)
			case op < 10:
				s, err := b.Child(tip, h.next, tip.Map().Delete(member(rng.IntN(keys))))
				h.add(t, s, err)
			default:
				s, err := b.Child(tip, h.next, tip.Map().Set(member(rng.IntN(keys)), h.next))
				h.add(t, s, err)
			}
		}
		commit(t, db, b, !loseSegments)
		sid = h.next
		checkReads(t, db, h, rng)
	})
}

// checkReads reads every snapshot through stores in several states of their caches.
func checkReads(t *rapid.T, db *pgxpool.Pool, h *history, rng *rand.Rand) {
	ctx := context.Background()
	sids := slices.Sorted(maps.Keys(h.want))
	one := state.NewStore(state.DefaultConfig(), nil)
	tiny := state.NewStore(state.Config{Cache: 50_000}, nil)
	var refs []state.Ref
	for _, i := range rng.Perm(len(sids))[:min(len(sids), 40)] {
		refs = append(refs, state.Ref{Part: part, SID: sids[i]})
		for _, s := range []*state.Store{one, tiny} {
			m, err := s.Load(ctx, db, part, sids[i])
			if err != nil {
				t.Fatal(err)
			}
			if m.ID() != h.want[sids[i]].ID() {
				t.Fatalf("snapshot %d: other state", sids[i])
			}
		}
	}
	if tiny.Bytes() > 50_000 {
		t.Fatalf("cache holds %d bytes", tiny.Bytes())
	}
	ms, err := state.NewStore(state.DefaultConfig(), nil).LoadMany(ctx, db, append(refs, refs[0], state.Ref{Part: part}))
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range refs {
		if !ms[ref].Equal(h.want[ref.SID]) {
			t.Fatalf("LoadMany %d: other state", ref.SID)
		}
	}
}

func TestLoadNotFound(t *testing.T) {
	db := pgtest.New(t).For(part)
	ctx := context.Background()
	s := state.NewStore(state.DefaultConfig(), nil)
	if m, err := s.Load(ctx, db, part, 0); err != nil || m.Len() != 0 {
		t.Fatalf("snapshot 0: %v, %v", m.Len(), err)
	}
	for range 2 {
		if _, err := s.Load(ctx, db, part, 12345); !errors.Is(err, state.ErrNotFound) {
			t.Fatalf("absent snapshot: %v", err)
		}
	}
	if _, err := state.NewWriter(s).Open(ctx, db, part, 12345); !errors.Is(err, state.ErrNotFound) {
		t.Fatalf("absent snapshot: %v", err)
	}
}

// countingDB counts the queries that reach PostgreSQL.
type countingDB struct {
	*pgxpool.Pool
	n int
}

func (c *countingDB) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	c.n++
	return c.Pool.Query(ctx, sql, args...)
}

func TestQueriesPerLoad(t *testing.T) {
	db := &countingDB{Pool: pgtest.New(t).For(part)}
	ctx := context.Background()
	w := state.NewWriter(nil)
	b := w.Batch()
	h := newHistory(w, 1)
	var m state.Map
	for i := range 5000 {
		m = m.Set(member(i), int64(i+1))
	}
	s, err := b.Root(part, h.next, m)
	h.add(t, s, err)
	for range 3000 {
		tip := h.snaps[len(h.snaps)-1]
		s, err := b.Child(tip, h.next, tip.Map().Set(member(int(h.next*7)%5000), h.next))
		h.add(t, s, err)
	}
	commit(t, db.Pool, b, true)
	last := h.snaps[len(h.snaps)-1].SID()
	store := state.NewStore(state.DefaultConfig(), nil)
	expect := func(what string, sid int64, most int) {
		t.Helper()
		db.n = 0
		got, err := store.Load(ctx, db, part, sid)
		if err != nil || !got.Equal(h.want[sid]) {
			t.Fatalf("%s: %v", what, err)
		}
		if db.n > most {
			t.Errorf("%s took %d queries; want at most %d", what, db.n, most)
		}
	}
	expect("cold", last-40, 2)
	expect("cached", last-40, 0)
	expect("child of cached", last-39, 1)
	expect("near descendant", last-10, 1)
	expect("older sibling, by a leap point that is cached", last-300, 3)
}

func TestConcurrentLoads(t *testing.T) {
	db := pgtest.New(t).For(part)
	w := state.NewWriter(nil)
	b := w.Batch()
	h := newHistory(w, 1)
	s, err := b.Root(part, h.next, state.Map{}.Set(member(1), 1))
	h.add(t, s, err)
	for i := range 500 {
		tip := h.snaps[len(h.snaps)-1]
		s, err := b.Child(tip, h.next, tip.Map().Set(member(i), h.next))
		h.add(t, s, err)
	}
	commit(t, db, b, true)
	store := state.NewStore(state.Config{Cache: 100_000}, nil)
	errs := make(chan error)
	for g := range 8 {
		go func() {
			rng := rand.New(rand.NewPCG(uint64(g), 1))
			for range 50 {
				var refs []state.Ref
				for range 3 {
					refs = append(refs, state.Ref{Part: part, SID: h.snaps[rng.IntN(len(h.snaps))].SID()})
				}
				ctx, cancel := context.WithCancel(context.Background())
				if rng.IntN(10) == 0 {
					cancel() // must not disturb those who wait for the same snapshot
				}
				ms, err := store.LoadMany(ctx, db, refs)
				canceled := ctx.Err() != nil
				cancel()
				for _, r := range refs {
					if err == nil && !ms[r].Equal(h.want[r.SID]) {
						err = fmt.Errorf("snapshot %d: other state", r.SID)
					}
				}
				if err != nil && !canceled {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range 8 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestOrderOfNumbers(t *testing.T) {
	w := state.NewWriter(nil)
	b := w.Batch()
	s, err := b.Root(part, 5, state.Map{}.Set(member(1), 1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Child(s, 5, s.Map().Set(member(2), 2)); !errors.Is(err, state.ErrOrder) {
		t.Fatalf("child with its parent's number: %v", err)
	}
	if c, err := b.Child(s, 4, s.Map().Set(member(1), 1)); err != nil || c != s {
		t.Fatalf("child without changes: %v, %v", c, err)
	}
	if b.Len() != 1 {
		t.Fatalf("%d rows", b.Len())
	}
}

// hookedDB calls before ahead of each query.
type hookedDB struct {
	*pgxpool.Pool
	n      int
	before func(n int)
}

func (h *hookedDB) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	h.n++
	h.before(h.n)
	return h.Pool.Query(ctx, sql, args...)
}

func TestSegmentStoredDuringLoad(t *testing.T) {
	db := pgtest.New(t).For(part)
	ctx := context.Background()
	b := state.NewWriter(nil).Batch()
	var first, second state.Map
	for i := range 6000 {
		first = first.Set(member(i), 1)
		second = second.Set(member(i+3000), 2)
	}
	root, err := b.Root(part, 10, first)
	if err != nil {
		t.Fatal(err)
	}
	child, err := b.Child(root, 20, second)
	if err != nil {
		t.Fatal(err)
	}
	commit(t, db, b, false)
	if len(b.Later()) != 1 {
		t.Fatalf("%d segments left for later; want the new base", len(b.Later()))
	}
	hooked := &hookedDB{Pool: db, before: func(n int) {
		if n == 2 { // between the walk and the payloads
			if err := b.Later()[0].Store(ctx, db); err != nil {
				t.Error(err)
			}
		}
	}}
	for range 2 { // without the segment, then by it
		m, err := state.NewStore(state.DefaultConfig(), nil).Load(ctx, hooked, part, child.SID())
		if err != nil || !m.Equal(second) {
			t.Fatalf("other state: %v", err)
		}
	}
}

// TestReadAmplification: a cold load reads the base and at most as much again.
func TestReadAmplification(t *testing.T) {
	db := pgtest.New(t).For(part)
	rng := rand.New(rand.NewPCG(9, 9))
	for _, n := range []int{10, 500, 6000} {
		b := state.NewWriter(nil).Batch()
		sid := int64(n) * 1_000_000
		var m state.Map
		for i := range n {
			m = m.Set(member(i), sid)
		}
		s, err := b.Root(part, sid, m)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 10_000 {
			sid++
			if s, err = b.Child(s, sid, s.Map().Set(member(rng.IntN(n)), sid)); err != nil {
				t.Fatal(err)
			}
			if i%1777 != 0 && i != 9_999 {
				continue
			}
			commit(t, db, b, true)
			b = state.NewWriter(nil).Batch()
			reg := prometheus.NewRegistry()
			if _, err := state.NewStore(state.DefaultConfig(), reg).Load(context.Background(), db, part, sid); err != nil {
				t.Fatal(err)
			}
			if read, most := counter(t, reg, "hanse_state_entries_read_total"), float64(n+max(n, 256)); read > most {
				t.Errorf("N=%d: %v entries read after %d changes; want at most %v", n, read, i, most)
			}
		}
	}
}

func counter(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}
