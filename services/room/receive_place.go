package room

import (
	"context"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
)

// attach puts the event at its place, with all that it needs at hand.
func (in *intake) attach(ctx context.Context, pdu *event.PDU, states []fetchedState) (v verdict, err error) {
	err = in.buildChange(ctx, func(w *writer) error {
		w.foreign = in.foreign
		e, err := w.receive(ctx, pdu, arrival{states: states, relay: in.relay})
		if v.known = e == nil; !v.known {
			v = w.verdict(e)
		}
		return err
	})
	if err != nil {
		return verdict{}, err
	}
	return v, nil
}

// buildChange queues what is drafted, and sees to it that the forward extremities of the room do not pile up.
func (in *intake) buildChange(ctx context.Context, do func(*writer) error) error {
	extremities, events, err := in.locked(ctx, do)
	if err != nil {
		return err
	}
	for _, e := range events {
		in.s.metrics.pdus.WithLabelValues(outcome(e.flags)).Inc()
	}
	switch {
	case extremities > crowdedExtremities:
		if err := in.s.mergeAll(ctx, in.roomID); passes(err) && ctx.Err() == nil {
			in.s.mergeSoon(in.roomID)
		}
	case extremities > mergeAbove:
		in.s.mergeSoon(in.roomID)
	}
	return nil
}

// locked is what of buildChange is done while the room is locked.
func (in *intake) locked(ctx context.Context, do func(*writer) error) (extremities int, events []*newEvent, err error) {
	err = in.s.buildChange(ctx, in.solvent, in.admitted, func(w *writer) error {
		if in.shallow { // what comes after it may well name it
			w.maxExtremities *= 2
		}
		err := do(w)
		extremities, events = len(w.h.extremities), w.c.events // the lane may be done with the change before we are
		return err
	})
	return extremities, events, err
}

// admitted returns the room, locked.
func (in *intake) admitted(ctx context.Context) (*room, error) {
	return in.s.joinedRoom(ctx, in.roomID)
}

// abandon forgets the verdicts of a draft that is not written on events that are stored.
func (w *writer) abandon() {
	for _, e := range w.c.events {
		w.undo(e)
	}
}

// undo is abandon for one event.
func (w *writer) undo(e *newEvent) {
	w.r.misplaced(e)
	if e.reversed() {
		w.r.forgetResolved()
	}
}

// verdict is what the draft makes of an event of it.
func (w *writer) verdict(e *newEvent) verdict {
	return verdict{flags: e.flags, refusal: e.refusal, event: e, change: w.c, part: w.r.p.part}
}

func outcome(flags int32) string {
	switch {
	case flags&flagRejected != 0:
		return "rejected"
	case flags&flagSoftFailed != 0:
		return "soft_failed"
	}
	return "accepted"
}

// arrival is how an event from elsewhere arrives.
type arrival struct {
	// states are states at the event, or after missing prev events, as another server told them.
	states []fetchedState
	// history says that the event is older than what the room has.
	history bool
	// relay says that this cluster sends the event to the other servers in the room.
	relay bool
	// why is the cause of a local request that made the event.
	why cause
}

// receive drafts an event from elsewhere; nil if it is known by now.
func (w *writer) receive(ctx context.Context, pdu *event.PDU, how arrival) (*newEvent, error) {
	if _, looked := w.awaits[pdu.ID]; !looked {
		if err := w.lookUp(ctx, pdu); err != nil {
			return nil, err
		}
	}
	found, err := w.stored(ctx, append([]id.Event{pdu.ID}, pdu.PrevEvents...))
	if err != nil {
		return nil, err
	}
	e := &newEvent{pdu: pdu, cause: how.why.at(0), why: how.why}
	if old := found[pdu.ID]; old == nil {
		if err := w.unclaimed(ctx, pdu.ID); err != nil {
			return nil, err
		}
		e.nid = w.nid()
	} else if old.Flags&flagOutlier != 0 {
		e.nid, e.rowExists, e.was = old.NID, true, old.Flags
	} else {
		return nil, nil
	}
	at := parents{history: how.history}
	for _, p := range pdu.PrevEvents {
		if ev := found[p]; ev != nil && ev.Flags&flagOutlier == 0 {
			at.prev = append(at.prev, ev)
		} else {
			at.missing = append(at.missing, p)
		}
	}
	if e.told = len(how.states) > 0 && len(at.missing) > 0; e.told {
		w.s.metrics.told.Inc()
	}
	if len(at.missing) == 0 { // they have come meanwhile
		how.states = nil
	}
	for _, st := range how.states {
		if st.after == "" && st.before == pdu.ID {
			at.only = true // the state before this very event: the prev events that we hold add nothing
		}
		at.fetched = append(at.fetched, st.Map)
	}
	if w.h.partial() && len(at.missing) > 0 {
		stand, err := w.standIn(ctx, how.history)
		if err != nil {
			return nil, err
		}
		at.also = append(at.also, stand)
	}
	if err := w.awaited(ctx, e); err != nil {
		return nil, err
	}
	at.lacked, at.known = w.awaits[pdu.ID].lacked, w.awaits[pdu.ID].named
	lacks, got, unsure := len(w.c.lacks), len(w.c.found), len(w.c.partial.unsure)
	if err := w.attach(ctx, e, at, how.relay); err != nil {
		// The draft may go on without it.
		w.c.lacks, w.c.found, w.c.partial.unsure = w.c.lacks[:lacks], w.c.found[:got], w.c.partial.unsure[:unsure]
		w.undo(e)
		return nil, err
	}
	return e, nil
}

// awaited finds out whether a redaction of an event came before it.
func (w *writer) awaited(ctx context.Context, e *newEvent) error {
	redactions := w.awaits[e.pdu.ID].redactions
	for _, a := range w.c.awaited {
		if a.target == e.pdu.ID {
			redactions = append(redactions, a.by)
		}
	}
	by, err := w.s.events(ctx, w.r.p, redactions)
	if err != nil {
		return err
	}
	var valid []*roomdb.Event
	for _, by := range by {
		powerful, err := w.mayRedact(ctx, by.Sender)
		if err != nil {
			return err
		}
		if by.Flags == 0 && redacts(by.PDU, e.pdu, powerful) {
			e.redactedBy = by.NID
			valid = append(valid, by)
		}
	}
	e.releases, err = w.withheld(ctx, valid)
	return err
}
