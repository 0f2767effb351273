package room

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

// redoChunk is how many events are judged again while the room is locked.
const redoChunk = 100

// redo judges the events since our join again, by the whole state, in the order in which they came. It keeps a head of its
// own for that, on which the room stands as if it had known its members all the time; the room itself goes on meanwhile.
// When it has caught up, the room takes over that head, all in one change.
type redo struct {
	f    *fill
	r    *room
	w    *writer
	st   *wholeState
	base *state.Snapshot // before our join
	// named are the events that those judged so far follow; n is the last row of partial_event that was read.
	named map[id.Event]bool
	n     int64
	order []*redoneEvent
	late  []*newEvent // were refused, and are not any more
}

func (f *fill) redo(ctx context.Context, st *wholeState) error {
	base, err := f.storeBase(ctx, st)
	if err != nil {
		return err
	}
	if err := f.countAhead(ctx, st); err != nil {
		return err
	}
	d := &redo{f: f, st: st, base: base, named: make(map[id.Event]bool)}
	if err := d.begin(ctx); err != nil {
		return err
	}
	for {
		if err := f.step(ctx, "redo_chunk"); err != nil {
			return err
		}
		done, err := d.chunk(ctx)
		if err != nil || done {
			return err
		}
	}
}

// storeBase stores the whole state before anything refers to it. As it is large it is not written by the lane, which only
// makes its number ours for good: a row under a number that nobody else is given, and that nothing refers to, needs no
// fence.
func (f *fill) storeBase(ctx context.Context, st *wholeState) (*state.Snapshot, error) {
	r, err := f.lock(ctx)
	if err != nil {
		return nil, err
	}
	w := f.s.newWriter(ctx, r)
	sid := w.nid()
	w.c.bulk = true
	err = w.put()
	r.unlock()
	if err != nil {
		return nil, err
	}
	if err := w.c.wait(ctx); err != nil {
		return nil, err
	}
	batch := f.s.states.Batch()
	base, err := batch.Root(f.p.part, sid, st.m)
	if err != nil {
		return nil, err
	}
	var q pgx.Batch
	batch.Queue(&q)
	if err := f.s.shards.For(f.p.part).SendBatch(ctx, &q).Close(); err != nil {
		return nil, fmt.Errorf("store the whole state: %w", err)
	}
	return base, nil
}

// begin puts our join upon the whole state.
func (d *redo) begin(ctx context.Context) error {
	r, err := d.f.lock(ctx)
	if err != nil {
		return err
	}
	defer r.unlock()
	d.r, d.w = r, d.f.s.newWriter(ctx, r)
	d.w.redone = make(map[int64]*roomdb.Event)
	d.w.h = head{snap: d.base, state: d.base.Map(), sid: d.base.SID()}
	join := d.f.join
	e := &newEvent{pdu: join.PDU, nid: join.NID, sid: d.base.SID(), auth: join.Auth, prev: join.Prev}
	after, err := d.w.stateAfter(e, d.base, d.base.Map())
	if err != nil {
		return err
	}
	e.replaces = replaced(e, d.w.h.state)
	d.note(join, e)
	d.stand(after, []tip{{join.NID, join.PDU}})
	return nil
}

// stand moves the own head.
func (d *redo) stand(snap *state.Snapshot, tips []tip) {
	d.w.h.snap, d.w.h.state, d.w.h.sid, d.w.h.tips = snap, snap.Map(), snap.SID(), tips
}

// replaced is the state event that an event takes the place of.
func replaced(e *newEvent, in state.Map) int64 {
	if !e.pdu.IsState() {
		return 0
	}
	nid, _ := in.Get(state.Key(e.pdu.Tuple()))
	return nid
}

// note keeps a new verdict.
func (d *redo) note(old *roomdb.Event, e *newEvent) {
	now := &roomdb.Event{PDU: old.PDU, Unredacted: old.Unredacted, Part: old.Part, RoomNID: old.RoomNID, NID: old.NID, SID: e.sid, Flags: e.flags,
		NotifySeq: old.NotifySeq, Replaces: e.replaces, RedactedBy: old.RedactedBy, Cause: old.Cause, Auth: e.auth, Prev: old.Prev}
	if e.flags == 0 {
		now.Ord = old.Ord
	}
	d.w.redone[e.nid] = now
	if (old.Flags^e.flags)&flagRejected != 0 {
		d.w.resolved = memo{} // it holds for the verdict of before
	}
	// What was redacted meanwhile is not shown any more, and history has its place among what came with it or none.
	if old.Flags != 0 && e.flags == 0 && old.RedactedBy == 0 && !e.history {
		d.late = append(d.late, e)
		return
	}
	d.order = append(d.order, &redoneEvent{nid: e.nid, sid: e.sid, replaces: e.replaces, flags: e.flags})
}

// chunk judges some events. When there are no more it takes the room over, and is done.
func (d *redo) chunk(ctx context.Context) (done bool, err error) {
	r, err := d.f.lock(ctx)
	if err != nil {
		return false, err
	}
	if r != d.r {
		r.unlock()
		return false, fmt.Errorf("judge events of %s: %w", d.f.roomID, errStale)
	}
	c, err := d.locked(ctx)
	r.unlock()
	if err != nil || c == nil {
		return false, err
	}
	if err := c.wait(ctx); err != nil {
		d.forget()
		return false, err
	}
	return true, d.f.s.dropSpool(ctx, d.f.p.part, r.nid)
}

// forget drops verdicts that were not written.
func (d *redo) forget() {
	for nid := range d.w.redone {
		d.f.s.cache.Remove(eventKey{d.f.p.part, d.f.p.epoch, nid})
	}
}

func (d *redo) locked(ctx context.Context) (*change, error) {
	rows, err := d.f.unsure(ctx, d.n)
	if err != nil {
		return nil, err
	}
	if len(rows) < redoChunk {
		// Nearly there: what is queued is the rest.
		if err := d.r.settle(ctx); err != nil {
			return nil, err
		}
		if rows, err = d.f.unsure(ctx, d.n); err != nil {
			return nil, err
		}
	}
	for _, u := range rows {
		if err := d.one(ctx, u); err != nil {
			return nil, err
		}
		d.n = u.n
	}
	if len(rows) >= redoChunk {
		return nil, nil
	}
	return d.finish(ctx)
}

// unsure reads the next events that were judged by the partial state.
func (f *fill) unsure(ctx context.Context, after int64) ([]unsureEvent, error) {
	rows, err := f.s.shards.For(f.p.part).Query(ctx, sqlUnsure, int32(f.p.part), f.nid, after, redoChunk)
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (unsureEvent, error) {
		var u unsureEvent
		err := row.Scan(&u.n, &u.nid, &u.history)
		return u, err
	})
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	return out, nil
}

// one judges an event anew, upon the states that those before it have by now.
func (d *redo) one(ctx context.Context, u unsureEvent) error {
	w := d.w
	old, err := w.s.event(ctx, w.r.p, u.nid)
	if err != nil {
		return err
	}
	at := place{history: u.history}
	for _, nid := range old.Prev {
		prev, err := w.s.event(ctx, w.r.p, nid)
		if err != nil {
			return err
		}
		at.prev = append(at.prev, w.present(prev))
	}
	switch {
	case len(old.Prev) == len(old.PrevEvents):
	case u.history:
		at.also = []*state.Snapshot{d.base}
	default:
		at.also = []*state.Snapshot{w.h.snap}
	}
	e := &newEvent{pdu: old.PDU, nid: old.NID, prev: old.Prev, ord: old.Ord, history: u.history}
	before, err := w.stateBefore(ctx, e, at)
	if err != nil {
		return err
	}
	m := state.Map{} // before the create event
	if before != nil {
		m, e.sid = before.Map(), before.SID()
	}
	refusal, err := w.judge(ctx, e, m, u.history)
	if err != nil {
		return err
	}
	if refusal != nil {
		w.s.log.Debug("event refused by the whole state", "event", old.ID, "flags", e.flags, "was", old.Flags, "err", refusal)
		if before != nil {
			w.afters[e.nid] = before
		}
		d.note(old, e)
		return nil
	}
	after, err := w.stateAfter(e, before, m)
	if err != nil {
		return err
	}
	return d.accept(ctx, old, e, after, u.history)
}

// accept makes an event part of the own head, as extendFork does with the room's.
func (d *redo) accept(ctx context.Context, old *roomdb.Event, e *newEvent, after *state.Snapshot, history bool) error {
	w := d.w
	known := d.named[old.ID]
	for _, p := range old.PrevEvents {
		d.named[p] = true
	}
	if history || known {
		d.note(old, e)
		return nil
	}
	e.replaces = replaced(e, w.h.state)
	d.note(old, e)
	tips, snaps, err := w.tipsAfter(ctx, e, after, true)
	if err != nil {
		return err
	}
	next, err := w.resolveSnaps(ctx, snaps)
	if err != nil {
		return err
	}
	snap, err := w.merge(snaps, next)
	if err != nil {
		return err
	}
	d.stand(snap, tips)
	return nil
}
