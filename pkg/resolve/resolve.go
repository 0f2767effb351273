package resolve

import (
	"context"
	"errors"
	"fmt"

	"hanse/pkg/authgraph"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/state"
)

// Event is a state event as a resolution reads it.
type Event struct {
	*event.PDU
	// Rejected says that the event failed the authorisation rules on receipt.
	Rejected bool
}

// Source gives events by numeric id.
type Source interface {
	// Events returns the events in the order of the ids, which ascend and are distinct. One that is missing is an error.
	// A resolution calls it at most twice.
	Events(ctx context.Context, nids []int64) ([]Event, error)
}

// Errors of Resolve, beside *BudgetError and what the source and the context answer.
var (
	// ErrUnknown says that a state names an event that the auth graph does not have.
	ErrUnknown = errors.New("event of a state is not in the auth graph")
	// ErrMismatch says that a state, the auth graph and the source do not speak of the same event.
	ErrMismatch = errors.New("event is not what the state or the auth graph says")
)

// Resolve returns the resolution of states of one room by the algorithm of its version. Neither the order of the states
// nor repetition matters; no state at all resolves to the empty one. The result shares what it can with the first of
// them. The graph must have all events of the states, and must not change meanwhile.
//
// What was spent is returned beside an error too.
func Resolve(ctx context.Context, rules *roomversion.Rules, g *authgraph.Graph, states []state.Map, src Source, budget Budget) (state.Map, Stats, error) {
	states = distinct(states)
	switch len(states) {
	case 0:
		return state.Map{}, Stats{}, nil
	case 1:
		return states[0], Stats{}, nil
	}
	r := &resolution{
		meter:  meter{Stats: Stats{Verdicts: make(map[int64]bool)}, ctx: ctx, budget: budget},
		rules:  rules,
		g:      g,
		src:    src,
		states: states,
		events: make(map[int64]Event),
		create: authgraph.None,
	}
	algorithm := r.resolveV2
	switch rules.StateRes {
	case 1:
		algorithm = r.resolveV1
	case 2, 21:
	default:
		return state.Map{}, Stats{}, fmt.Errorf("state resolution: room version %s has unknown algorithm %d", rules.Version, rules.StateRes)
	}
	if err := r.collect(); err != nil {
		return state.Map{}, r.Stats, fmt.Errorf("state resolution: %w", err)
	}
	if err := algorithm(); err != nil {
		return state.Map{}, r.Stats, fmt.Errorf("state resolution: %w", err)
	}
	return r.result(), r.Stats, nil
}

// distinct leaves each state once.
func distinct(states []state.Map) []state.Map {
	seen := make(map[state.ID]struct{}, len(states))
	var out []state.Map
	for _, m := range states {
		if _, ok := seen[m.ID()]; !ok {
			seen[m.ID()] = struct{}{}
			out = append(out, m)
		}
	}
	return out
}

// resolution is one call of Resolve.
type resolution struct {
	meter
	rules  *roomversion.Rules
	g      *authgraph.Graph
	src    Source
	states []state.Map

	// decided is the state under construction, as far as it can differ from what all states agree on: the conflicted
	// keys, and those of the events that were replayed.
	decided    map[state.Key]decision
	conflicts  []conflict
	conflicted indexSet // the events of the conflicts

	full   indexSet // the full conflicted set
	events map[int64]Event
	create authgraph.Index // since version 12, the create event of the room
}

// decision is what the resolution holds for a key.
type decision struct {
	nid        int64 // 0 for none
	conflicted bool
}

// conflict is a key on which the states differ.
type conflict struct {
	key    state.Key
	values []int64 // the event of each state, 0 for none
}

// collect finds the conflicted keys and their events.
func (r *resolution) collect() error {
	r.decided = make(map[state.Key]decision)
	r.conflicted = newIndexSet(r.g.Len())
	var slab []int64
	for key, values := range state.DiffN(r.states) {
		if err := r.visit(len(values)); err != nil {
			return err
		}
		from := len(slab)
		slab = append(slab, values...)
		r.conflicts = append(r.conflicts, conflict{key, slab[from:len(slab):len(slab)]})
		r.decided[key] = decision{conflicted: true}
	}
	r.Conflicted = len(r.conflicts)
	for _, c := range r.conflicts {
		last := int64(0)
		for _, nid := range c.values {
			if nid == 0 || nid == last {
				continue
			}
			last = nid
			i, err := r.find(nid)
			if err != nil {
				return err
			}
			if r.g.Key(i) != c.key {
				return fmt.Errorf("%w: %d stands at %v", ErrMismatch, nid, c.key)
			}
			r.conflicted.add(i)
		}
	}
	return nil
}

func (r *resolution) find(nid int64) (authgraph.Index, error) {
	i := r.g.Find(nid)
	if i == authgraph.None {
		return i, fmt.Errorf("%w: %d", ErrUnknown, nid)
	}
	return i, nil
}

// agreed says whether an event is part of the unconflicted state map.
func (r *resolution) agreed(i authgraph.Index) bool {
	key := r.g.Key(i)
	nid, ok := r.states[0].Get(key)
	return ok && nid == r.g.NID(i) && !r.decided[key].conflicted
}

// result is the first state with the decisions. What was not in conflict stays as it was, even where an event was
// replayed for it.
func (r *resolution) result() state.Map {
	changes := make([]state.Change, 0, len(r.decided))
	for key, d := range r.decided {
		if d.conflicted || !r.states[0].Has(key) {
			changes = append(changes, state.Change{Key: key, New: d.nid})
		}
	}
	return r.states[0].Apply(changes)
}
