package hugeroom

import (
	"context"
	"fmt"
	"slices"

	"hanse/pkg/authgraph"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/stateres"
	"hanse/pkg/resolve"
	"hanse/pkg/state"
)

// resolve resolves states that differ.
func (r *Room) resolve(maps []state.Map) (state.Map, error) {
	slices.SortFunc(maps, func(a, b state.Map) int { return slices.Compare(sid(a), sid(b)) })
	var key []byte
	largest := 0
	for _, m := range maps {
		key = append(key, sid(m)...)
		largest = max(largest, m.Len())
	}
	if m, ok := r.merged[string(key)]; ok {
		return m, nil
	}
	by := r.literally
	if largest > r.cfg.Literal {
		by = r.byGraph
	}
	m, err := by(maps)
	if err != nil {
		return state.Map{}, err
	}
	if len(r.merged) >= keptStates {
		clear(r.merged)
	}
	r.merged[string(key)] = m
	return m, nil
}

// literally resolves as the specification is written.
func (r *Room) literally(maps []state.Map) (state.Map, error) {
	sets := make([]stateres.Set, len(maps))
	for i, m := range maps {
		sets[i] = r.Set(m)
	}
	set, err := stateres.Resolve(r.Rules, sets, r)
	if err != nil {
		return state.Map{}, err
	}
	m := maps[0] // what it shares with one of them stays shared
	for k := range maps[0].All() {
		if _, ok := set[event.Tuple(k)]; !ok {
			m = m.Delete(k)
		}
	}
	for k, e := range set {
		if n, _ := m.Get(state.Key(k)); n != int64(r.byID[e]) {
			m = m.Set(state.Key(k), int64(r.byID[e]))
		}
	}
	return m, nil
}

// byGraph resolves at the cost of what differs.
func (r *Room) byGraph(maps []state.Map) (state.Map, error) {
	for n := r.graphed + 1; n < len(r.events); n++ {
		if e := r.events[n]; e.IsState() {
			node := authgraph.Node{NID: int64(n), Key: state.Key(e.Tuple())}
			for _, a := range e.AuthEvents {
				node.Auth = append(node.Auth, int64(r.byID[a]))
			}
			if err := r.graph.Add(node); err != nil {
				return state.Map{}, fmt.Errorf("auth graph: %s: %w", e.ID, err)
			}
		}
		r.graphed = n
	}
	m, _, err := resolve.Resolve(context.Background(), r.Rules, r.graph, maps, replayed{r}, resolve.Budget{})
	return m, err
}

// replayed are the events that a resolution reads: their numeric ids are their numbers.
type replayed struct{ r *Room }

// Events implements [resolve.Source].
func (s replayed) Events(_ context.Context, nids []int64) ([]resolve.Event, error) {
	out := make([]resolve.Event, len(nids))
	for i, n := range nids {
		out[i] = resolve.Event{PDU: s.r.events[n]}
	}
	return out, nil
}
