package stateres

import (
	"maps"

	"hanse/pkg/matrix/event"
)

// resolveV2 is the "Algorithm" of room versions 2 to 11 and, with the two
// modifications of MSC4297, of version 12.
func resolveV2(g *graph, sets []Set) (Set, error) {
	unconflicted, conflicted := separate(sets)
	full, err := g.fullConflictedSet(sets, conflicted)
	if err != nil {
		return nil, err
	}

	// 1. Select the power events, and what authorises them.
	x := g.powerEventsWithAuth(full)
	powerEvents, err := g.reverseTopologicalPowerOrdering(x)
	if err != nil {
		return nil, err
	}

	// 2. Apply them to the unconflicted state map; in version 12 to nothing.
	resolved := Set{}
	if g.rules.StateRes == 2 {
		resolved = maps.Clone(unconflicted)
	}
	if err := g.iterativeAuthChecks(resolved, powerEvents); err != nil {
		return nil, err
	}

	// 3. Order the rest along the power levels that came out.
	rest := eventSet{}
	for e := range full {
		if !x.has(e) {
			rest.add(e)
		}
	}
	levels, err := g.stateEvent(resolved, event.Tuple{Type: typePowerLevels})
	if err != nil {
		return nil, err
	}
	others, err := g.mainlineOrdering(rest, levels)
	if err != nil {
		return nil, err
	}

	// 4. Apply them as well.
	if err := g.iterativeAuthChecks(resolved, others); err != nil {
		return nil, err
	}

	// 5. What was not in conflict stays as it was.
	maps.Copy(resolved, unconflicted)
	return resolved, nil
}

// powerEventsWithAuth is the set X of step 1: the power events in the full
// conflicted set, enlarged by the events in their auth chains that belong to
// it as well, as far as the path to them stays in it.
func (g *graph) powerEventsWithAuth(full eventSet) eventSet {
	x := eventSet{}
	for e := range full {
		if isPowerEvent(g.events[e]) {
			x.add(e)
		}
	}
	work := x.sorted()
	for len(work) > 0 {
		e := work[len(work)-1]
		work = work[:len(work)-1]
		for _, a := range g.events[e].AuthEvents {
			if full.has(a) && !x.has(a) {
				x.add(a)
				work = append(work, a)
			}
		}
	}
	return x
}

// stateEvent returns the event that a state has for a key, or nil.
func (g *graph) stateEvent(state Set, k event.Tuple) (*event.PDU, error) {
	e, ok := state[k]
	if !ok {
		return nil, nil
	}
	return g.get(e)
}
