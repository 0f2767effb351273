package resolve

import (
	"slices"

	"hanse/pkg/authgraph"
	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
)

// IsPower says whether a state event is a "power event": power levels, join rules, and what removes somebody else (room
// version 2, "State resolution").
func IsPower(ev *event.PDU) bool {
	switch ev.Type {
	case "m.room.power_levels", "m.room.join_rules":
		return *ev.StateKey == ""
	case "m.room.member":
		if string(ev.Sender) == *ev.StateKey {
			return false
		}
		membership := ev.Membership()
		return membership == "leave" || membership == "ban"
	}
	return false
}

// powerSet is the set X of step 1: the power events of the full conflicted set, and the events of their auth chains that
// belong to it, too, as far as the path to them stays in it (package stateres, "Where implementations differ").
func (r *resolution) powerSet() (indexSet, error) {
	x := newIndexSet(r.g.Len())
	var work []authgraph.Index
	for i := range r.full.all() {
		if IsPower(r.events[r.g.NID(i)].PDU) {
			x.add(i)
			work = append(work, i)
		}
	}
	for len(work) > 0 {
		i := work[len(work)-1]
		work = work[:len(work)-1]
		if err := r.visit(1 + len(r.g.Auth(i))); err != nil {
			return x, err
		}
		for _, a := range r.g.Auth(i) {
			if r.full.has(a) && x.add(a) {
				work = append(work, a)
			}
		}
	}
	return x, nil
}

// ranked is an event with what the power ordering compares.
type ranked struct {
	at    int // in the list of the events that are ordered
	power int64
	ev    *event.PDU
}

func (x *ranked) before(y *ranked) bool {
	switch {
	case x.power != y.power:
		return x.power > y.power
	case x.ev.OriginServerTS != y.ev.OriginServerTS:
		return x.ev.OriginServerTS < y.ev.OriginServerTS
	}
	return x.ev.ID < y.ev.ID
}

// powerOrdering is the "reverse topological power ordering" by Kahn's algorithm.
func (r *resolution) powerOrdering(set *indexSet) ([]authgraph.Index, error) {
	events := set.list()
	waits := make([]int32, len(events)) // for so many auth events of the set
	citedBy := make([][]int32, len(events))
	next := heap[ranked]{before: (*ranked).before}
	for at, i := range events {
		for _, a := range r.g.Auth(i) {
			if set.has(a) {
				cited, _ := slices.BinarySearch(events, a)
				citedBy[cited] = append(citedBy[cited], int32(at))
				waits[at]++
			}
		}
		if waits[at] > 0 {
			continue
		}
		if err := r.rank(&next, at, i); err != nil {
			return nil, err
		}
	}
	ordered := make([]authgraph.Index, 0, len(events))
	for len(next.items) > 0 {
		first := next.pop().at
		ordered = append(ordered, events[first])
		if err := r.visit(1 + len(citedBy[first])); err != nil {
			return nil, err
		}
		for _, at := range citedBy[first] {
			if waits[at]--; waits[at] == 0 {
				if err := r.rank(&next, int(at), events[at]); err != nil {
					return nil, err
				}
			}
		}
	}
	return ordered, nil
}

// rank makes an event one of those that may come next. Its sender's power is the one by its own auth events.
func (r *resolution) rank(next *heap[ranked], at int, i authgraph.Index) error {
	ev := r.events[r.g.NID(i)].PDU
	_, levels, err := r.authEvent(i, ev, powerLevelsKey)
	if err != nil {
		return err
	}
	create := Event{PDU: ev}
	if ev.Type != createKey.Type {
		if _, create, err = r.authEvent(i, ev, createKey); err != nil {
			return err
		}
	}
	next.push(ranked{at, auth.PowerOf(ev.Sender, auth.Events{create.PDU, levels.PDU}), ev})
	return nil
}
