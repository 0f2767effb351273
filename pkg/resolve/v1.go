package resolve

import (
	"bytes"
	"cmp"
	"crypto/sha1" //nolint:gosec // the algorithm of room version 1 orders by it
	"slices"

	"hanse/pkg/authgraph"
	"hanse/pkg/matrix/event"
)

// resolveV1 is the algorithm of room version 1. A conflict needs two different events: a key that some state lacks is not
// in conflict. The passes decide the keys of one type after the other, all keys of a type upon the same state.
func (r *resolution) resolveV1() error {
	conflicts, err := r.separateV1()
	if err != nil {
		return err
	}
	for _, typ := range []string{"m.room.power_levels", "m.room.join_rules", "m.room.member", ""} {
		decided := make(map[authgraph.KeyIndex]authgraph.Index)
		for key, events := range conflicts {
			if typ != "" && r.g.KeyAt(key).Type != typ {
				continue
			}
			decide := r.lastAllowed
			if typ != "" {
				decide = r.firstAllowed
			}
			if decided[key], err = decide(key, events); err != nil {
				return err
			}
			delete(conflicts, key)
		}
		for key, at := range decided {
			r.hold(key, at)
		}
	}
	return nil
}

// separateV1 decides the keys for which there is one event, and returns the events of the others by depth.
func (r *resolution) separateV1() (map[authgraph.KeyIndex][]hashed, error) {
	values := make(map[authgraph.KeyIndex][]authgraph.Index)
	var all []authgraph.Index
	for n, key := range r.conflicts {
		some := slices.Clone(r.valuesOf(n))
		slices.Sort(some)
		some = slices.DeleteFunc(slices.Compact(some), func(i authgraph.Index) bool { return i == authgraph.None })
		if len(some) == 1 {
			r.hold(key, some[0])
			continue
		}
		values[key] = some
		all = append(all, some...)
	}
	r.Full = len(all)
	if err := r.load(slices.Clone(all)); err != nil {
		return nil, err
	}
	if err := r.loadAnswers(all); err != nil {
		return nil, err
	}
	conflicts := make(map[authgraph.KeyIndex][]hashed, len(values))
	for key, of := range values {
		events := make([]hashed, len(of))
		for n, i := range of {
			ev := r.events[i]
			events[n] = hashed{i, ev, sha1.Sum([]byte(ev.ID))} //nolint:gosec // see the import
		}
		slices.SortFunc(events, byDepth)
		conflicts[key] = events
	}
	return conflicts, nil
}

// hashed is an event with what the order of version 1 compares.
type hashed struct {
	at authgraph.Index
	*event.PDU
	sum [sha1.Size]byte
}

// byDepth is ascending by depth, then descending by sha1(event_id).
func byDepth(x, y hashed) int {
	if c := cmp.Compare(x.Depth, y.Depth); c != 0 {
		return c
	}
	return cmp.Or(bytes.Compare(y.sum[:], x.sum[:]), cmp.Compare(x.ID, y.ID))
}

// firstAllowed goes up the events for a key, from the lowest depth, for as long as each is allowed after the one before.
func (r *resolution) firstAllowed(key authgraph.KeyIndex, events []hashed) (authgraph.Index, error) {
	view := &view{r: r}
	picked := events[0].at
	defer r.hold(key, authgraph.None)
	for _, ev := range events[1:] {
		r.hold(key, picked)
		allowed, err := view.judge([]authgraph.Index{ev.at})
		if err != nil {
			return 0, err
		}
		if !allowed {
			break
		}
		picked = ev.at
	}
	return picked, nil
}

// lastAllowed is the event for a key with the highest depth that is allowed, or else the one with the lowest.
func (r *resolution) lastAllowed(_ authgraph.KeyIndex, events []hashed) (authgraph.Index, error) {
	view := &view{r: r}
	for _, ev := range slices.Backward(events) {
		allowed, err := view.judge([]authgraph.Index{ev.at})
		if err != nil {
			return 0, err
		}
		if allowed {
			return ev.at, nil
		}
	}
	return events[0].at, nil
}
