package room

import (
	"context"
	"errors"
	"fmt"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

// parents is what is known of an event's prev events and of the states after them.
type parents struct {
	// prev are the prev events that have their place, missing are the others.
	prev    []*roomdb.Event
	missing []id.Event
	// fetched are states after missing prev events, as another server gave them.
	fetched []state.Map
	// only says that fetched is the state before the event itself.
	only bool
	// also are states that stand in for the unknown states after prev events.
	also []*state.Snapshot
	// guessed says that also stands in for a state that no server gave, doubtful that a prev event was judged by such a state.
	guessed, doubtful bool
	// history is set for events older than the room's timeline: they get places in its holes, and do not change the room's
	// current state.
	history bool
	// lacked is set if a stored event names this one; known if such an event was not refused: then this event does not become a
	// forward extremity.
	lacked, known bool
}

// errNoState says that the state before an event cannot be known.
var errNoState = errors.New("none of the prev events is known")

// attach judges an event at its place in the graph ("checks performed on receipt of a PDU", steps 4 to 6, server-server
// API) and adds it to the draft: delivered, soft-failed or rejected, as its flags say then.
func (w *writer) attach(ctx context.Context, e *newEvent, at parents, local bool) error {
	snap, err := w.stateBefore(ctx, e, at)
	if err != nil {
		return err
	}
	before := state.Map{}
	if w.h.partial() {
		if snap, err = w.withCited(ctx, e, snap); err != nil {
			return err
		}
		w.unsure(e, at.history)
	}
	if snap != nil {
		before, e.sid = snap.Map(), snap.SID()
	}
	for _, p := range at.prev {
		e.prev = append(e.prev, p.NID)
	}
	w.lack(e, at.missing)
	if at.lacked {
		w.c.found = append(w.c.found, e.pdu.ID)
	}
	if !at.history && w.touched(e.pdu) {
		if err := w.deliverHeld(ctx, local); err != nil {
			return err
		}
	}
	refusal, err := w.judge(ctx, e, before, at.history)
	if err != nil {
		return err
	}
	w.s.remember(w.r, e) // resolutions of what comes after it read it
	if refusal != nil {
		w.s.log.Debug("event refused", "event", e.pdu.ID, "flags", e.flags, "err", refusal)
		e.refusal = refusal
		w.add(e)
		return nil
	}
	after, err := w.stateAfter(e, snap, before)
	if err != nil {
		return err
	}
	switch {
	case at.history:
		return w.addHistory(ctx, e)
	case at.known && len(w.held) > 0 && !w.isOurMember(e.pdu):
		w.hold(e)
		return nil
	case at.known:
		if err := w.deliverHeld(ctx, local); err != nil {
			return err
		}
		w.add(e)
		return w.deliver(ctx, []*newEvent{e}, w.withOwn(e), local)
	}
	return w.extendFork(ctx, e, after, local)
}

// judge applies the auth rules. It sets the event's flags; the error that is not a refusal means that it could not be
// judged.
func (w *writer) judge(ctx context.Context, e *newEvent, before state.Map, history bool) (refusal, err error) {
	cited, err := w.cited(ctx, e)
	if errors.Is(err, errMissingEvent) && e.rowExists && e.was&flagRejected != 0 {
		err, refusal = nil, err // it was rejected because it cites an event of another room
	}
	if err != nil {
		return nil, err
	}
	if refusal == nil {
		refusal = w.citesForeign(e.pdu)
	}
	if refusal != nil {
		e.flags |= flagRejected
		return refusal, nil
	}
	create, err := w.createOf(ctx, make(map[id.Event]*roomdb.Event))
	if err != nil {
		return nil, err
	}
	if refusal = w.s.checkCited(e.pdu, cited, create); refusal != nil {
		e.flags |= flagRejected
		return refusal, nil
	}
	if refusal, err = w.check(ctx, e.pdu, before); err != nil || refusal != nil {
		e.flags |= flagRejected
		return refusal, err
	}
	if history || before.Equal(w.h.state) {
		return nil, nil
	}
	now := w.h.state
	if w.h.partial() {
		now = withMembers(now, cited)
	}
	if refusal, err = w.check(ctx, e.pdu, now); err != nil || refusal != nil {
		e.flags |= flagSoftFailed
	}
	return refusal, err
}

// cited returns the auth events that the event names, and notes their numbers. All must be stored but those of other rooms.
func (w *writer) cited(ctx context.Context, e *newEvent) ([]*roomdb.Event, error) {
	found, err := w.stored(ctx, e.pdu.AuthEvents)
	if err != nil {
		return nil, err
	}
	cited := make([]*roomdb.Event, 0, len(e.pdu.AuthEvents))
	e.auth = e.auth[:0]
	for _, a := range e.pdu.AuthEvents {
		ev := found[a]
		if ev == nil && w.foreign[a] != "" {
			continue
		}
		if ev == nil {
			return nil, fmt.Errorf("auth event %s of %s: %w", a, e.pdu.ID, errMissingEvent)
		}
		cited = append(cited, ev)
		e.auth = append(e.auth, ev.NID)
	}
	return cited, nil
}

// citesForeign applies the rule that the auth events must be of the event's room (rule 2.5 up to room version 11, 3.5 of
// version 12).
func (w *writer) citesForeign(pdu *event.PDU) error {
	for _, a := range pdu.AuthEvents {
		if room := w.foreign[a]; room != "" {
			return auth.OtherRoom(pdu, a, room)
		}
	}
	return nil
}

// checkCited applies the rules that concern the auth events, and all others with the auth events as the state. From
// version 12 on the create event is not among them and is given beside them.
func (s *Service) checkCited(pdu *event.PDU, cited []*roomdb.Event, create *event.PDU) error {
	rejected := make(map[id.Event]bool)
	lookup := make(auth.Events, 0, len(cited)+1)
	for _, c := range cited {
		rejected[c.ID] = c.Flags&flagRejected != 0
		lookup = append(lookup, c.PDU)
	}
	opts := auth.Options{Rejected: func(e id.Event) bool { return rejected[e] }}
	if err := auth.CheckAuthEvents(pdu, lookup, opts); err != nil {
		return err
	}
	if create != nil {
		lookup = append(lookup, create)
	}
	return auth.Check(pdu, lookup, opts)
}

// check applies the rules with a state of the room.
func (w *writer) check(ctx context.Context, pdu *event.PDU, m state.Map) (refusal, err error) {
	found, err := w.s.authEvents(ctx, w.r.p, m, auth.NeededBy(pdu))
	if err != nil {
		return nil, err
	}
	return auth.Check(pdu, found.lookup, auth.Options{}), nil
}

// stored returns those of the events that are in the draft or usable.
func (w *writer) stored(ctx context.Context, ids []id.Event) (map[id.Event]*roomdb.Event, error) {
	found := make(map[id.Event]*roomdb.Event, len(ids))
	var ask []id.Event
	for _, eventID := range ids {
		if nid, ok := w.drafted[eventID]; ok {
			ev, err := w.s.event(ctx, w.r.p, nid)
			if err != nil {
				return nil, err
			}
			found[eventID] = ev
		} else if ev, ok := w.looked[eventID]; !ok {
			ask = append(ask, eventID)
		} else if ev != nil {
			found[eventID] = w.present(ev)
		}
	}
	stored, authMissing, err := w.r.usable(ctx, ask)
	if err != nil {
		return nil, err
	}
	for eventID, nid := range authMissing {
		w.authMissing[eventID] = nid
	}
	for eventID, ev := range stored {
		found[eventID] = w.present(ev)
	}
	return found, nil
}

// present is a stored event as the draft has it.
func (w *writer) present(ev *roomdb.Event) *roomdb.Event {
	if redone := w.redone[ev.NID]; redone != nil {
		return redone
	}
	return ev
}

// lack notes which prev events of an event are missing.
func (w *writer) lack(e *newEvent, missing []id.Event) {
	for _, m := range missing {
		w.c.lacks = append(w.c.lacks, lack{m, e})
	}
	e.lacking = len(missing) > 0
}

// addHistory adds an event of the room's history: it is to have a place in a hole, and changes nothing.
func (w *writer) addHistory(ctx context.Context, e *newEvent) error {
	e.history = true
	w.add(e)
	shown, err := w.applyRedaction(ctx, e, false)
	e.withheld = !shown
	return err
}
