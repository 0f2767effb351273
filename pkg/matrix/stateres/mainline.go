package stateres

import (
	"math"
	"slices"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
)

// notOnMainline is the position ∞.
const notOnMainline = math.MaxInt

// mainline is the "mainline of P₀", as the position of each power levels event
// in it: P₀, the power levels event that P₀ cites, the one that this cites, and
// so on. A nil P₀ has an empty mainline.
func (g *graph) mainline(p *event.PDU) (map[id.Event]int, error) {
	positions := make(map[id.Event]int)
	for p != nil {
		if _, ok := positions[p.ID]; ok {
			return nil, &CycleError{IDs: []id.Event{p.ID}}
		}
		positions[p.ID] = len(positions)
		var err error
		if p, err = g.authEvent(p, typePowerLevels, ""); err != nil {
			return nil, err
		}
	}
	return positions, nil
}

// mainlinePosition is the position in the mainline of the first power levels
// event on the way e₁, e₂, … that belongs to it. The event itself, e₀, does not
// count. The power levels events on the way are added to positions, which
// starts as the mainline, so that no part of a way is walked twice.
func (g *graph) mainlinePosition(e *event.PDU, positions map[id.Event]int) (int, error) {
	way := eventSet{}
	position := notOnMainline
	for {
		p, err := g.authEvent(e, typePowerLevels, "")
		if err != nil {
			return 0, err
		}
		if p == nil {
			break
		}
		if i, ok := positions[p.ID]; ok {
			position = i
			break
		}
		if way.has(p.ID) {
			return 0, &CycleError{IDs: way.sorted()}
		}
		way.add(p.ID)
		e = p
	}
	for p := range way {
		positions[p] = position
	}
	return position, nil
}

// mainlineOrdering sorts events by the "mainline ordering based on P": those
// based on an earlier power levels event first, then by time, then by ID.
func (g *graph) mainlineOrdering(set eventSet, p *event.PDU) ([]*event.PDU, error) {
	positions, err := g.mainline(p)
	if err != nil {
		return nil, err
	}
	type positioned struct {
		ev       *event.PDU
		position int
	}
	events := make([]positioned, 0, len(set))
	for e := range set {
		position, err := g.mainlinePosition(g.events[e], positions)
		if err != nil {
			return nil, err
		}
		events = append(events, positioned{g.events[e], position})
	}
	slices.SortFunc(events, func(x, y positioned) int {
		switch {
		case x.position != y.position:
			return order(x.position > y.position)
		case x.ev.OriginServerTS != y.ev.OriginServerTS:
			return order(x.ev.OriginServerTS < y.ev.OriginServerTS)
		case x.ev.ID != y.ev.ID:
			return order(x.ev.ID < y.ev.ID)
		}
		return 0
	})
	ordered := make([]*event.PDU, len(events))
	for i, e := range events {
		ordered[i] = e.ev
	}
	return ordered, nil
}

// order is the result of a comparison of different elements.
func order(before bool) int {
	if before {
		return -1
	}
	return 1
}
