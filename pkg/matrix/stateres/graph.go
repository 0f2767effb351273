package stateres

import (
	"errors"
	"fmt"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
)

// graph is the part of the auth event graph that a resolution has read.
type graph struct {
	rules   *roomversion.Rules
	src     Source
	events  map[id.Event]*event.PDU
	missing eventSet
}

func newGraph(rules *roomversion.Rules, src Source) *graph {
	return &graph{rules: rules, src: src, events: make(map[id.Event]*event.PDU), missing: eventSet{}}
}

// read returns an event, or nil if it is missing, which it notes.
func (g *graph) read(e id.Event) (*event.PDU, error) {
	if ev, ok := g.events[e]; ok {
		return ev, nil
	}
	if g.missing.has(e) {
		return nil, nil
	}
	if len(g.events)+len(g.missing) >= maxEvents {
		return nil, ErrTooLarge
	}
	ev, err := g.src.Event(e)
	switch {
	case errors.Is(err, ErrMissing):
		ev = nil
	case err != nil:
		return nil, fmt.Errorf("read event %s: %w", e, err)
	}
	if ev == nil {
		g.missing.add(e)
		return nil, nil
	}
	g.events[e] = ev
	return ev, nil
}

// complete turns the missing events that were noted into an error.
func (g *graph) complete() error {
	if len(g.missing) == 0 {
		return nil
	}
	return &MissingError{IDs: g.missing.sorted()}
}

// get returns an event; a missing one is an error.
func (g *graph) get(e id.Event) (*event.PDU, error) {
	ev, err := g.read(e)
	if err != nil {
		return nil, err
	}
	if ev == nil {
		return nil, g.complete()
	}
	return ev, nil
}

// authChain is the union of the auth chains of the given events: all events
// that can be reached from them by one or more auth_events links. Missing
// events are noted, and the walk goes on elsewhere.
func (g *graph) authChain(from eventSet) (eventSet, error) {
	chain := eventSet{}
	work := from.sorted()
	for len(work) > 0 {
		e := work[len(work)-1]
		work = work[:len(work)-1]
		ev, err := g.read(e)
		if err != nil {
			return nil, err
		}
		if ev == nil {
			continue
		}
		for _, a := range ev.AuthEvents {
			if !chain.has(a) {
				chain.add(a)
				work = append(work, a)
			}
		}
	}
	return chain, nil
}

// authEvent returns the event with the given type and state key among the auth
// events of ev, or nil. Of several the first counts; such an event would have
// been rejected.
func (g *graph) authEvent(ev *event.PDU, typ, stateKey string) (*event.PDU, error) {
	for _, a := range ev.AuthEvents {
		aev, err := g.get(a)
		if err != nil {
			return nil, err
		}
		if aev.Type == typ && aev.StateKey != nil && *aev.StateKey == stateKey {
			return aev, nil
		}
	}
	return nil, nil
}

// createEvent returns the create event that authorises ev: since version 12
// the one that the room ID names, before that one of its auth events.
func (g *graph) createEvent(ev *event.PDU) (*event.PDU, error) {
	if !g.rules.RoomIDIsCreateHash {
		return g.authEvent(ev, typeCreate, "")
	}
	if ev.Type == typeCreate {
		return nil, nil
	}
	return g.get(auth.CreateEventID(ev.RoomID))
}
