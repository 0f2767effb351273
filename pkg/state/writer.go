package state

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// ErrCollected is returned for a snapshot that Collect has removed: the caller held
// on to it without saying so. Read the state anew from an event or room row.
var ErrCollected = errors.New("snapshot was collected")

// Writer makes snapshots for the partitions that a process owns. It knows of the
// garbage collections under way in it; use one Writer per process.
type Writer struct {
	store *Store

	mu    sync.Mutex
	runs  map[uint32]*run // collections under way, by partition
	batch int             // how many snapshots a collection deletes at once
}

// run is what a collection must know about snapshots that came into use since it
// began.
type run struct {
	used, dead map[int64]struct{}
}

// NewWriter returns a writer whose Open reads through store.
func NewWriter(store *Store) *Writer {
	return &Writer{store: store, runs: map[uint32]*run{}, batch: collectBatch}
}

// Batch starts the collection of rows for one transaction.
func (w *Writer) Batch() *Batch { return &Batch{w: w} }

// use notes that snapshots are referred to from now on.
func (w *Writer) use(part uint32, sids ...int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.runs[part]
	if r == nil {
		return nil
	}
	for _, sid := range sids {
		if _, dead := r.dead[sid]; dead {
			return fmt.Errorf("snapshot %d/%d: %w", part, sid, ErrCollected)
		}
	}
	for _, sid := range sids {
		r.used[sid] = struct{}{}
	}
	return nil
}

// Open reads a snapshot to go on from: after a takeover, or when an old state gets a
// new child. It costs a cold load; keep the Snapshot while the room is active.
func (w *Writer) Open(ctx context.Context, db Querier, part uint32, sid int64) (*Snapshot, error) {
	paths, err := walkPaths(ctx, db, []Ref{{part, sid}})
	if err != nil {
		return nil, err
	}
	p := paths[0]
	if err := p.complete(); err != nil {
		return nil, err
	}
	sids := make([]int64, len(p.hops))
	for i, h := range p.hops {
		sids[i] = h.sid
	}
	if err := w.use(part, sids...); err != nil {
		return nil, err
	}
	if err := fetchPayloads(ctx, db, missing(part, p.hops)); err != nil {
		return nil, err
	}
	var s *Snapshot
	for i := len(p.hops) - 1; i >= 0; i-- {
		h := p.hops[i]
		es, err := decode(h.sid, h.payload)
		if err != nil {
			return nil, fmt.Errorf("snapshot %d/%d: %w", part, h.sid, err)
		}
		if s == nil {
			s = newRoot(part, h.sid, Map{}.apply(es))
			continue
		}
		a := anchor{sid: h.sid, m: s.at.m.apply(es), depth: s.at.depth + h.span, weight: s.at.weight + len(es)}
		s = &Snapshot{part: part, at: a, base: s.base, marks: s.reach(a, h.span)}
	}
	s.at.m.ID() // hash it now, rather than in the first Diff
	if w.store != nil {
		w.store.Put(part, sid, s.at.m, 0)
	}
	return s, nil
}
