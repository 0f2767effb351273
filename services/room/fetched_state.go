package room

import (
	"context"
	"errors"
	"fmt"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/state"
)

// fetchedState is the state before or after an event, as another server told it; all its events are stored.
type fetchedState struct {
	state.Map
	before id.Event // whose state before it this is
	after  id.Event // the event itself, if the state after it is meant
}

// statesAt asks the origin, and others, for the state after each missing prev event.
func (in *intake) statesAt(ctx context.Context, missing []id.Event) ([]fetchedState, error) {
	if len(missing) > missingStates {
		return nil, fmt.Errorf("%d prev events are missing", len(missing))
	}
	var states []fetchedState
	for _, m := range missing {
		told, err := in.told(ctx, m, (*intake).stateAfter)
		if err != nil {
			return nil, err
		}
		states = append(states, told...)
	}
	return states, nil
}

// stateAfter gets the state after an event that we do not have, and the event itself.
func (in *intake) stateAfter(ctx context.Context, at id.Event) (fetchedState, error) {
	st, err := in.stateBefore(ctx, at)
	if err != nil {
		return st, err
	}
	own, err := in.claimed(ctx, []id.Event{at})
	if err != nil {
		return st, err
	}
	if len(own) == 0 {
		return st, fmt.Errorf("%w: the event itself cannot be fetched", errMissingEvent)
	}
	if e := own[0]; e.inState() {
		st.Map = st.Set(e.key, e.nid)
	}
	st.after = at
	return st, nil
}

// stateBefore gets the state before an event, with all events that we lack of it.
func (in *intake) stateBefore(ctx context.Context, at id.Event) (fetchedState, error) {
	if err := in.fetch(); err != nil {
		return fetchedState{}, err
	}
	ctx, leave := in.s.withSlot(ctx)
	defer leave()
	ids, err := in.s.fetchStateIDs(ctx, in.home, in.origin, in.roomID, at)
	if err != nil {
		return fetchedState{}, err
	}
	if len(ids.State)+len(ids.Auth) > maxOutliers {
		return fetchedState{}, fmt.Errorf("%s: a state of %d events", in.origin, len(ids.State))
	}
	all := dedupe(append(append([]id.Event{at}, ids.State...), ids.Auth...))
	found, err := in.claimed(ctx, all)
	if err != nil {
		return fetchedState{}, err
	}
	if lacking := without(all, found); len(lacking) > 0 {
		if err := in.fetchEvents(ctx, at, lacking); err != nil {
			return fetchedState{}, err
		}
		fetched, err := in.claimed(ctx, lacking)
		if err != nil {
			return fetchedState{}, err
		}
		found = append(found, fetched...)
	}
	m, err := claimedState(ids.State, found)
	return fetchedState{Map: m, before: at}, err
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
	return in.storeRaw(ctx, raw)
}

// lacking returns those of the events that are not stored.
func (in *intake) lacking(ctx context.Context, ids []id.Event) ([]id.Event, error) {
	found, err := in.claimed(ctx, ids)
	return without(ids, found), err
}

// without returns the ids of none of the events.
func without(ids []id.Event, events []claimed) []id.Event {
	have := make(map[id.Event]bool, len(events))
	for _, e := range events {
		have[e.id] = true
	}
	var rest []id.Event
	for _, eventID := range ids {
		if !have[eventID] {
			rest = append(rest, eventID)
		}
	}
	return rest
}

// claimed is what a state needs to know of a stored event.
type claimed struct {
	id    id.Event
	nid   int64
	key   state.Key
	state bool
	flags int32
}

func (c *claimed) inState() bool { return c.state && c.flags&flagRejected == 0 }

// errNoStateOfRoom is the answer to what cannot be the state of a room.
var errNoStateOfRoom = errors.New("not a state of the room")

// claimedState makes a state of the events that another server says it has, of which these were found. It has one event for each
// key, and the create event among them; of what we could not get it has nothing.
func claimedState(ids []id.Event, found []claimed) (state.Map, error) {
	named := make(map[id.Event]bool, len(ids))
	for _, eventID := range ids {
		named[eventID] = true
	}
	of := make([]claimed, 0, len(ids))
	seen := make(map[state.Key]id.Event, len(ids))
	for _, e := range found {
		if !named[e.id] || !e.state {
			continue
		}
		if other, twice := seen[e.key]; twice {
			return state.Map{}, fmt.Errorf("%w: %s and %s are both %s %q", errNoStateOfRoom, other, e.id, e.key.Type, e.key.StateKey)
		}
		seen[e.key] = e.id
		of = append(of, e)
	}
	m := stateOf(of)
	if !m.Has(state.Key{Type: typeCreate}) {
		return state.Map{}, fmt.Errorf("%w: it has no create event", errNoStateOfRoom)
	}
	return m, nil
}

// stateOf makes a state of events. Rejected events are no part of a state.
func stateOf(events []claimed) state.Map {
	return state.New(func(yield func(state.Key, int64) bool) {
		for _, e := range events {
			if e.inState() && !yield(e.key, e.nid) {
				return
			}
		}
	})
}

// unclaimed makes sure that nobody calls an event as one of another room is called: in the room versions where the
// sender makes ids up.
func (w *writer) unclaimed(ctx context.Context, eventID id.Event) error {
	if w.r.rules.EventID != 1 {
		return nil
	}
	found, err := w.s.db.EventsByID(ctx, w.r.p.part, []id.Event{eventID})
	if err != nil {
		return err
	}
	if e := found[eventID]; e != nil && e.RoomNID != w.r.nid {
		return fmt.Errorf("%w: another room has an event of this id", event.ErrInvalid)
	}
	return nil
}
