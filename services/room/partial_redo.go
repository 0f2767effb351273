package room

import (
	"context"
	"fmt"
	"slices"

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
	review
	f    *fill
	st   *wholeState
	base *state.Snapshot // before our join
	// n is the last row of partial_event that was read.
	n int64

	// rows are those that were read and not looked at yet; stack is the event at hand, upon it what must be judged before
	// it, and so on. waits are those that were on the stack below others.
	rows, stack []unsureEvent
	waits       map[int64]bool
	// told is what other servers said of states, snaps what has a number of that, gap what they are to be asked.
	told  *bridges
	snaps map[state.ID]*state.Snapshot
	gap   *gap
}

func (f *fill) redo(ctx context.Context, st *wholeState) error {
	f.p.judging.Add(1)
	defer f.p.judging.Add(-1)
	base, err := f.storeBase(ctx, st)
	if err != nil {
		return err
	}
	if err := f.countAhead(ctx, st); err != nil {
		return err
	}
	d := &redo{f: f, st: st, base: base, waits: make(map[int64]bool), snaps: make(map[state.ID]*state.Snapshot),
		review: review{named: make(map[id.Event]bool), doubt: make(map[int64]bool)}}
	d.standIn = d.standsIn
	if d.told, err = f.newBridges(ctx, st.m); err != nil {
		return err
	}
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
		if d.gap == nil {
			continue
		}
		if err := d.told.bridge(ctx, d.gap); err != nil {
			return err
		}
		d.gap = nil
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
	if err := d.f.still(r); err != nil {
		return err
	}
	d.w = d.f.s.newWriter(ctx, r)
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
	for _, p := range join.PrevEvents {
		d.named[p] = true
	}
	d.n = join.NID
	lost, err := d.w.abandoned(ctx, join.NID, d.base.SID())
	if err != nil {
		return err
	}
	for _, e := range lost {
		d.w.redone[e.NID] = e
		d.order = append(d.order, redoneOf(e))
	}
	d.stand(after, []extremity{{join.NID, join.PDU}})
	return nil
}

// chunk judges some events. When there are no more it takes the room over, and is done.
func (d *redo) chunk(ctx context.Context) (done bool, err error) {
	r, err := d.f.lock(ctx)
	if err != nil {
		return false, err
	}
	// The room may have been read anew: what is drafted rests on commits.
	d.w.r, d.w.c.room = r, r
	if err := d.f.still(r); err != nil {
		r.unlock()
		return false, err
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

func (d *redo) locked(ctx context.Context) (*change, error) {
	for range redoChunk {
		u, err := d.next(ctx)
		if err != nil {
			return nil, err
		}
		if u == nil {
			return d.finish(ctx)
		}
		if err := d.one(ctx, *u); err != nil {
			return nil, err
		}
		if d.gap != nil {
			return nil, nil
		}
	}
	return nil, nil
}

// next returns the event that is to be judged; nil if there are no more.
func (d *redo) next(ctx context.Context) (u *unsureEvent, err error) {
	if n := len(d.stack); n > 0 {
		return &d.stack[n-1], nil
	}
	if len(d.rows) == 0 {
		if d.rows, err = d.f.unsure(ctx, d.n); err != nil {
			return nil, err
		}
	}
	if len(d.rows) == 0 {
		// What is queued is the rest.
		if err := d.w.r.waitCommitted(ctx); err != nil {
			return nil, err
		}
		if d.rows, err = d.f.unsure(ctx, d.n); err != nil || len(d.rows) == 0 {
			return nil, err
		}
	}
	d.stack, d.rows = append(d.stack, d.rows[0]), d.rows[1:]
	d.n = d.stack[0].n
	return &d.stack[0], nil
}

// unsure reads the next events that were judged by the partial state.
func (f *fill) unsure(ctx context.Context, after int64) ([]unsureEvent, error) {
	rows, err := f.s.shards.For(f.p.part).Query(ctx, sqlUnsure, int32(f.p.part), f.nid, after, redoChunk)
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	out, err := pgx.CollectRows(rows, scanUnsure)
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	return out, nil
}

func scanUnsure(row pgx.CollectableRow) (unsureEvent, error) {
	var u unsureEvent
	err := row.Scan(&u.n, &u.nid, &u.history)
	return u, err
}

// one judges the event on top of the stack anew, upon the states that those before it have by now; or it finds what must
// be done first.
func (d *redo) one(ctx context.Context, u unsureEvent) error {
	w := d.w
	if w.redone[u.nid] != nil { // others followed it
		d.stack = d.stack[:len(d.stack)-1]
		return nil
	}
	old, err := w.s.event(ctx, w.r.p, u.nid)
	if err != nil {
		return err
	}
	e := &newEvent{pdu: old.PDU, nid: old.NID, ord: old.Ord, history: u.history}
	at, first, g, err := d.parentsOf(ctx, u, e, old)
	if err != nil {
		return err
	}
	if len(first) > 0 {
		slices.Reverse(first)
		d.stack = append(d.stack, first...)
		return nil
	}
	if d.gap = g; g != nil {
		return nil
	}
	d.stack = d.stack[:len(d.stack)-1]
	if len(e.prev) < len(old.PrevEvents) { // others told the state after what is missing, or something stands in for it
		w.c.upon = append(w.c.upon, toldEvent{nid: e.nid, pos: max(0, old.Ord)})
	}
	return d.judge(ctx, old, e, at)
}
