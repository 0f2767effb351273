package hugeroom

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"hanse/pkg/authgraph"
	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/matrix/stateres"
	"hanse/pkg/state"
)

// Room is a synthetic room. It implements [stateres.Source]. Events have numbers from 1 on.
type Room struct {
	Rules *roomversion.Rules
	ID    id.Room

	cfg     Config
	rng     *rand.Rand
	now     int64
	events  []*event.PDU // events[0] is nil
	byID    map[id.Event]int
	ends    map[int]bool // forward extremities
	line    int          // events up to here, the history, each follow the one before
	after   map[int]state.Map
	past    map[int]state.Map // states after events of the history that were asked for
	merged  map[string]state.Map
	graph   *authgraph.Graph // of the state events up to graphed
	graphed int
	keys    map[id.Server]*signing.Key

	officers []id.User // the creator, then those with power
	crowd    []id.User // members who stay
	late     int       // users that patterns have brought in
}

// Len is the number of events.
func (r *Room) Len() int { return len(r.events) - 1 }

// History is the number of the last event of the history.
func (r *Room) History() int { return r.line }

// PDU returns an event by its number.
func (r *Room) PDU(n int) *event.PDU { return r.events[n] }

// Number finds an event; 0 if the room does not have it.
func (r *Room) Number(e id.Event) int { return r.byID[e] }

// Event implements [stateres.Source].
func (r *Room) Event(e id.Event) (*event.PDU, error) {
	if n := r.byID[e]; n != 0 {
		return r.events[n], nil
	}
	return nil, stateres.ErrMissing
}

// Rejected implements [stateres.Source]: nothing in the room is.
func (r *Room) Rejected(id.Event) bool { return false }

// Servers lists the names of the servers in the history.
func (r *Room) Servers() []id.Server {
	names := make([]id.Server, r.cfg.Servers)
	for i := range names {
		names[i] = r.cfg.Names(i)
	}
	return names
}

// Creator is who made the room; officers are those with the power to change its state, the creator first.
func (r *Room) Creator() id.User { return r.officers[0] }

// Officers are the members with power, the creator first.
func (r *Room) Officers() []id.User { return r.officers }

// Crowd are some members without power that never leave, unless a pattern makes them.
func (r *Room) Crowd() []id.User { return r.crowd }

// Ends are the forward extremities.
func (r *Room) Ends() []int { return slices.Sorted(maps.Keys(r.ends)) }

// keptStates bounds the states of the history, and the resolved ones, that are kept.
const keptStates = 16

// After returns the state after an event.
func (r *Room) After(n int) state.Map {
	if n > r.line {
		return r.after[n]
	}
	if m, ok := r.past[n]; ok {
		return m
	}
	m := state.New(func(yield func(state.Key, int64) bool) {
		for i := 1; i <= n; i++ {
			if e := r.events[i]; e.IsState() && !yield(state.Key(e.Tuple()), int64(i)) {
				return
			}
		}
	})
	if len(r.past) >= keptStates {
		clear(r.past)
	}
	r.past[n] = m
	return m
}

// Before returns the state before an event with these prev events.
func (r *Room) Before(prev ...int) (state.Map, error) {
	var maps []state.Map
	for _, p := range prev {
		if m := r.After(p); !slices.ContainsFunc(maps, m.Equal) {
			maps = append(maps, m)
		}
	}
	if len(maps) == 0 {
		return state.Map{}, nil
	}
	if len(maps) == 1 {
		return maps[0], nil
	}
	return r.resolve(maps)
}

func sid(m state.Map) []byte {
	s := m.ID()
	return s[:]
}

// Set is a state by the names of its events.
func (r *Room) Set(m state.Map) stateres.Set {
	set := make(stateres.Set, m.Len())
	for k, n := range m.All() {
		set[event.Tuple(k)] = r.events[n].ID
	}
	return set
}

// Lookup is a state as the authorisation rules read it.
func (r *Room) Lookup(m state.Map) auth.Lookup { return lookup{r, m} }

type lookup struct {
	r *Room
	m state.Map
}

// StateEvent implements [auth.Lookup].
func (l lookup) StateEvent(typ, stateKey string) *event.PDU {
	n, _ := l.m.Get(state.Key{Type: typ, StateKey: stateKey})
	return l.r.events[n]
}

// Key is the signing key of one of the room's servers.
func (r *Room) Key(server id.Server) *signing.Key {
	k := r.keys[server]
	if k == nil {
		k = ServerKey(server)
		r.keys[server] = k
	}
	return k
}

// put gives an event the next number.
func (r *Room) put(pdu *event.PDU) (int, error) {
	if r.byID[pdu.ID] != 0 {
		return 0, fmt.Errorf("event %s is there already", pdu.ID)
	}
	n := len(r.events)
	r.events = append(r.events, pdu)
	r.byID[pdu.ID] = n
	for _, p := range pdu.PrevEvents {
		delete(r.ends, r.byID[p])
	}
	r.ends[n] = true
	return n, nil
}
