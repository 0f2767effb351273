package state_test

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"hanse/pkg/pg/pgtest"
	"hanse/pkg/state"
)

// own takes the partition, as its owner does.
func own(t *testing.T, db *pgxpool.Pool) int64 {
	t.Helper()
	var epoch int64
	err := db.QueryRow(context.Background(), `INSERT INTO partition (part, epoch) VALUES ($1, 1)
		ON CONFLICT (part) DO UPDATE SET epoch = partition.epoch + 1 RETURNING epoch`, part).Scan(&epoch)
	if err != nil {
		t.Fatal(err)
	}
	return epoch
}

// refer makes log entries and a room that refer to snapshots.
func refer(t *testing.T, db *pgxpool.Pool, sids ...int64) {
	t.Helper()
	for _, sid := range sids {
		_, err := db.Exec(context.Background(), `INSERT INTO log (part, pos, room_nid, kind, event_nid, current_before, current_after)
			SELECT $1, coalesce(max(pos), 0) + 1, 1, 1, 1, $2, $2 FROM log WHERE part = $1`, part, sid)
		if err != nil {
			t.Fatal(err)
		}
	}
}

func stored(t *testing.T, db *pgxpool.Pool) map[int64]bool {
	t.Helper()
	rows, err := db.Query(context.Background(), `SELECT sid FROM state_delta WHERE part = $1 UNION ALL SELECT sid FROM state_seg WHERE part = $1`, part)
	if err != nil {
		t.Fatal(err)
	}
	sids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		t.Fatal(err)
	}
	out := map[int64]bool{}
	for _, sid := range sids {
		out[sid] = true
	}
	return out
}

// grow adds n children at random recent places.
func (h *history) grow(t *testing.T, db *pgxpool.Pool, rng *rand.Rand, n int) {
	b := h.w.Batch()
	for range n {
		tip := h.snaps[max(0, len(h.snaps)-1-rng.IntN(4))]
		s, err := b.Child(tip, h.next, tip.Map().Set(member(rng.IntN(60)), h.next))
		h.add(t, s, err)
	}
	commit(t, db, b, true)
}

func startHistory(t *testing.T, db *pgxpool.Pool) *history {
	h := newHistory(state.NewWriter(nil), 1)
	b := h.w.Batch()
	s, err := b.Root(part, h.next, state.Map{}.Set(member(1), 1))
	h.add(t, s, err)
	commit(t, db, b, true)
	return h
}

func TestCollect(t *testing.T) {
	db := pgtest.New(t).For(part)
	ctx := context.Background()
	rng := rand.New(rand.NewPCG(5, 5))
	epoch := own(t, db)
	h := startHistory(t, db)
	live := map[int64]bool{}
	for round := range 6 {
		h.grow(t, db, rng, 400)
		for range 5 {
			s := h.snaps[len(h.snaps)-1-rng.IntN(400)]
			live[s.SID()] = true
			refer(t, db, s.SID())
		}
		held := h.snaps[len(h.snaps)-4:]
		n, err := h.w.Collect(ctx, db, state.Collection{Part: part, Epoch: epoch, Held: func(context.Context) ([]int64, error) {
			var sids []int64
			for _, s := range held {
				sids = append(sids, s.SID())
			}
			return sids, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		if n < 150 {
			t.Errorf("round %d: only %d of 400 removed", round, n)
		}
		store := state.NewStore(state.DefaultConfig(), nil)
		for _, sid := range append(slices.Collect(maps.Keys(live)), held[0].SID(), held[1].SID(), held[2].SID(), held[3].SID()) {
			m, err := store.Load(ctx, db, part, sid)
			if err != nil || !m.Equal(h.want[sid]) {
				t.Fatalf("round %d: referred snapshot %d: %v", round, sid, err)
			}
			if s, err := h.w.Open(ctx, db, part, sid); err != nil || !s.Map().Equal(h.want[sid]) {
				t.Fatalf("round %d: open %d: %v", round, sid, err)
			}
		}
	}
	if _, err := db.Exec(ctx, `DELETE FROM log WHERE part = $1`, part); err != nil {
		t.Fatal(err)
	}
	if _, err := h.w.Collect(ctx, db, state.Collection{Part: part, Epoch: epoch}); err != nil {
		t.Fatal(err)
	}
	if left := stored(t, db); len(left) != 0 {
		t.Fatalf("%d rows left that nothing refers to", len(left))
	}
}

// slowBeginner runs something between the scan and each deletion.
type slowBeginner struct {
	*pgxpool.Pool
	begun  int
	before func(int)
}

func (s *slowBeginner) BeginTx(ctx context.Context, o pgx.TxOptions) (pgx.Tx, error) {
	s.begun++
	s.before(s.begun)
	return s.Pool.BeginTx(ctx, o)
}

func TestCollectWhileInUse(t *testing.T) {
	db := pgtest.New(t).For(part)
	ctx := context.Background()
	epoch := own(t, db)
	h := startHistory(t, db)
	h.grow(t, db, rand.New(rand.NewPCG(6, 6)), 500)
	var opened, child *state.Snapshot
	slow := &slowBeginner{Pool: db}
	slow.before = func(n int) {
		if n != 2 { // after the scan
			return
		}
		var err error
		if opened, err = h.w.Open(ctx, db, part, h.snaps[300].SID()); err != nil {
			t.Fatal(err)
		}
		b := h.w.Batch()
		child, err = b.Child(opened, h.next, opened.Map().Set(member(99), 99))
		h.add(t, child, err)
		commit(t, db, b, true)
		if _, err := h.w.Collect(ctx, db, state.Collection{Part: part, Epoch: epoch}); !errors.Is(err, state.ErrCollecting) {
			t.Errorf("second collection: %v", err)
		}
	}
	forgotten := h.snaps[499]
	if n, err := h.w.Collect(ctx, slow, state.Collection{Part: part, Epoch: epoch}); err != nil || n == 0 {
		t.Fatalf("%d, %v", n, err)
	}
	store := state.NewStore(state.DefaultConfig(), nil)
	for _, s := range []*state.Snapshot{opened, child} {
		if m, err := store.Load(ctx, db, part, s.SID()); err != nil || !m.Equal(s.Map()) {
			t.Fatalf("snapshot %d came into use during the collection: %v", s.SID(), err)
		}
	}
	if _, err := h.w.Open(ctx, db, part, forgotten.SID()); !errors.Is(err, state.ErrNotFound) {
		t.Fatalf("unused snapshot: %v", err)
	}
}

func TestCollectRefusesDeadParent(t *testing.T) {
	db := pgtest.New(t).For(part)
	ctx := context.Background()
	epoch := own(t, db)
	h := startHistory(t, db)
	h.grow(t, db, rand.New(rand.NewPCG(6, 6)), 1500)
	late := h.snaps[len(h.snaps)-1] // in the first batch of deletions
	slow := &slowBeginner{Pool: db, before: func(n int) {
		if n == 3 {
			if _, err := h.w.Batch().Child(late, h.next, state.Map{}.Set(member(1), 7)); !errors.Is(err, state.ErrCollected) {
				t.Errorf("child of a collected snapshot: %v", err)
			}
		}
	}}
	if _, err := h.w.Collect(ctx, slow, state.Collection{Part: part, Epoch: epoch}); err != nil {
		t.Fatal(err)
	}
}

// An owner that cannot tell what it holds removes nothing, and may try again.
func TestCollectWithoutHeld(t *testing.T) {
	db := pgtest.New(t).For(part)
	ctx := context.Background()
	epoch := own(t, db)
	h := startHistory(t, db)
	h.grow(t, db, rand.New(rand.NewPCG(6, 6)), 50)
	before, busy := len(stored(t, db)), errors.New("busy")
	n, err := h.w.Collect(ctx, db, state.Collection{Part: part, Epoch: epoch, Held: func(context.Context) ([]int64, error) { return nil, busy }})
	if after := len(stored(t, db)); n != 0 || !errors.Is(err, busy) || after != before {
		t.Fatalf("%d removed, %d rows of %d left, %v", n, after, before, err)
	}
	if n, err := h.w.Collect(ctx, db, state.Collection{Part: part, Epoch: epoch}); err != nil || n == 0 {
		t.Fatalf("afterwards: %d, %v", n, err)
	}
}

func TestCollectIsFenced(t *testing.T) {
	db := pgtest.New(t).For(part)
	ctx := context.Background()
	epoch := own(t, db)
	h := startHistory(t, db)
	h.grow(t, db, rand.New(rand.NewPCG(6, 6)), 50)
	before := len(stored(t, db))
	own(t, db) // another owner
	if _, err := h.w.Collect(ctx, db, state.Collection{Part: part, Epoch: epoch}); !errors.Is(err, state.ErrFenced) {
		t.Fatalf("collection by a former owner: %v", err)
	}
	if after := len(stored(t, db)); after != before {
		t.Fatalf("a former owner removed %d rows", before-after)
	}
}
