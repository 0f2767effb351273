package hugeroom

import (
	"cmp"
	"slices"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/state"
)

// Numbers are the events of a state, in their order.
func Numbers(m state.Map) []int {
	out := make([]int, 0, m.Len())
	for _, n := range m.All() {
		out = append(out, int(n))
	}
	slices.Sort(out)
	return out
}

// AuthChain returns what events cite, and what that cites, and so on, in order; the create event, which events of room
// version 12 do not cite, is among it.
func (r *Room) AuthChain(of ...int) []int {
	seen := make([]bool, len(r.events))
	var out []int
	visit := func(n int) {
		if n != 0 && !seen[n] {
			seen[n] = true
			out = append(out, n)
		}
	}
	cited := func(n int) {
		if r.Rules.RoomIDIsCreateHash && n != 1 {
			visit(1)
		}
		for _, a := range r.events[n].AuthEvents {
			visit(r.byID[a])
		}
	}
	for _, n := range of {
		cited(n)
	}
	for i := 0; i < len(out); i++ {
		cited(out[i])
	}
	slices.Sort(out)
	return out
}

// Missing answers get_missing_events: ancestors of the latest that are not among the earliest or before them, newest
// first, at most so many, in the order of their depth.
func (r *Room) Missing(earliest, latest []id.Event, limit int) []int {
	stop := make(map[int]bool)
	for _, e := range earliest {
		stop[r.byID[e]] = true
	}
	var first []int
	for _, e := range latest {
		if n := r.byID[e]; n != 0 {
			first = append(first, r.prev(n)...)
		}
	}
	return r.backwards(first, stop, limit)
}

// Backfill answers backfill: the events and their ancestors, newest first.
func (r *Room) Backfill(from []id.Event, limit int) []int {
	var first []int
	for _, e := range from {
		if n := r.byID[e]; n != 0 {
			first = append(first, n)
		}
	}
	out := r.backwards(first, map[int]bool{}, limit)
	slices.Reverse(out)
	return out
}

func (r *Room) backwards(next []int, seen map[int]bool, limit int) []int {
	var out []int
	for len(next) > 0 && len(out) < limit {
		n := next[0]
		next = next[1:]
		if n == 0 || seen[n] {
			continue
		}
		seen[n] = true
		out = append(out, n)
		next = append(next, r.prev(n)...)
	}
	slices.SortFunc(out, func(a, b int) int {
		return cmp.Or(cmp.Compare(r.events[a].Depth, r.events[b].Depth), cmp.Compare(a, b))
	})
	return out
}

// Prev are the numbers of the prev events of an event.
func (r *Room) prev(n int) []int {
	out := make([]int, 0, 1)
	for _, p := range r.events[n].PrevEvents {
		out = append(out, r.byID[p])
	}
	return out
}

// Known returns the numbers of events, and those that the room does not have.
func (r *Room) Known(ids []id.Event) (numbers []int, unknown []id.Event) {
	for _, e := range ids {
		if n := r.byID[e]; n != 0 {
			numbers = append(numbers, n)
		} else {
			unknown = append(unknown, e)
		}
	}
	return numbers, unknown
}

// PDUs are events by their numbers.
func (r *Room) PDUs(numbers []int) []*event.PDU {
	out := make([]*event.PDU, len(numbers))
	for i, n := range numbers {
		out[i] = r.events[n]
	}
	return out
}
