package resolve

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

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
	// A resolution that remembers nothing calls it at most twice. One that does reads less; it calls it some times more where
	// what it remembers does not hold for many events.
	Events(ctx context.Context, nids []int64) ([]Event, error)
}

// Errors of Resolve, beside *BudgetError and what the source and the context answer.
var (
	// ErrUnknown says that a state names an event that the auth graph does not have.
	ErrUnknown = errors.New("event of a state is not in the auth graph")
	// ErrMismatch says that a state, the auth graph and the source do not speak of the same event.
	ErrMismatch = errors.New("event is not what the state or the auth graph says")
)

// Resolver resolves the states of a room, and remembers what it has learned of the events. It is safe for concurrent use, but
// one resolution at a time has the memory.
type Resolver struct {
	g *authgraph.Graph

	mu    sync.Mutex // of who has the memory
	m     *memory
	bytes atomic.Int64 // of the memory
	dated atomic.Bool  // verdicts have changed
}

// NewResolver returns a resolver with the auth graph of a room, which may go on growing between resolutions.
func NewResolver(g *authgraph.Graph) *Resolver { return &Resolver{g: g, m: newMemory()} }

// Graph returns the auth graph.
func (r *Resolver) Graph() *authgraph.Graph { return r.g }

// Bytes estimates the memory that the resolver holds, its graph included.
func (r *Resolver) Bytes() int64 { return r.g.Bytes() + r.bytes.Load() }

// VerdictsChanged is called when an event of the room has come to be rejected, or not to be any more.
func (r *Resolver) VerdictsChanged() { r.dated.Store(true) }

// Resolve is [Resolve] with what was learned before. What the source says of events must be what it has said before, but for
// whether they are rejected after [Resolver.VerdictsChanged]. A memory of more than most bytes is given up afterwards.
func (r *Resolver) Resolve(ctx context.Context, rules *roomversion.Rules, states []state.Map, src Source, budget Budget, most int64) (state.Map, Stats, error) {
	if !r.mu.TryLock() {
		return Resolve(ctx, rules, r.g, states, src, budget)
	}
	defer r.mu.Unlock()
	if r.dated.Swap(false) {
		r.m.verdicts++
	}
	m, stats, err := resolve(ctx, rules, r.g, r.m, states, src, budget)
	if r.m.bytes() > most {
		r.m = newMemory()
	}
	r.bytes.Store(r.m.bytes())
	return m, stats, err
}

// Resolve returns the resolution of states of one room by the algorithm of its version. Neither the order of the states
// nor repetition matters; no state at all resolves to the empty one. The result shares what it can with the largest of
// them. The graph must have all events of the states, and must not change meanwhile.
//
// What was spent is returned beside an error too.
func Resolve(ctx context.Context, rules *roomversion.Rules, g *authgraph.Graph, states []state.Map, src Source, budget Budget) (state.Map, Stats, error) {
	return resolve(ctx, rules, g, newMemory(), states, src, budget)
}

func resolve(ctx context.Context, rules *roomversion.Rules, g *authgraph.Graph, known *memory, states []state.Map, src Source, budget Budget) (state.Map, Stats, error) {
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
		m:      known,
		src:    src,
		states: states,
		create: authgraph.None,
	}
	known.begin(g)
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
	m      *memory // its cells are the state under construction, as far as that was looked at
	src    Source
	states []state.Map

	smallest state.Map // of the states: the quickest to ask for what they agree on
	largest  int       // of the states: the result is built upon it

	// The keys on which the states differ, and for each of them the event of each state, None for none.
	conflicts  []authgraph.KeyIndex
	values     []authgraph.Index
	conflicted indexSet // their events
	replayed   []authgraph.KeyIndex

	full   indexSet // the full conflicted set
	events map[authgraph.Index]*event.PDU
	create authgraph.Index // since version 12, the create event of the room
	ahead  int             // how many events were read ahead of a check
}

// collect finds the conflicted keys and their events.
func (r *resolution) collect() error {
	r.conflicted = newIndexSet(r.g.Len())
	r.smallest = r.states[0]
	for n, m := range r.states {
		if m.Len() < r.smallest.Len() {
			r.smallest = m
		}
		if m.Len() > r.states[r.largest].Len() {
			r.largest = n
		}
	}
	for key, values := range state.DiffN(r.states) {
		if err := r.visit(len(values)); err != nil {
			return err
		}
		if err := r.addConflict(key, values); err != nil {
			return err
		}
	}
	r.Conflicted = len(r.conflicts)
	return nil
}

func (r *resolution) addConflict(key state.Key, values []int64) error {
	last, at := int64(0), authgraph.None
	for _, nid := range values {
		switch {
		case nid == 0:
			r.values = append(r.values, authgraph.None)
			continue
		case nid != last:
			var err error
			if at, err = r.find(nid); err != nil {
				return err
			}
			if r.g.Key(at) != key {
				return fmt.Errorf("%w: %d stands at %v", ErrMismatch, nid, key)
			}
			r.conflicted.add(at)
			last = nid
		}
		r.values = append(r.values, at)
	}
	k := r.g.KeyIndex(at)
	r.conflicts = append(r.conflicts, k)
	*r.m.cells.at(uint32(k)) = cell{authgraph.None, cellConflicted}
	return nil
}

// valuesOf are the events of the states for a key in conflict, by its place among those.
func (r *resolution) valuesOf(conflict int) []authgraph.Index {
	k := len(r.states)
	return r.values[conflict*k : (conflict+1)*k]
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
	if r.m.cells.get(uint32(r.g.KeyIndex(i))).flags&cellConflicted != 0 {
		return false
	}
	nid, ok := r.smallest.Get(r.g.Key(i))
	return ok && nid == r.g.NID(i)
}

// result is the largest state with what was decided otherwise. What was not in conflict stays as it was, even where an event
// was replayed for it.
func (r *resolution) result() state.Map {
	var changes []state.Change
	change := func(key authgraph.KeyIndex, at authgraph.Index) {
		c := state.Change{Key: r.g.KeyAt(key)}
		if at != authgraph.None {
			c.New = r.g.NID(at)
		}
		changes = append(changes, c)
	}
	for n, key := range r.conflicts {
		if at := r.m.cells.get(uint32(key)).at; at != r.valuesOf(n)[r.largest] {
			change(key, at)
		}
	}
	for _, key := range r.replayed {
		if !r.smallest.Has(r.g.KeyAt(key)) {
			change(key, r.m.cells.get(uint32(key)).at)
		}
	}
	return r.states[r.largest].Apply(changes)
}
