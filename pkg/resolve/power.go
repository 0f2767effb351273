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
		if r.m.fact(i).power {
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

// powerOrdering is the "reverse topological power ordering" by Kahn's algorithm.
func (r *resolution) powerOrdering(set *indexSet) ([]authgraph.Index, error) {
	events := set.list()
	places, err := r.byPower(events)
	if err != nil {
		return nil, err
	}
	rank := make([]int32, len(events)) // the place of each, if it did not wait for others
	for at, p := range places {
		rank[p.n] = int32(at)
	}
	waits := make([]int32, len(events)) // for so many auth events of the set
	citedBy := make([][]int32, len(events))
	next := heap[int32]{before: func(x, y *int32) bool { return *x < *y }}
	for at, i := range events {
		for _, a := range r.g.Auth(i) {
			if set.has(a) {
				cited, _ := slices.BinarySearch(events, a)
				citedBy[cited] = append(citedBy[cited], int32(at))
				waits[at]++
			}
		}
		if waits[at] == 0 {
			next.push(rank[at])
		}
	}
	ordered := make([]authgraph.Index, 0, len(events))
	for len(next.items) > 0 {
		first := places[next.pop()]
		ordered = append(ordered, first.at)
		if err := r.visit(1 + len(citedBy[first.n])); err != nil {
			return nil, err
		}
		for _, at := range citedBy[first.n] {
			if waits[at]--; waits[at] == 0 {
				next.push(rank[at])
			}
		}
	}
	return ordered, nil
}

// byPower orders events by the power of their senders, the greatest first, then by age.
func (r *resolution) byPower(events []authgraph.Index) ([]place, error) {
	if err := r.findPowers(events); err != nil {
		return nil, err
	}
	list := make([]place, len(events))
	for n, i := range events {
		list[n] = r.placeOf(n, i, -r.m.powers[i])
	}
	return list, r.sort(list)
}

// findPowers finds the power of the senders of events, by the events' own auth events, where it is not known.
func (r *resolution) findPowers(events []authgraph.Index) error {
	var unknown, want []authgraph.Index
	for _, i := range events {
		if _, ok := r.m.powers[i]; ok {
			continue
		}
		unknown = append(unknown, i)
		for _, a := range []authgraph.Index{i, r.ownCreate(i), r.g.Levels(i)} {
			if a != authgraph.None && r.events[a] == nil {
				want = append(want, a)
			}
		}
	}
	if err := r.load(want); err != nil {
		return err
	}
	for _, i := range unknown {
		ev, cited := r.events[i], auth.Events{}
		for _, a := range []authgraph.Index{r.ownCreate(i), r.g.Levels(i)} {
			if a != authgraph.None {
				cited = append(cited, r.events[a])
			}
		}
		if ev.Type != createKey.Type {
			if err := r.checkCreate(ev); err != nil {
				return err
			}
		}
		r.m.powers[i] = auth.PowerOf(ev.Sender, cited)
	}
	return nil
}

// ownCreate is the create event by which the sender of i has power: i itself, or its auth event.
func (r *resolution) ownCreate(i authgraph.Index) authgraph.Index {
	key, ok := r.g.FindKey(createKey)
	switch {
	case r.g.Key(i).Type == createKey.Type:
		return i
	case !ok:
		return authgraph.None
	}
	return r.authEvent(i, key)
}
