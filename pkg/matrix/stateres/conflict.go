package stateres

import (
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
)

// Definitions of "State resolution" in room versions 2 and 12.

// separate divides the pairs of all sets into the "unconflicted state map"
// (the same value in every set) and the "conflicted state set" (the others).
func separate(sets []Set) (unconflicted Set, conflicted eventSet) {
	unconflicted, conflicted = Set{}, eventSet{}
	for _, s := range sets {
		for k, e := range s {
			if inAll(sets, k, e) {
				unconflicted[k] = e
			} else {
				conflicted.add(e)
			}
		}
	}
	return unconflicted, conflicted
}

func inAll(sets []Set, k event.Tuple, e id.Event) bool {
	for _, s := range sets {
		if v, ok := s[k]; !ok || v != e {
			return false
		}
	}
	return true
}

// authDifference is ∪Cᵢ − ∩Cᵢ, where Cᵢ is the "full auth chain" of the i-th
// set: its events and the union of their auth chains.
func (g *graph) authDifference(sets []Set) (eventSet, error) {
	chains := make([]eventSet, len(sets))
	union := eventSet{}
	for i, s := range sets {
		from := make(eventSet, len(s))
		for _, e := range s {
			from.add(e)
		}
		chain, err := g.authChain(from)
		if err != nil {
			return nil, err
		}
		chain.addAll(from)
		chains[i] = chain
		union.addAll(chain)
	}
	difference := eventSet{}
	for e := range union {
		for _, chain := range chains {
			if !chain.has(e) {
				difference.add(e)
				break
			}
		}
	}
	return difference, g.complete()
}

// conflictedStateSubgraph is the union of all paths along auth_events from one
// conflicted event to another, including the endpoints (MSC4297): what can be
// reached from a conflicted event, and can reach one.
func (g *graph) conflictedStateSubgraph(conflicted eventSet) (eventSet, error) {
	reachable, err := g.authChain(conflicted)
	if err != nil {
		return nil, err
	}
	reachable.addAll(conflicted)
	if err := g.complete(); err != nil {
		return nil, err
	}
	citedBy := make(map[id.Event][]id.Event)
	for e := range reachable {
		for _, a := range g.events[e].AuthEvents {
			citedBy[a] = append(citedBy[a], e)
		}
	}
	subgraph := eventSet{}
	work := conflicted.sorted()
	for len(work) > 0 {
		e := work[len(work)-1]
		work = work[:len(work)-1]
		for _, d := range citedBy[e] {
			// A path of at least one link, d to e, and on to a conflicted event.
			if conflicted.has(e) {
				subgraph.add(e)
			}
			if !subgraph.has(d) {
				subgraph.add(d)
				if !conflicted.has(d) {
					work = append(work, d)
				}
			}
		}
	}
	return subgraph, nil
}

// fullConflictedSet is the union of the conflicted state set, the auth
// difference and, in version 12, the conflicted state subgraph.
func (g *graph) fullConflictedSet(sets []Set, conflicted eventSet) (eventSet, error) {
	full, err := g.authDifference(sets)
	if err != nil {
		return nil, err
	}
	full.addAll(conflicted)
	if g.rules.StateRes == 21 {
		subgraph, err := g.conflictedStateSubgraph(conflicted)
		if err != nil {
			return nil, err
		}
		full.addAll(subgraph)
	}
	for e := range full {
		if _, err := g.read(e); err != nil {
			return nil, err
		}
	}
	return full, g.complete()
}
