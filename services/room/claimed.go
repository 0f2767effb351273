package room

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/state"
)

// fetchedState is the state before or after an event, as another server told it; all its events are stored.
type fetchedState struct {
	events []id.Event
	before id.Event // whose state before it this is
	after  id.Event // the event itself, if the state after it is meant
	// known is the state; nil if it must still be made of the events.
	known *state.Map
}

// fetchedMap makes a map of it. Rejected events are no part of a state.
func (w *writer) fetchedMap(ctx context.Context, st fetchedState) (state.Map, error) {
	if st.known != nil {
		return *st.known, nil
	}
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
	if err != nil {
		return st, err
	}
	own, err := in.claimed(ctx, []id.Event{at})
	if err != nil {
		return st, err
	}
	if len(own) == 0 {
		return st, fmt.Errorf("%w: the event itself cannot be had", errMissingEvent)
	}
	if e := own[0]; e.inState() {
		after := st.known.Set(e.key, e.nid)
		st.known = &after
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
	lacking, err := in.lacking(ctx, all)
	if err != nil {
		return fetchedState{}, err
	}
	if err := in.fetchEvents(ctx, at, lacking); err != nil {
		return fetchedState{}, err
	}
	m, err := in.claimedState(ctx, ids.State)
	return fetchedState{before: at, known: &m}, err
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

// lookupChunk is how many events are looked up at a time: what a peer claims may be long.
const lookupChunk = 2000

// lacking returns those of the events that are not stored.
func (in *intake) lacking(ctx context.Context, ids []id.Event) ([]id.Event, error) {
	found, err := in.claimed(ctx, ids)
	if err != nil {
		return nil, err
	}
	have := make(map[id.Event]bool, len(found))
	for _, e := range found {
		have[e.id] = true
	}
	var lacking []id.Event
	for _, eventID := range ids {
		if !have[eventID] {
			lacking = append(lacking, eventID)
		}
	}
	return lacking, nil
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

// claimed finds those of the events that are stored. The room is not locked meanwhile: what is stored stays.
func (in *intake) claimed(ctx context.Context, ids []id.Event) ([]claimed, error) {
	r, err := in.s.lockRoom(ctx, in.roomID)
	if err != nil {
		return nil, err
	}
	part, room := r.p.part, r.nid
	err = r.settle(ctx)
	r.unlock()
	if err != nil {
		return nil, err
	}
	out := make([]claimed, 0, len(ids))
	for len(ids) > 0 {
		n := min(len(ids), lookupChunk)
		rows, err := in.s.shards.For(part).Query(ctx, sqlClaimed, int32(part), room, ids[:n])
		if err != nil {
			return nil, fmt.Errorf("look up events: %w", err)
		}
		found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c claimed, err error) {
			var stateKey *string
			err = row.Scan(&c.id, &c.nid, &c.key.Type, &stateKey, &c.flags)
			if c.state = stateKey != nil; c.state {
				c.key.StateKey = *stateKey
			}
			return c, err
		})
		if err != nil {
			return nil, fmt.Errorf("look up events: %w", err)
		}
		out, ids = append(out, found...), ids[n:]
	}
	return out, nil
}

// errNoStateOfRoom is the answer to what cannot be the state of a room.
var errNoStateOfRoom = errors.New("not a state of the room")

// claimedState makes a state of the events that another server says it has. It has one event for each key, and the
// create event among them; of what we could not get it has nothing. Rejected events are no part of a state.
func (in *intake) claimedState(ctx context.Context, ids []id.Event) (state.Map, error) {
	found, err := in.claimed(ctx, dedupe(ids))
	if err != nil {
		return state.Map{}, err
	}
	seen := make(map[state.Key]id.Event, len(found))
	for _, e := range found {
		if !e.state {
			continue
		}
		if other, twice := seen[e.key]; twice {
			return state.Map{}, fmt.Errorf("%w: %s and %s are both %s %q", errNoStateOfRoom, other, e.id, e.key.Type, e.key.StateKey)
		}
		seen[e.key] = e.id
	}
	m := state.New(func(yield func(state.Key, int64) bool) {
		for _, e := range found {
			if e.inState() && !yield(e.key, e.nid) {
				return
			}
		}
	})
	if !m.Has(state.Key{Type: typeCreate}) {
		return state.Map{}, fmt.Errorf("%w: it has no create event", errNoStateOfRoom)
	}
	return m, nil
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
