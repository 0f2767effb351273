package state

import (
	"testing"

	"hanse/pkg/growth"
)

// Rooms of these numbers of entries cost the same, but for the height of their maps.
const small, large = 1_000, 100_000

// A write costs a path of the map, a comparison what differs: docs/state.md, "The map", BenchmarkSet and BenchmarkDiff.
func TestEntriesCostNothing(t *testing.T) {
	type made struct {
		entries []Entry
		m       Map
	}
	rooms := map[int]made{}
	for _, n := range []int{small, large} {
		rooms[n] = made{synthetic(n), syntheticMap(n)}
		rooms[n].m.ID()
	}
	growth.Flat(t, "a write", small, large, 2, func(n int) growth.Cost {
		bytes, pieces := growth.Bytes(func() {
			for i := range 100 {
				rooms[n].m.Set(rooms[n].entries[i*7919%n].Key, 1<<40+int64(i)).ID()
			}
		})
		return growth.Cost{"bytes": bytes, "allocations": pieces}
	})
	for _, c := range []struct {
		maps, differ int
		most         float64
	}{{2, 2, 2}, {2, 20, 2}, {2, 200, 4}, {3, 20, 2}, {10, 20, 2}} {
		growth.Flat(t, "a comparison", small, large, c.most, func(n int) growth.Cost {
			d := newDiffer(fork(rooms[n].m, rooms[n].entries, c.maps, c.differ/c.maps), func(string, []int64) bool { return true })
			d.run(0)
			return growth.Cost{"nodes and entries": float64(d.compared)}
		})
	}
	growth.Flat(t, "a comparison of maps that share no memory", small, large, 2, func(n int) growth.Cost {
		other := syntheticMap(n).Set(rooms[n].entries[0].Key, 1<<40)
		other.ID()
		d := newDiffer([]Map{rooms[n].m, other}, func(string, []int64) bool { return true })
		d.run(0)
		return growth.Cost{"nodes and entries": float64(d.compared)}
	})
}
