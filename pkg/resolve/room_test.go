package resolve_test

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"hanse/pkg/authgraph"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/matrix/stateres"
	"hanse/pkg/resolve"
	"hanse/pkg/state"
)

// graphed is a room of the oracle's kind with numeric ids and an auth graph.
type graphed struct {
	rules *roomversion.Rules
	src   stateres.Source
	g     *authgraph.Graph
	nids  map[id.Event]int64
	byNID map[int64]id.Event
	calls int
	// most bounds the calls, if it is not 0.
	most int
	// known resolves what was resolved before, too.
	known *resolve.Resolver
	// flipped events are rejected if the source says that they are not, and the other way round.
	flipped map[int64]bool
}

// newGraphed numbers the state events, which are in topological order.
func newGraphed(rules *roomversion.Rules, events []*event.PDU, src stateres.Source) (*graphed, error) {
	r := &graphed{rules: rules, src: src, g: authgraph.New(), nids: make(map[id.Event]int64), byNID: make(map[int64]id.Event)}
	for n, ev := range events {
		if !ev.IsState() {
			continue
		}
		if _, ok := r.nids[ev.ID]; ok {
			return nil, fmt.Errorf("%s stands in the room twice", ev.ID)
		}
		nid := int64(3*n + 7)
		r.nids[ev.ID], r.byNID[nid] = nid, ev.ID
		node := authgraph.Node{NID: nid, Key: state.Key(ev.Tuple())}
		for _, a := range ev.AuthEvents {
			node.Auth = append(node.Auth, r.nids[a])
		}
		if err := r.g.Add(node); err != nil {
			return nil, fmt.Errorf("%s: %w", ev.ID, err)
		}
	}
	r.known = resolve.NewResolver(r.g)
	return r, nil
}

// Events implements resolve.Source, and asserts what a source is promised.
func (r *graphed) Events(_ context.Context, nids []int64) ([]resolve.Event, error) {
	if r.calls++; r.most > 0 && r.calls > r.most {
		return nil, fmt.Errorf("call %d of the source", r.calls)
	}
	if len(nids) == 0 || !slices.IsSorted(nids) || len(slices.Compact(slices.Clone(nids))) != len(nids) {
		return nil, fmt.Errorf("asked for %v", nids)
	}
	events := make([]resolve.Event, len(nids))
	for i, nid := range nids {
		ev, err := r.src.Event(r.byNID[nid])
		if err != nil {
			return nil, fmt.Errorf("event %d: %w", nid, err)
		}
		events[i] = resolve.Event{PDU: ev, Rejected: r.src.Rejected(ev.ID) != r.flipped[nid]}
	}
	return events, nil
}

func (r *graphed) mapOf(s stateres.Set) state.Map {
	return state.New(func(yield func(state.Key, int64) bool) {
		for k, e := range s {
			if !yield(state.Key(k), r.nids[e]) {
				return
			}
		}
	})
}

func (r *graphed) mapsOf(sets []stateres.Set) []state.Map {
	out := make([]state.Map, len(sets))
	for i, s := range sets {
		out[i] = r.mapOf(s)
	}
	return out
}

func (r *graphed) setOf(m state.Map) stateres.Set {
	s := make(stateres.Set, m.Len())
	for k, nid := range m.All() {
		s[event.Tuple(k)] = r.byNID[nid]
	}
	return s
}

// resolve is the resolution by the package under test.
func (r *graphed) resolve(sets []stateres.Set) (stateres.Set, resolve.Stats, error) {
	r.calls, r.most = 0, 2
	m, stats, err := resolve.Resolve(context.Background(), r.rules, r.g, r.mapsOf(sets), r, resolve.Budget{})
	if err != nil {
		return nil, stats, err
	}
	return r.setOf(m), stats, nil
}

// again is the same with what earlier resolutions have learned.
func (r *graphed) again(sets []stateres.Set) (stateres.Set, resolve.Stats, error) {
	r.calls, r.most = 0, 0
	m, stats, err := r.known.Resolve(context.Background(), r.rules, r.mapsOf(sets), r, resolve.Budget{}, 1<<30)
	if err != nil {
		return nil, stats, err
	}
	return r.setOf(m), stats, nil
}

// compare resolves with both implementations.
func (r *graphed) compare(sets []stateres.Set) (resolve.Stats, error) {
	want, err := stateres.Resolve(r.rules, sets, r.src)
	if err != nil {
		return resolve.Stats{}, fmt.Errorf("oracle: %w", err)
	}
	got, stats, err := r.resolve(sets)
	if err != nil {
		return stats, err
	}
	if !maps.Equal(got, want) {
		return stats, fmt.Errorf("version %s, %d states: %s", r.rules.Version, len(sets), differences(got, want))
	}
	for _, when := range []string{"with what was learned before", "once more"} {
		got, known, err := r.again(sets)
		if err != nil {
			return stats, err
		}
		if !maps.Equal(got, want) {
			return stats, fmt.Errorf("version %s, %d states, %s: %s", r.rules.Version, len(sets), when, differences(got, want))
		}
		if err := covers(known.Verdicts, stats.Verdicts); err != nil {
			return stats, fmt.Errorf("%s: %w", when, err)
		}
	}
	return stats, nil
}

// covers says whether a resolution depends on at least the verdicts that another one does.
func covers(all, some map[int64]bool) error {
	for nid, rejected := range some {
		if got, ok := all[nid]; !ok || got != rejected {
			return fmt.Errorf("verdict on %d: %v %v, want %v", nid, got, ok, rejected)
		}
	}
	return nil
}

func differences(got, want stateres.Set) string {
	var out string
	for k := range got {
		if got[k] != want[k] {
			out += fmt.Sprintf("%v: %q, want %q\n", k, got[k], want[k])
		}
	}
	for k, e := range want {
		if _, ok := got[k]; !ok {
			out += fmt.Sprintf("%v: none, want %q\n", k, e)
		}
	}
	return out
}
