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
func (r *resolution) load(nids []int64) error {
	slices.Sort(nids)
	nids = slices.Compact(nids)
	if len(nids) == 0 {
		return nil
	}
	if err := r.meter.load(len(nids)); err != nil {
		return err
	}
	events, err := r.src.Events(r.ctx, nids)
	if err != nil {
		return fmt.Errorf("load events: %w", err)
	}
	if len(events) != len(nids) {
		return fmt.Errorf("%w: %d events for %d ids", ErrMismatch, len(events), len(nids))
	}
	for n, ev := range events {
		i, err := r.find(nids[n])
		if err != nil {
			return err
		}
		if ev.PDU == nil || ev.StateKey == nil || state.Key(ev.Tuple()) != r.g.Key(i) {
			return fmt.Errorf("%w: %d", ErrMismatch, nids[n])
		}
		r.events[nids[n]] = ev
	}
	return nil
}

// loadFull reads the full conflicted set.
func (r *resolution) loadFull() error {
	nids := make([]int64, 0, r.full.n)
	for i := range r.full.all() {
		nids = append(nids, r.g.NID(i))
	}
	return r.load(nids)
}

// loadAuth reads what else can be asked for when the events that are loaded are ordered and checked: what the rules need
// of the state as it is, and, since version 2, their auth events.
func (r *resolution) loadAuth() error {
	wanted := make(map[int64]struct{})
	want := func(nid int64) {
		if _, ok := r.events[nid]; !ok && nid != 0 {
			wanted[nid] = struct{}{}
		}
	}
	for nid, ev := range r.events {
		for _, k := range auth.NeededBy(ev.PDU) {
			want(r.held(state.Key(k)))
		}
		if r.rules.StateRes != 1 {
			for _, a := range r.g.Auth(r.g.Find(nid)) {
				want(r.g.NID(a))
			}
		}
	}
	if r.create != authgraph.None {
		want(r.g.NID(r.create))
	}
	nids := make([]int64, 0, len(wanted))
	for nid := range wanted {
		nids = append(nids, nid)
	}
	return r.load(nids)
}

// event returns an event that was loaded. The rules ask for nothing that [auth.NeededBy] does not name.
func (r *resolution) event(nid int64) (Event, error) {
	ev, ok := r.events[nid]
	if !ok {
		return Event{}, fmt.Errorf("event %d was not foreseen to be read", nid)
	}
	return ev, nil
}

// findCreate finds the create event, which no event of room version 12 or later cites: that of a state, or, if a state
// has lost even that, of the graph.
func (r *resolution) findCreate() error {
	if !r.rules.RoomIDIsCreateHash {
		return nil
	}
	for _, m := range r.states {
		if nid, ok := m.Get(createKey); ok {
			var err error
			r.create, err = r.find(nid)
			return err
		}
	}
	key, ok := r.g.FindKey(createKey)
	for i := range authgraph.Index(r.g.Len()) {
		if ok && r.g.KeyIndex(i) == key {
			r.create = i
			return nil
		}
	}
	return fmt.Errorf("%w: the create event", ErrUnknown)
}

// authEvent returns the event with a key among the auth events of i, and its number; 0 for none. Of several the first counts; such an
// event would have been rejected. Since version 12 the room ID names the create event.
func (r *resolution) authEvent(i authgraph.Index, ev *event.PDU, key state.Key) (nid int64, found Event, err error) {
	if key == createKey && r.rules.RoomIDIsCreateHash {
		if ev.Type == createKey.Type {
			return 0, Event{}, nil
		}
		nid = r.g.NID(r.create)
		found, err = r.event(nid)
		if err == nil && found.ID != auth.CreateEventID(ev.RoomID) {
			err = fmt.Errorf("%w: %s is not the create event of %s", ErrMismatch, found.ID, ev.RoomID)
		}
		return nid, found, err
	}
	for _, a := range r.g.Auth(i) {
		if r.g.Key(a) == key {
			nid = r.g.NID(a)
			found, err = r.event(nid)
			return nid, found, err
		}
	}
	return 0, Event{}, nil
}
