package hugeroom

import (
	"fmt"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/state"
)

// Add appends an event after others. What the state before it does not allow is not added; the error is an [*auth.Error]
// then.
func (r *Room) Add(a Action, prev ...int) (int, error) {
	before, err := r.Before(prev...)
	if err != nil {
		return 0, err
	}
	pdu, err := r.build(a, before, prev)
	if err != nil {
		return 0, err
	}
	return r.AddForeign(pdu, before)
}

// Template is the draft of an event after others, as make_join gives it to who will sign it.
func (r *Room) Template(a Action, before state.Map, prev []int) event.Draft {
	r.now++
	d := event.Draft{RoomID: r.ID, Type: a.Type, StateKey: a.StateKey, Sender: a.Sender, Content: a.Content, OriginServerTS: r.now}
	for _, p := range prev {
		d.PrevEvents = append(d.PrevEvents, r.events[p].ID)
		d.Depth = max(d.Depth, r.events[p].Depth+1)
	}
	for _, k := range auth.NeededByDraft(&d, r.Rules) {
		if n, ok := before.Get(state.Key(k)); ok {
			d.AuthEvents = append(d.AuthEvents, r.events[n].ID)
		}
	}
	return d
}

func (r *Room) build(a Action, before state.Map, prev []int) (*event.PDU, error) {
	server := a.Sender.Server()
	return event.Build(r.Template(a, before, prev), r.Rules, server, r.Key(server))
}

// AddForeign adds an event that stands after a state, if the auth rules allow it.
func (r *Room) AddForeign(pdu *event.PDU, before state.Map) (int, error) {
	if err := r.check(pdu, before); err != nil {
		return 0, err
	}
	n, err := r.put(pdu)
	if err != nil {
		return 0, err
	}
	r.after[n] = before
	if pdu.IsState() {
		r.after[n] = before.Set(state.Key(pdu.Tuple()), int64(n))
	}
	r.now = max(r.now, pdu.OriginServerTS)
	return n, nil
}

func (r *Room) check(pdu *event.PDU, before state.Map) error {
	cited := make([]*event.PDU, len(pdu.AuthEvents))
	for i, a := range pdu.AuthEvents {
		if cited[i] = r.events[r.byID[a]]; cited[i] == nil {
			return fmt.Errorf("auth event %s of %s is unknown", a, pdu.ID)
		}
	}
	if err := auth.CheckAuthEvents(pdu, cited); err != nil {
		return err
	}
	return auth.Check(pdu, r.Lookup(before), auth.Options{})
}
