package resolve_test

import (
	"context"
	"testing"

	"hanse/pkg/growth"
	"hanse/pkg/resolve"
	"hanse/pkg/state"
)

// small and huge are rooms whose resolutions are compared: in a room of huge, what had a term in the number of events would cost
// much more, though it is made in a second.
const small, huge = 1_000, 50_000

// costOf is what a resolution costs that remembers nothing, or one that remembers the same one.
func costOf(t *testing.T, r *large, maps []state.Map, known *resolve.Resolver) growth.Cost {
	t.Helper()
	var stats resolve.Stats
	bytes, pieces := growth.Bytes(func() {
		var err error
		if known != nil {
			_, stats, err = known.Resolve(context.Background(), r.rules, maps, r, resolve.Budget{}, 1<<30)
		} else {
			_, stats, err = resolve.Resolve(context.Background(), r.rules, r.g, maps, r, resolve.Budget{})
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	return growth.Cost{"bytes": bytes, "allocations": pieces, "visits": float64(stats.Visited), "events to read": float64(stats.Loaded)}
}

// A resolution costs what differs, whatever the size of the room: the tables of docs/state.md, "Resolution", and BenchmarkSize.
// With more keys in conflict, these lie farther apart in a larger room: that is bounded by their number.
func TestSizeCostsNothing(t *testing.T) {
	for _, version := range []string{"11", "12"} {
		rooms := map[int]*large{}
		for _, n := range []int{small, huge} {
			rooms[n] = newLarge(version, n, usualLevels)
		}
		for _, c := range []struct {
			conflicts int
			most      float64
		}{{2, 1.5}, {20, 2.5}} {
			forks := map[int][]state.Map{}
			for n, r := range rooms {
				forks[n] = r.forks(2, c.conflicts)
			}
			growth.Flat(t, "a resolution, version "+version, small, huge, c.most, func(n int) growth.Cost {
				return costOf(t, rooms[n], forks[n], nil)
			})
			growth.Flat(t, "one that remembers, version "+version, small, huge, c.most, func(n int) growth.Cost {
				return costOf(t, rooms[n], forks[n], resolve.NewResolver(rooms[n].g))
			})
			growth.Flat(t, "the first of those, version "+version, small, huge, c.most, func(n int) growth.Cost {
				bytes, pieces := growth.Bytes(func() {
					if _, _, err := resolve.NewResolver(rooms[n].g).Resolve(context.Background(), rooms[n].rules, forks[n], rooms[n], resolve.Budget{}, 1<<30); err != nil {
						t.Fatal(err)
					}
				})
				return growth.Cost{"bytes": bytes, "allocations": pieces}
			})
		}
	}
}

// The age of a room has no part in a resolution of what is new: BenchmarkDepth.
func TestDepthCostsNothing(t *testing.T) {
	for _, version := range []string{"11", "12"} {
		growth.Flat(t, "a resolution of what is new, version "+version, 10, 5_000, 1.5, func(levels int) growth.Cost {
			r := newLarge(version, 1_000, levels)
			r.newOnly = true
			return costOf(t, r, r.forks(2, 20), nil)
		})
	}
}

// A state after one more event, and its identity, cost a path of the map: BenchmarkNextEvent. Paths grow with the logarithm.
func TestNextEventCostsAPath(t *testing.T) {
	growth.Flat(t, "the next event", small, huge, 2, func(n int) growth.Cost {
		r := newLarge("12", n, usualLevels)
		r.now.ID()
		i := int64(0)
		bytes, pieces := growth.Bytes(func() {
			m := r.now
			for range 100 {
				i++
				m = m.Set(state.Key{Type: "m.room.member", StateKey: string(r.members[int(i*7919)%len(r.members)])}, int64(len(r.events))+i)
				m.ID()
			}
		})
		return growth.Cost{"bytes": bytes, "allocations": pieces}
	})
}

// One more event of a branch from the creation, with which each key is in conflict, reads no more than a few events once the
// others are known: BenchmarkFromCreation.
func TestForkFromCreationReadsNothing(t *testing.T) {
	for _, version := range []string{"11", "12"} {
		growth.Flat(t, "one more event of a fork from the creation, version "+version, 100, 5_000, 1.5, func(n int) growth.Cost {
			r := newLarge(version, n, usualLevels)
			known := resolve.NewResolver(r.g)
			steps, loaded := r.fromCreation(12), 0
			for i, maps := range steps {
				_, stats, err := known.Resolve(context.Background(), r.rules, maps, r, resolve.Budget{}, 1<<30)
				if err != nil {
					t.Fatal(err)
				}
				if i > 0 {
					loaded += stats.Loaded
				}
			}
			return growth.Cost{"events to read": float64(loaded) / float64(len(steps)-1)}
		})
	}
}
