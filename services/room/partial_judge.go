package room

import (
	"context"
	"errors"

	"hanse/pkg/resolve"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

// verdict makes what is judged from now on see a new verdict.
func (d *redo) verdict(old *roomdb.Event, e *newEvent) {
	now := old.Copy()
	now.SID, now.Flags, now.Replaces, now.Auth = e.sid, e.flags, e.replaces, e.auth
	if e.flags != 0 {
		now.Ord = 0
	}
	d.w.redone[e.nid] = now
	if (old.Flags^e.flags)&flagRejected != 0 {
		d.w.resolved = memo{} // it holds for the verdict of before
	}
}

// note keeps a new verdict.
func (d *redo) note(old *roomdb.Event, e *newEvent) {
	d.verdict(old, e)
	// What was redacted meanwhile is not shown any more, and history has its place among what came with it or none.
	if old.Flags != 0 && e.flags == 0 && old.RedactedBy == 0 && !e.history {
		d.late = append(d.late, e)
		return
	}
	d.order = append(d.order, &redoneEvent{nid: e.nid, sid: e.sid, replaces: e.replaces, flags: e.flags})
}

// judge gives an event that stands at a place its new verdict.
func (d *redo) judge(ctx context.Context, old *roomdb.Event, e *newEvent, at place) error {
	w := d.w
	before, err := w.stateBefore(ctx, e, at)
	if errors.Is(err, resolve.ErrBudget) {
		before, at.guessed, err = d.standIn(at.history), true, nil
	}
	if err != nil {
		return err
	}
	m := state.Map{} // before the create event
	if before != nil {
		m, e.sid = before.Map(), before.SID()
	}
	refusal, err := w.judge(ctx, e, m, at.history)
	if err != nil {
		return err
	}
	if at.guessed {
		d.guessed++
	}
	// What our users sent stands upon what we had, which was the room to us.
	if (at.guessed || at.doubtful) && !at.history && !d.f.s.localUser(e.pdu.Sender) {
		d.doubt[e.nid] = true
	}
	if refusal == nil && d.doubt[e.nid] && e.pdu.IsState() {
		e.flags |= flagSoftFailed
		refusal = errNoState
	}
	if refusal != nil {
		w.s.log.Debug("event refused by the whole state", "event", old.ID, "flags", e.flags, "was", old.Flags, "err", refusal)
		return d.refuse(old, e, before, m)
	}
	after, err := w.stateAfter(e, before, m)
	if err != nil {
		return err
	}
	return d.accept(ctx, old, e, after)
}

// refuse notes an event that is no part of the room. One that is soft-failed has a state after it, for those that follow.
func (d *redo) refuse(old *roomdb.Event, e *newEvent, before *state.Snapshot, m state.Map) error {
	d.note(old, e)
	if before == nil {
		return nil
	}
	_, err := d.w.stateAfter(e, before, m)
	return err
}

// accept makes an event part of the own head, as extendFork does with the room's.
func (d *redo) accept(ctx context.Context, old *roomdb.Event, e *newEvent, after *state.Snapshot) error {
	known := d.named[old.ID]
	for _, p := range old.PrevEvents {
		d.named[p] = true
	}
	if e.history || known || d.doubt[e.nid] {
		d.note(old, e)
		return nil
	}
	e.replaces = replaced(e, d.w.h.state)
	d.verdict(old, e)
	tips, snap, err := d.standAfter(ctx, e, after)
	if errors.Is(err, resolve.ErrBudget) {
		e.flags |= flagSoftFailed // as an event that arrives would not be taken
		d.note(old, e)
		return nil
	}
	if err != nil {
		return err
	}
	d.note(old, e)
	d.stand(snap, tips)
	return nil
}

// standAfter works out where the own head stands once an event is one of its ends.
func (d *redo) standAfter(ctx context.Context, e *newEvent, after *state.Snapshot) ([]tip, *state.Snapshot, error) {
	tips, snaps, err := d.w.tipsAfter(ctx, e, after, true)
	if err != nil {
		return nil, nil, err
	}
	next, err := d.w.resolveSnaps(ctx, snaps)
	if err != nil {
		return nil, nil, err
	}
	snap, err := d.w.merge(snaps, next)
	return tips, snap, err
}
