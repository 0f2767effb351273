package stateres

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
)

// Set is the state of a room: an event ID for each (type, state key) pair.
type Set = map[event.Tuple]id.Event

// Source gives access to events.
type Source interface {
	// Event returns an event. One that is not there is reported as an error
	// that wraps [ErrMissing], or as nil without an error.
	Event(id.Event) (*event.PDU, error)
	// Rejected tells whether an event failed the authorisation rules on
	// receipt.
	Rejected(id.Event) bool
}

// ErrMissing is what a [Source] answers for an event that it does not have.
var ErrMissing = errors.New("event is missing")

// ErrTooLarge is the answer where a resolution would read more than maxEvents
// events.
var ErrTooLarge = errors.New("state resolution needs too many events")

// maxEvents bounds the events that one resolution reads. The largest rooms
// known have some hundred thousand members.
const maxEvents = 4 << 20

// MissingError lists the events that a resolution needs and the source does
// not have.
type MissingError struct{ IDs []id.Event }

// Error implements error.
func (e *MissingError) Error() string {
	if len(e.IDs) == 1 {
		return fmt.Sprintf("state resolution: event %s is missing", e.IDs[0])
	}
	return fmt.Sprintf("state resolution: %d events are missing, such as %s", len(e.IDs), e.IDs[0])
}

// Unwrap makes errors.Is(err, [ErrMissing]) true.
func (e *MissingError) Unwrap() error { return ErrMissing }

// CycleError reports events that cite one another as auth events.
type CycleError struct{ IDs []id.Event }

// Error implements error.
func (e *CycleError) Error() string {
	return fmt.Sprintf("state resolution: auth events of %s form a cycle", e.IDs[0])
}

// Resolve returns the resolution of a set of states by the algorithm of the
// room version. The sets are not changed and not kept. No state at all resolves
// to the empty state.
func Resolve(rules *roomversion.Rules, sets []Set, src Source) (Set, error) {
	if len(sets) == 0 {
		return Set{}, nil
	}
	if allEqual(sets) {
		return maps.Clone(sets[0]), nil
	}
	g := newGraph(rules, src)
	switch rules.StateRes {
	case 1:
		return resolveV1(g, sets)
	case 2, 21:
		return resolveV2(g, sets)
	}
	return nil, fmt.Errorf("state resolution: room version %s has unknown algorithm %d", rules.Version, rules.StateRes)
}

func allEqual(sets []Set) bool {
	for _, s := range sets[1:] {
		if !maps.Equal(s, sets[0]) {
			return false
		}
	}
	return true
}

// eventSet is a set of events.
type eventSet map[id.Event]struct{}

func (s eventSet) add(e id.Event) { s[e] = struct{}{} }

func (s eventSet) has(e id.Event) bool {
	_, ok := s[e]
	return ok
}

func (s eventSet) addAll(o eventSet) {
	for e := range o {
		s.add(e)
	}
}

// sorted lists the set in a stable order, so that whatever is done with it
// happens in the same order everywhere.
func (s eventSet) sorted() []id.Event {
	return slices.Sorted(maps.Keys(s))
}
