package stateres

import (
	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
)

// iterativeAuthChecks is the "iterative auth checks algorithm": it applies
// each of the events to the state if the authorisation rules allow it, and
// ignores it otherwise.
func (g *graph) iterativeAuthChecks(state Set, events []*event.PDU) error {
	for _, ev := range events {
		allowed, err := g.allowed(ev, state, true)
		if err != nil {
			return err
		}
		if allowed && ev.StateKey != nil {
			state[ev.Tuple()] = ev.ID
		}
	}
	return nil
}

// allowed checks an event against a state. With ownAuth, what the state lacks
// comes from the event's auth events, if they are not rejected.
func (g *graph) allowed(ev *event.PDU, state Set, ownAuth bool) (bool, error) {
	view := &authView{g: g, state: state, ev: ev, ownAuth: ownAuth}
	err := auth.Check(ev, view, auth.Options{})
	if view.err != nil {
		return false, view.err
	}
	return err == nil, nil
}

// authView is the state that an event is checked against.
type authView struct {
	g       *graph
	state   Set
	ev      *event.PDU
	ownAuth bool
	err     error // the first failure to read; the outcome of the check is void
}

// StateEvent implements [auth.Lookup].
func (v *authView) StateEvent(typ, stateKey string) *event.PDU {
	ev, err := v.lookup(event.Tuple{Type: typ, StateKey: stateKey})
	if err != nil && v.err == nil {
		v.err = err
	}
	return ev
}

func (v *authView) lookup(k event.Tuple) (*event.PDU, error) {
	ev, err := v.g.stateEvent(v.state, k)
	if err != nil || ev != nil || !v.ownAuth {
		return ev, err
	}
	if k == (event.Tuple{Type: typeCreate}) {
		ev, err = v.g.createEvent(v.ev)
	} else {
		ev, err = v.g.authEvent(v.ev, k.Type, k.StateKey)
	}
	if err != nil || ev == nil || v.g.src.Rejected(ev.ID) {
		return nil, err
	}
	return ev, nil
}
