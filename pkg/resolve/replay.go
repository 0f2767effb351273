package resolve

import (
	"hanse/pkg/authgraph"
	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/state"
)

// held returns the event that the state under construction has for a key, 0 for none. It starts with what all states
// agree on; since version 12 with nothing, so that only what was replayed counts.
func (r *resolution) held(key state.Key) int64 {
	if d, ok := r.decided[key]; ok {
		return d.nid
	}
	if r.rules.StateRes == 21 {
		return 0
	}
	nid, _ := r.states[0].Get(key)
	return nid
}

func (r *resolution) hold(key state.Key, nid int64) {
	d := r.decided[key]
	d.nid = nid
	r.decided[key] = d
}

// replay is the "iterative auth checks algorithm": it applies each of the events to the state under construction if the
// authorisation rules allow it, and ignores it otherwise.
func (r *resolution) replay(events []authgraph.Index) error {
	view := &view{r: r, ownAuth: true}
	for _, i := range events {
		nid := r.g.NID(i)
		allowed, err := view.allows(i, r.events[nid].PDU)
		if err != nil {
			return err
		}
		if allowed {
			r.hold(r.g.Key(i), nid)
		}
	}
	return nil
}

// view is the state that an event is checked against. With ownAuth, what the state under construction lacks comes from
// the event's auth events, if they are not rejected.
type view struct {
	r       *resolution
	ownAuth bool
	at      authgraph.Index
	ev      *event.PDU
	err     error // the first failure to read; the outcome of the check is void
}

func (v *view) allows(i authgraph.Index, ev *event.PDU) (bool, error) {
	if err := v.r.visit(replayVisits); err != nil {
		return false, err
	}
	v.at, v.ev = i, ev
	err := auth.Check(ev, v, auth.Options{})
	return err == nil, v.err
}

// StateEvent implements [auth.Lookup].
func (v *view) StateEvent(typ, stateKey string) *event.PDU {
	ev, err := v.lookup(state.Key{Type: typ, StateKey: stateKey})
	if err != nil && v.err == nil {
		v.err = err
	}
	return ev
}

func (v *view) lookup(key state.Key) (*event.PDU, error) {
	if nid := v.r.held(key); nid != 0 {
		ev, err := v.r.event(nid)
		return ev.PDU, err
	}
	if !v.ownAuth {
		return nil, nil
	}
	nid, ev, err := v.r.authEvent(v.at, v.ev, key)
	if err != nil || nid == 0 {
		return nil, err
	}
	v.r.Verdicts[nid] = ev.Rejected
	if ev.Rejected {
		return nil, nil
	}
	return ev.PDU, nil
}
