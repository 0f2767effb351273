package stateres

import (
	"bytes"
	"cmp"
	"crypto/sha1" //nolint:gosec // the algorithm of room version 1 orders by it
	"maps"
	"slices"
	"strings"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
)

// resolveV1 is the algorithm of room version 1. Its passes build up R.
func resolveV1(g *graph, sets []Set) (Set, error) {
	r, conflicts, err := separateV1(g, sets)
	if err != nil {
		return nil, err
	}
	for _, typ := range []string{typePowerLevels, typeJoinRules, typeMember} {
		if err := resolveAuthConflicts(g, r, conflicts, typ); err != nil {
			return nil, err
		}
	}
	return r, resolveOtherConflicts(g, r, conflicts)
}

// separateV1 starts R with the union of the states, excluding the conflicting
// events. In version 1 a conflict needs two different events: a key that some
// state lacks is not in conflict.
func separateV1(g *graph, sets []Set) (r Set, conflicts map[event.Tuple][]*event.PDU, err error) {
	r = Set{}
	values := make(map[event.Tuple]eventSet)
	for _, s := range sets {
		for k, e := range s {
			if values[k] == nil {
				values[k] = eventSet{}
			}
			values[k].add(e)
		}
	}
	conflicts = make(map[event.Tuple][]*event.PDU)
	for k, v := range values {
		for _, e := range v.sorted() {
			if len(v) == 1 {
				r[k] = e
				continue
			}
			ev, err := g.read(e)
			if err != nil {
				return nil, nil, err
			}
			conflicts[k] = append(conflicts[k], ev)
		}
	}
	return r, conflicts, g.complete()
}

// resolveAuthConflicts is the pass for one of the types that authorise others.
// The keys of a type are resolved from the same R, so that their order does not
// matter.
func resolveAuthConflicts(g *graph, r Set, conflicts map[event.Tuple][]*event.PDU, typ string) error {
	resolved := Set{}
	for k, events := range conflicts {
		if k.Type != typ {
			continue
		}
		delete(conflicts, k)
		last, err := resolveAuthConflict(g, r, k, events)
		if err != nil {
			return err
		}
		resolved[k] = last
	}
	maps.Copy(r, resolved)
	return nil
}

// resolveAuthConflict goes up the events for a key, from the lowest depth, for
// as long as each is allowed after the one before.
func resolveAuthConflict(g *graph, r Set, k event.Tuple, events []*event.PDU) (id.Event, error) {
	slices.SortFunc(events, byDepth)
	state := maps.Clone(r)
	state[k] = events[0].ID
	for _, ev := range events[1:] {
		allowed, err := g.allowed(ev, state, false)
		if err != nil {
			return "", err
		}
		if !allowed {
			break
		}
		state[k] = ev.ID
	}
	return state[k], nil
}

// resolveOtherConflicts picks, for each of the other keys, the event with the
// highest depth and lowest hash that is allowed in R.
func resolveOtherConflicts(g *graph, r Set, conflicts map[event.Tuple][]*event.PDU) error {
	resolved := Set{}
	for k, events := range conflicts {
		slices.SortFunc(events, byDepth)
		picked := events[0]
		for _, ev := range slices.Backward(events) {
			allowed, err := g.allowed(ev, r, false)
			if err != nil {
				return err
			}
			if allowed {
				picked = ev
				break
			}
		}
		resolved[k] = picked.ID
	}
	maps.Copy(r, resolved)
	return nil
}

// byDepth is ascending by depth, then descending by sha1(event_id).
func byDepth(x, y *event.PDU) int {
	if c := cmp.Compare(x.Depth, y.Depth); c != 0 {
		return c
	}
	hx, hy := sha1.Sum([]byte(x.ID)), sha1.Sum([]byte(y.ID)) //nolint:gosec // see the import
	if c := bytes.Compare(hy[:], hx[:]); c != 0 {
		return c
	}
	return strings.Compare(string(x.ID), string(y.ID))
}
