package room

import (
	"context"
	"fmt"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

// outlierChunk is how many outliers one change stores.
const outlierChunk = 500

// maxOutliers bounds what one answer of another server may make us store: the state and auth chain of a large room.
const maxOutliers = 1_000_000

// fetchAuth gets auth events that we lack: the whole auth chain, of which we usually have most.
func (in *intake) fetchAuth(ctx context.Context, pdu *event.PDU, missing []id.Event) error {
	raw, err := in.s.fetchAuth(ctx, in.home, in.origin, in.roomID, pdu.ID)
	if err != nil {
		in.s.log.Debug("event_auth", "room", in.roomID, "server", in.origin, "err", err)
		raw = nil
		for _, a := range missing[:min(len(missing), event.MaxAuthEvents)] {
			one, err := in.s.fetchEvent(ctx, in.home, in.origin, a)
			if err != nil {
				return fmt.Errorf("auth event %s: %w", a, err)
			}
			raw = append(raw, one...)
		}
	}
	pdus, err := in.s.parseAll(ctx, raw, in.rules, in.roomID)
	if err != nil {
		return err
	}
	return in.storeOutliers(ctx, pdus)
}

// storeOutliers stores events without a place, each after those that it cites. Such an event is judged by its auth
// events only; one whose auth events we cannot have is left out.
func (in *intake) storeOutliers(ctx context.Context, pdus []*event.PDU) error {
	if len(pdus) > maxOutliers {
		return fmt.Errorf("%s sent %d events", in.origin, len(pdus))
	}
	left := byAuth(pdus)
	for len(left) > 0 {
		n := min(len(left), outlierChunk)
		if err := in.storeChunk(ctx, left[:n]); err != nil {
			return err
		}
		left = left[n:]
	}
	return nil
}

func (in *intake) storeChunk(ctx context.Context, pdus []*event.PDU) error {
	r, err := in.s.lockRoom(ctx, in.roomID)
	if err != nil {
		return err
	}
	defer r.unlock()
	w := in.s.newWriter(ctx, r)
	if err := w.outliers(ctx, pdus); err != nil || len(w.c.events) == 0 {
		return err
	}
	return w.put()
}

// outliers drafts outliers, in an order in which none cites a later one.
func (w *writer) outliers(ctx context.Context, pdus []*event.PDU) error {
	var names []id.Event
	for _, p := range pdus {
		names = append(append(names, p.ID), p.AuthEvents...)
	}
	found, err := w.stored(ctx, dedupe(names))
	if err != nil {
		return err
	}
	for _, p := range pdus {
		if found[p.ID] != nil {
			continue
		}
		e := &newEvent{pdu: p, nid: w.nid(), flags: flagOutlier}
		cited := make([]*roomdb.Event, 0, len(p.AuthEvents))
		for _, a := range p.AuthEvents {
			if ev := found[a]; ev != nil {
				cited = append(cited, ev)
				e.auth = append(e.auth, ev.NID)
			}
		}
		if len(cited) < len(p.AuthEvents) {
			w.s.log.Debug("outlier without its auth events", "event", p.ID)
			continue
		}
		create, err := w.createOf(ctx, found)
		if err != nil {
			return err
		}
		if refusal := w.s.checkCited(p, cited, create); refusal != nil {
			w.s.log.Debug("outlier refused", "event", p.ID, "err", refusal)
			e.flags |= flagRejected
		}
		w.s.remember(w.r, e)
		w.drafted[p.ID] = e.nid
		w.c.events = append(w.c.events, e)
		if found[p.ID], err = w.s.event(ctx, w.r.p, e.nid); err != nil {
			return err
		}
	}
	return nil
}

// createOf returns the create event for checks of events that do not cite it (version 12).
func (w *writer) createOf(ctx context.Context, found map[id.Event]*roomdb.Event) (*event.PDU, error) {
	if !w.r.rules.RoomIDIsCreateHash {
		return nil, nil
	}
	name := id.Event("$" + string(w.r.id[1:]))
	if ev := found[name]; ev != nil {
		return ev.PDU, nil
	}
	more, err := w.stored(ctx, []id.Event{name})
	if err != nil || more[name] == nil {
		return nil, err
	}
	found[name] = more[name]
	return more[name].PDU, nil
}

// byAuth orders events so that each comes after those of them that it cites; the create event comes first, as from
// version 12 on nobody cites it.
func byAuth(pdus []*event.PDU) []*event.PDU {
	first := make([]*event.PDU, 0, len(pdus))
	for _, p := range pdus {
		if p.Type == typeCreate {
			first = append(first, p)
		}
	}
	for _, p := range pdus {
		if p.Type != typeCreate {
			first = append(first, p)
		}
	}
	return ordered(first, func(p *event.PDU) []id.Event { return p.AuthEvents })
}

// ordered sorts events so that each comes after those of them that it names, and otherwise as they came. Events in a
// cycle, which only forged ones can be, come in some order.
func ordered(pdus []*event.PDU, names func(*event.PDU) []id.Event) []*event.PDU {
	byID := make(map[id.Event]*event.PDU, len(pdus))
	for _, p := range pdus {
		byID[p.ID] = p
	}
	out := make([]*event.PDU, 0, len(pdus))
	visited := make(map[id.Event]bool, len(pdus))
	type frame struct {
		pdu   *event.PDU
		names []id.Event
	}
	for _, p := range pdus {
		var stack []frame
		if !visited[p.ID] {
			visited[p.ID] = true
			stack = append(stack, frame{p, names(p)})
		}
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			if len(top.names) == 0 {
				out = append(out, top.pdu)
				stack = stack[:len(stack)-1]
				continue
			}
			named := byID[top.names[0]]
			top.names = top.names[1:]
			if named != nil && !visited[named.ID] {
				visited[named.ID] = true
				stack = append(stack, frame{named, names(named)})
			}
		}
	}
	return out
}

// fetchedState is the state after an event that we do not have, as another server told it; all its events are stored.
type fetchedState struct {
	events []id.Event
	before id.Event // whose state before it this is
	after  id.Event // the event itself, if the state after it is meant
}

// fetchedMap makes a map of it. Rejected events are no part of a state.
func (w *writer) fetchedMap(ctx context.Context, st fetchedState) (state.Map, error) {
	found, err := w.stored(ctx, append(st.events[:len(st.events):len(st.events)], st.after))
	if err != nil {
		return state.Map{}, err
	}
	entries := func(yield func(state.Key, int64) bool) {
		for _, eventID := range append(st.events[:len(st.events):len(st.events)], st.after) {
			e := found[eventID]
			if e == nil || !e.IsState() || e.Flags&flagRejected != 0 {
				continue
			}
			if !yield(state.Key(e.Tuple()), e.NID) {
				return
			}
		}
	}
	return state.New(entries), nil
}

// statesAt asks the origin for the state after each missing prev event.
func (in *intake) statesAt(ctx context.Context, missing []id.Event) ([]fetchedState, error) {
	if len(missing) > missingStates {
		return nil, fmt.Errorf("%d prev events are missing", len(missing))
	}
	var states []fetchedState
	for _, m := range missing {
		st, err := in.stateAfter(ctx, m)
		if err != nil {
			return nil, fmt.Errorf("state after %s: %w", m, err)
		}
		states = append(states, st)
	}
	return states, nil
}

// stateAfter gets the state after an event that we do not have, and the event itself.
func (in *intake) stateAfter(ctx context.Context, at id.Event) (fetchedState, error) {
	st, err := in.stateBefore(ctx, at)
	st.after = at
	return st, err
}

// stateBefore gets the state before an event, with all events that we lack of it.
func (in *intake) stateBefore(ctx context.Context, at id.Event) (fetchedState, error) {
	ids, err := in.s.fetchStateIDs(ctx, in.home, in.origin, in.roomID, at)
	if err != nil {
		return fetchedState{}, err
	}
	if len(ids.State)+len(ids.Auth) > maxOutliers {
		return fetchedState{}, fmt.Errorf("%s: a state of %d events", in.origin, len(ids.State))
	}
	all := dedupe(append(append([]id.Event{at}, ids.State...), ids.Auth...))
	lacking, err := in.lacking(ctx, all)
	if err != nil {
		return fetchedState{}, err
	}
	return fetchedState{events: ids.State, before: at}, in.fetchEvents(ctx, at, lacking)
}

// fewEvents is up to how many events are asked for one by one.
const fewEvents = 20

// fetchEvents gets and stores events of the state at an event.
func (in *intake) fetchEvents(ctx context.Context, at id.Event, lacking []id.Event) error {
	if len(lacking) == 0 {
		return nil
	}
	var raw rawPDUs
	if len(lacking) > fewEvents {
		st, chain, err := in.s.fetchState(ctx, in.home, in.origin, in.roomID, at)
		if err != nil {
			return err
		}
		raw = append(st, chain...)
		lacking = []id.Event{at}
	}
	for _, eventID := range lacking {
		one, err := in.s.fetchEvent(ctx, in.home, in.origin, eventID)
		if err != nil {
			in.s.log.Debug("event", "event", eventID, "server", in.origin, "err", err)
			continue // a state that lacks an event or two is better than none; auth decides
		}
		raw = append(raw, one...)
	}
	pdus, err := in.s.parseAll(ctx, raw, in.rules, in.roomID)
	if err != nil {
		return err
	}
	return in.storeOutliers(ctx, pdus)
}

// lacking returns those of the events that are not stored.
func (in *intake) lacking(ctx context.Context, ids []id.Event) ([]id.Event, error) {
	r, err := in.s.lockRoom(ctx, in.roomID)
	if err != nil {
		return nil, err
	}
	defer r.unlock()
	found, err := r.storedEvents(ctx, ids)
	if err != nil {
		return nil, err
	}
	var lacking []id.Event
	for _, eventID := range ids {
		if found[eventID] == nil {
			lacking = append(lacking, eventID)
		}
	}
	return lacking, nil
}

func dedupe(ids []id.Event) []id.Event {
	seen := make(map[id.Event]bool, len(ids))
	out := ids[:0:0]
	for _, e := range ids {
		if !seen[e] {
			seen[e] = true
			out = append(out, e)
		}
	}
	return out
}
