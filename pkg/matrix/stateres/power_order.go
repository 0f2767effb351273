package stateres

import (
	"container/heap"
	"slices"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
)

const (
	typeCreate      = "m.room.create"
	typeMember      = "m.room.member"
	typePowerLevels = "m.room.power_levels"
	typeJoinRules   = "m.room.join_rules"
)

// isPowerEvent: power levels, join rules, and the kicks and bans, but not the
// leaving of one's own accord.
func isPowerEvent(ev *event.PDU) bool {
	if ev.StateKey == nil {
		return false
	}
	switch ev.Type {
	case typePowerLevels, typeJoinRules:
		return *ev.StateKey == ""
	case typeMember:
		m := ev.Membership()
		return (m == "leave" || m == "ban") && string(ev.Sender) != *ev.StateKey
	}
	return false
}

// ranked is an event with what the power ordering compares.
type ranked struct {
	ev    *event.PDU
	power int64
}

// before is the comparison relation of the reverse topological power ordering.
func (x ranked) before(y ranked) bool {
	switch {
	case x.power != y.power:
		return x.power > y.power
	case x.ev.OriginServerTS != y.ev.OriginServerTS:
		return x.ev.OriginServerTS < y.ev.OriginServerTS
	}
	return x.ev.ID < y.ev.ID
}

// candidates is a heap of the events that may come next.
type candidates []ranked

func (c candidates) Len() int           { return len(c) }
func (c candidates) Less(i, j int) bool { return c[i].before(c[j]) }
func (c candidates) Swap(i, j int)      { c[i], c[j] = c[j], c[i] }
func (c *candidates) Push(x any)        { *c = append(*c, x.(ranked)) }
func (c *candidates) Pop() any {
	last := (*c)[len(*c)-1]
	*c = (*c)[:len(*c)-1]
	return last
}

// reverseTopologicalPowerOrdering sorts events, earliest first, into the
// lexicographically smallest topological ordering of the graph that their
// auth_events links form, with Kahn's algorithm.
func (g *graph) reverseTopologicalPowerOrdering(set eventSet) ([]*event.PDU, error) {
	cites := make(map[id.Event]int, len(set)) // links into the set not yet output
	citedBy := make(map[id.Event][]id.Event)
	for e := range set {
		for _, a := range distinct(g.events[e].AuthEvents) {
			if set.has(a) {
				cites[e]++
				citedBy[a] = append(citedBy[a], e)
			}
		}
	}
	next := &candidates{}
	push := func(e id.Event) error {
		power, err := g.senderPower(g.events[e])
		if err != nil {
			return err
		}
		heap.Push(next, ranked{g.events[e], power})
		return nil
	}
	for e := range set {
		if cites[e] == 0 {
			if err := push(e); err != nil {
				return nil, err
			}
		}
	}
	ordered := make([]*event.PDU, 0, len(set))
	for next.Len() > 0 {
		smallest := heap.Pop(next).(ranked).ev
		ordered = append(ordered, smallest)
		for _, d := range citedBy[smallest.ID] {
			if cites[d]--; cites[d] == 0 {
				if err := push(d); err != nil {
					return nil, err
				}
			}
		}
	}
	if len(ordered) < len(set) {
		return nil, cycle(set, ordered)
	}
	return ordered, nil
}

// cycle names the events that the ordering could not reach.
func cycle(set eventSet, ordered []*event.PDU) error {
	left := eventSet{}
	left.addAll(set)
	for _, ev := range ordered {
		delete(left, ev.ID)
	}
	return &CycleError{IDs: left.sorted()}
}

func distinct(ids []id.Event) []id.Event {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	return slices.Compact(ids)
}

// senderPower is the power level of an event's sender "when looking at their
// respective auth_events".
func (g *graph) senderPower(ev *event.PDU) (int64, error) {
	create, err := g.createEvent(ev)
	if err != nil {
		return 0, err
	}
	if ev.Type == typeCreate {
		create = ev
	}
	levels, err := g.authEvent(ev, typePowerLevels, "")
	if err != nil {
		return 0, err
	}
	return auth.PowerOf(ev.Sender, auth.Events{create, levels}), nil
}
