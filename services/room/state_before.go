package room

import (
	"context"
	"fmt"

	"hanse/pkg/matrix/event"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

// stateBefore returns the state before an event, nil if that is empty: of one prev event the state after it, of
// several the resolution.
func (w *writer) stateBefore(ctx context.Context, e *newEvent, at parents) (*state.Snapshot, error) {
	if len(at.prev)+len(at.fetched)+len(at.also) == 0 {
		if e.pdu.Is(typeCreate, "") {
			return nil, nil
		}
		return nil, fmt.Errorf("event %s: %w", e.pdu.ID, errNoState)
	}
	var snaps []*state.Snapshot
	for _, p := range at.prev {
		if at.only {
			break
		}
		snap, err := w.after(ctx, p)
		if err != nil {
			return nil, err
		}
		snaps = append(snaps, snap)
	}
	snaps = append(snaps, at.also...)
	for _, m := range at.fetched {
		snap, err := w.store(m)
		if err != nil {
			return nil, err
		}
		snaps = append(snaps, snap)
	}
	if len(snaps) == 1 {
		return snaps[0], nil
	}
	m, err := w.resolveSnaps(ctx, snaps)
	if err != nil {
		return nil, err
	}
	return w.merge(snaps, m)
}

// merge gives the resolution of states a snapshot.
func (w *writer) merge(snaps []*state.Snapshot, m state.Map) (*state.Snapshot, error) {
	for _, snap := range append(snaps, w.h.snap) {
		if snap != nil && snap.Map().Equal(m) {
			return snap, nil
		}
	}
	return w.batch().Merge(snaps, w.nid(), m)
}

// store gives a state that came from elsewhere a snapshot.
func (w *writer) store(m state.Map) (*state.Snapshot, error) {
	if w.h.snap == nil {
		return w.batch().Root(w.r.p.part, w.nid(), m)
	}
	if w.h.snap.Map().Equal(m) {
		return w.h.snap, nil
	}
	return w.batch().Child(w.h.snap, w.nid(), m)
}

func (w *writer) batch() *state.Batch {
	if w.c.states == nil {
		w.c.states = w.s.states.Batch()
	}
	return w.c.states
}

// after returns the state after a stored event.
func (w *writer) after(ctx context.Context, ev *roomdb.Event) (*state.Snapshot, error) {
	if len(w.h.extremities) == 1 && w.h.extremities[0].nid == ev.NID {
		return w.h.snap, nil
	}
	if snap := w.afters[ev.NID]; snap != nil {
		return snap, nil
	}
	if snap := w.r.afters[ev.NID]; snap != nil && w.redone == nil {
		return snap, nil
	}
	var before *state.Snapshot
	if ev.SID != 0 {
		var err error
		if before, err = w.open(ctx, ev.SID); err != nil {
			return nil, err
		}
	}
	m := state.Map{}
	if before != nil {
		m = before.Map()
	}
	return w.afterOf(ev.PDU, ev.NID, ev.Flags, before, m)
}

// open reads a snapshot that may also be of this draft.
func (w *writer) open(ctx context.Context, sid int64) (*state.Snapshot, error) {
	if w.h.snap != nil && w.h.sid == sid {
		return w.h.snap, nil
	}
	for _, snap := range w.afters {
		if snap.SID() == sid {
			return snap, nil
		}
	}
	for _, snap := range w.r.afters {
		if snap.SID() == sid {
			return snap, nil
		}
	}
	// Snapshots of changes that are queued are not in PostgreSQL yet.
	if err := w.r.waitCommitted(ctx); err != nil {
		return nil, err
	}
	return w.s.states.Open(ctx, w.s.shards.For(w.r.p.part), w.r.p.part, sid)
}

func (w *writer) stateAfter(e *newEvent, snap *state.Snapshot, before state.Map) (*state.Snapshot, error) {
	return w.afterOf(e.pdu, e.nid, e.flags, snap, before)
}

func (w *writer) afterOf(pdu *event.PDU, nid int64, flags int32, before *state.Snapshot, m state.Map) (*state.Snapshot, error) {
	after := before
	if pdu.IsState() && flags&flagRejected == 0 {
		next := m.Set(state.Key(pdu.Tuple()), nid)
		var err error
		switch {
		case before == nil:
			after, err = w.batch().Root(w.r.p.part, w.nid(), next)
		case w.h.snap != nil && w.h.snap.Map().Equal(next):
			after = w.h.snap
		default:
			after, err = w.batch().Child(before, w.nid(), next)
		}
		if err != nil {
			return nil, fmt.Errorf("snapshot: %w", err)
		}
	}
	if after != nil {
		w.afters[nid] = after
	}
	return after, nil
}

func (w *writer) resolveSnaps(ctx context.Context, snaps []*state.Snapshot) (state.Map, error) {
	return w.resolve(ctx, mapsOf(snaps))
}
