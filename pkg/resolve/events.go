package resolve

import (
	"fmt"
	"slices"

	"hanse/pkg/authgraph"
	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/state"
)

var (
	createKey      = state.Key{Type: "m.room.create"}
	powerLevelsKey = state.Key{Type: "m.room.power_levels"}
)

// load reads events from the source, in one call.
func (r *resolution) load(events []authgraph.Index) error {
	slices.Sort(events)
	events = slices.Compact(events)
	if len(events) == 0 {
		return nil
	}
	if err := r.meter.load(len(events)); err != nil {
		return err
	}
	nids := make([]int64, len(events))
	for n, i := range events {
		nids[n] = r.g.NID(i)
	}
	read, err := r.src.Events(r.ctx, nids)
	if err != nil {
		return fmt.Errorf("load events: %w", err)
	}
	if len(read) != len(nids) {
		return fmt.Errorf("%w: %d events for %d ids", ErrMismatch, len(read), len(nids))
	}
	if len(r.events) == 0 {
		r.events = make(map[authgraph.Index]*event.PDU, len(read))
	}
	for n, ev := range read {
		i := events[n]
		if ev.PDU == nil || ev.StateKey == nil || state.Key(ev.Tuple()) != r.g.Key(i) {
			return fmt.Errorf("%w: %d", ErrMismatch, nids[n])
		}
		r.events[i] = ev.PDU
		r.m.learn(i, ev)
	}
	return nil
}

// loadFull reads what is not known of the full conflicted set, and returns that.
func (r *resolution) loadFull() ([]authgraph.Index, error) {
	var unknown []authgraph.Index
	for i := range r.full.all() {
		if r.m.fact(i) == nil {
			unknown = append(unknown, i)
		}
	}
	return unknown, r.load(unknown)
}

// lacks says whether more must be read of an event before it can be the answer of a look-up.
func (r *resolution) lacks(i authgraph.Index) bool {
	f := r.m.fact(i)
	return f == nil || f.verdicts != r.m.verdicts || f.class&wholeEvent != 0 && r.events[i] == nil
}

// loadAnswers reads what else can be asked for when events that were read are ordered and checked: what the rules need of the
// state as it is, and, since version 2, their auth events.
func (r *resolution) loadAnswers(of []authgraph.Index) error {
	wanted := newIndexSet(r.g.Len())
	want := func(i authgraph.Index) {
		if i != authgraph.None && r.lacks(i) {
			wanted.add(i)
		}
	}
	for _, i := range of {
		for _, t := range auth.NeededBy(r.events[i]) {
			if key, ok := r.g.FindKey(state.Key(t)); ok {
				at, err := r.held(key)
				if err != nil {
					return err
				}
				want(at)
			}
		}
		if r.rules.StateRes != 1 {
			for _, a := range r.g.Auth(i) {
				want(a)
			}
		}
	}
	if len(of) > 0 {
		want(r.create)
	}
	return r.load(wanted.list())
}

// findCreate finds the create event, which no event of room version 12 or later cites: that of a state, or, if a state
// has lost even that, of the graph.
func (r *resolution) findCreate() error {
	if !r.rules.RoomIDIsCreateHash {
		return nil
	}
	var err error
	if r.create, err = r.someCreate(); err != nil {
		return err
	}
	if known := r.m.create; known != authgraph.None && known != r.create {
		return fmt.Errorf("%w: %d is not the create event", ErrMismatch, r.g.NID(r.create))
	}
	return nil
}

func (r *resolution) someCreate() (authgraph.Index, error) {
	for _, m := range r.states {
		if nid, ok := m.Get(createKey); ok {
			return r.find(nid)
		}
	}
	key, ok := r.g.FindKey(createKey)
	for i := range authgraph.Index(r.g.Len()) {
		if ok && r.g.KeyIndex(i) == key {
			return i, nil
		}
	}
	return authgraph.None, fmt.Errorf("%w: the create event", ErrUnknown)
}

// authEvent returns the event with a key among the auth events of i, None if there is none. Of several the first counts;
// such an event would have been rejected. Since version 12 the room ID names the create event.
func (r *resolution) authEvent(i authgraph.Index, key authgraph.KeyIndex) authgraph.Index {
	if r.create == authgraph.None || r.g.KeyIndex(r.create) != key {
		return r.g.AuthAt(i, key)
	}
	if r.g.Key(i).Type == createKey.Type {
		return authgraph.None
	}
	return r.create
}

// checkCreate checks that the create event of a room of version 12 or later is the one that the room ID of an event names.
func (r *resolution) checkCreate(of *event.PDU) error {
	if r.create == authgraph.None {
		return nil
	}
	if create := r.events[r.create]; create.ID != auth.CreateEventID(of.RoomID) {
		return fmt.Errorf("%w: %s is not the create event of %s", ErrMismatch, create.ID, of.RoomID)
	}
	r.m.create = r.create
	return nil
}
