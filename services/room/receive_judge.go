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

// place is where in the graph an event stands.
type place struct {
	// prev are the prev events that we hold in their place, missing those that we lack.
	prev    []*roomdb.Event
	missing []id.Event
	// fetched are states after missing prev events, as another server gave them.
	fetched []state.Map
	// only says that fetched is the state before the event itself.
	only bool
	// also are states that stand for those after prev events whose own cannot be known.
	also []*state.Snapshot
	// guessed says that also stands for a state that nobody told, doubtful that a prev event was judged by such a one.
	guessed, doubtful bool
	// history is set for events older than what we have: they get places in the holes of the timeline, and do not change
	// what the room is now.
	history bool
	// lacked is set if an event that we hold names this one; known if one does that was not refused: it is no new end of the
	// room then.
	lacked, known bool
}

// errNoState says that the state before an event cannot be known.
var errNoState = errors.New("none of the prev events is known")

// attach judges an event at its place in the graph ("checks performed on receipt of a PDU", steps 4 to 6, server-server
// API) and adds it to the draft: delivered, soft-failed or rejected, as its flags say then.
func (w *writer) attach(ctx context.Context, e *newEvent, at place, local bool) error {
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
		if err := w.settle(ctx, local); err != nil {
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
		return w.place(ctx, e)
	case at.known && len(w.held) > 0 && !w.isOurMember(e.pdu):
		w.hold(e)
		return nil
	case at.known:
		if err := w.settle(ctx, local); err != nil {
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
	if errors.Is(err, errMissingEvent) && e.place && e.was&flagRejected != 0 {
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
	stored, outside, err := w.r.usable(ctx, ask)
	if err != nil {
		return nil, err
	}
	for eventID, nid := range outside {
		w.outside[eventID] = nid
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

// stateBefore returns the state before an event, nil if that is empty: of one prev event the state after it, of
// several the resolution.
func (w *writer) stateBefore(ctx context.Context, e *newEvent, at place) (*state.Snapshot, error) {
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
	if len(w.h.tips) == 1 && w.h.tips[0].nid == ev.NID {
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
	if err := w.r.settle(ctx); err != nil {
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

// extendFork makes an accepted event an end of the room, in place of those of its prev events that were, and resolves
// the current state anew, now or with what comes next (receive_batch.go).
func (w *writer) extendFork(ctx context.Context, e *newEvent, after *state.Snapshot, local bool) error {
	ours := w.isOurMember(e.pdu)
	if ours {
		if err := w.settle(ctx, local); err != nil {
			return err
		}
	}
	tips, snaps, err := w.tipsAfter(ctx, e, after, local)
	if err != nil {
		return err
	}
	w.h.tips = tips
	w.h.depth = max(w.h.depth, e.pdu.Depth)
	w.ready = snaps
	w.hold(e)
	if w.patient && !ours && !decides(e.pdu) && w.unresolved(snaps) {
		return nil
	}
	return w.settle(ctx, local)
}

// tipsAfter returns the ends of the room once an event is one of them, and the states after them.
func (w *writer) tipsAfter(ctx context.Context, e *newEvent, after *state.Snapshot, local bool) ([]tip, []*state.Snapshot, error) {
	covered, err := w.covered(ctx, e.prev)
	if err != nil {
		return nil, nil, err
	}
	tips := make([]tip, 0, len(w.h.tips)+1)
	var snaps []*state.Snapshot
	for _, t := range w.h.tips {
		if !covered[t.nid] {
			tips = append(tips, t)
		}
	}
	if !local && len(tips) == len(w.h.tips) && len(tips) >= w.maxTips {
		return nil, nil, errCrowded
	}
	for _, t := range tips {
		snap, err := w.afterTip(ctx, t)
		if err != nil {
			return nil, nil, err
		}
		snaps = append(snaps, snap)
	}
	return append(tips, tip{e.nid, e.pdu}), append(snaps, after), nil
}

// maxUnseen bounds how many refused events are looked through.
const maxUnseen = 1000

// covered returns the events that are no ends of the room any more if an event names these as its prev events: these,
// and what lies before those of them that were refused, as a refused event never replaced them.
func (w *writer) covered(ctx context.Context, prev []int64) (map[int64]bool, error) {
	covered := make(map[int64]bool, len(prev))
	next := prev
	for len(next) > 0 && len(covered) < maxUnseen {
		var deeper []int64
		for _, nid := range next {
			if covered[nid] {
				continue
			}
			covered[nid] = true
			ev, err := w.s.event(ctx, w.r.p, nid)
			if err != nil {
				return nil, err
			}
			if w.present(ev).Flags&(flagRejected|flagSoftFailed) != 0 {
				deeper = append(deeper, ev.Prev...)
			}
		}
		next = deeper
	}
	return covered, nil
}

func (w *writer) afterTip(ctx context.Context, t tip) (*state.Snapshot, error) {
	ev, err := w.s.event(ctx, w.r.p, t.nid)
	if err != nil {
		return nil, err
	}
	return w.after(ctx, w.present(ev))
}

func (w *writer) resolveSnaps(ctx context.Context, snaps []*state.Snapshot) (state.Map, error) {
	return w.resolve(ctx, mapsOf(snaps))
}

// lack notes which prev events of an event are missing.
func (w *writer) lack(e *newEvent, missing []id.Event) {
	for _, m := range missing {
		w.c.lacks = append(w.c.lacks, lack{m, e})
	}
	e.lacking = len(missing) > 0
}

// place adds an event of the room's history: it is to have a place in a hole, and changes nothing.
func (w *writer) place(ctx context.Context, e *newEvent) error {
	e.history = true
	w.add(e)
	shown, err := w.applyRedaction(ctx, e, false)
	e.withheld = !shown
	return err
}
