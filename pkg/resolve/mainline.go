package resolve

import "hanse/pkg/authgraph"

// mainlineOrdering is the "mainline ordering based on P", P being a power levels event, None for none.
//
// The mainline of P are the ancestors of P in the forest of power levels events, P being its own. An event's position in
// it is that of the nearest one among the ancestors of the power levels event that it cites: of their nearest common
// ancestor. The nearer to P, the deeper in the forest; and what has none in common comes first of all, as with depth 0.
func (r *resolution) mainlineOrdering(events []authgraph.Index, p authgraph.Index) error {
	depths := make(map[authgraph.Index]int) // of the common ancestor with P
	list := make([]place, len(events))
	last, depth := authgraph.None, 0
	for n, i := range events {
		if err := r.visit(1); err != nil {
			return err
		}
		if levels := r.g.Levels(i); levels != last {
			last = levels
			var ok bool
			if depth, ok = depths[levels]; !ok {
				depth = r.g.CommonLevels(p, levels)
				depths[levels] = depth
			}
		}
		list[n] = r.placeOf(n, i, int64(depth))
	}
	if err := r.sort(list); err != nil {
		return err
	}
	for n := range list {
		events[n] = list[n].at
	}
	return nil
}
