package resolve

import (
	"cmp"
	"slices"

	"hanse/pkg/authgraph"
)

// mainlineOrdering is the "mainline ordering based on P", P being the power levels event with a numeric id, 0 for none.
//
// The mainline of P are the ancestors of P in the forest of power levels events, P being its own. An event's position in
// it is that of the nearest one among the ancestors of the power levels event that it cites: of their nearest common
// ancestor. The nearer to P, the deeper in the forest; and what has none in common comes first of all, as with depth 0.
func (r *resolution) mainlineOrdering(events []authgraph.Index, p int64) error {
	main := authgraph.None
	if p != 0 {
		var err error
		if main, err = r.find(p); err != nil {
			return err
		}
	}
	depths := make(map[authgraph.Index]int) // of the common ancestor with P
	type positioned struct {
		at    authgraph.Index
		depth int
		ev    Event
	}
	list := make([]positioned, len(events))
	for n, i := range events {
		if err := r.visit(1); err != nil {
			return err
		}
		levels := r.g.Levels(i)
		depth, ok := depths[levels]
		if !ok {
			depth = r.g.CommonLevels(main, levels)
			depths[levels] = depth
		}
		list[n] = positioned{i, depth, r.events[r.g.NID(i)]}
	}
	slices.SortFunc(list, func(x, y positioned) int {
		return cmp.Or(
			cmp.Compare(x.depth, y.depth),
			cmp.Compare(x.ev.OriginServerTS, y.ev.OriginServerTS),
			cmp.Compare(x.ev.ID, y.ev.ID),
		)
	})
	for n := range list {
		events[n] = list[n].at
	}
	return nil
}
