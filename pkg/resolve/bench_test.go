package resolve_test

import (
	"context"
	"fmt"
	"slices"
	"syscall"
	"testing"

	"hanse/pkg/growth"
	"hanse/pkg/matrix/stateres"
	"hanse/pkg/resolve"
	"hanse/pkg/state"
)

// sizes are the growth tables' N: the last is the network's largest room.
var sizes = growth.Sizes(100, 1_000, 10_000, 100_000, 350_000)

// usualLevels is how often the power levels of the largest room have changed.
const usualLevels = 22

// cpuTime is the processor time that the process has taken, in nanoseconds: other work on the machine adds little to it.
func cpuTime(b *testing.B) float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Nano() + u.Stime.Nano())
}

func benchResolve(b *testing.B, r *large, maps []state.Map) {
	var stats resolve.Stats
	start := cpuTime(b)
	for b.Loop() {
		var err error
		if _, stats, err = resolve.Resolve(context.Background(), r.rules, r.g, maps, r, resolve.Budget{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	b.ReportMetric((cpuTime(b)-start)/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(stats.Full), "full")
	b.ReportMetric(float64(stats.Visited), "visits")
	b.ReportMetric(float64(stats.Loaded), "loaded")
}

// BenchmarkSize is the growth with the size of the room, at fixed differences.
func BenchmarkSize(b *testing.B) {
	for _, version := range []string{"11", "12"} {
		for _, n := range sizes {
			r := newLarge(version, n, usualLevels)
			for _, c := range []int{2, 20, 200} {
				maps := r.forks(2, c)
				b.Run(fmt.Sprintf("v%s/N=%d/C=%d", version, n, c), func(b *testing.B) { benchResolve(b, r, maps) })
			}
		}
	}
}

// BenchmarkOracle is the same with the literal transcription of the specification.
func BenchmarkOracle(b *testing.B) {
	for _, version := range []string{"11", "12"} {
		for _, n := range sizes {
			r := newLarge(version, n, usualLevels)
			for _, c := range []int{2, 20, 200} {
				sets := r.sets(r.forks(2, c))
				b.Run(fmt.Sprintf("v%s/N=%d/C=%d", version, n, c), func(b *testing.B) {
					start := cpuTime(b)
					for b.Loop() {
						if _, err := stateres.Resolve(r.rules, sets, r); err != nil {
							b.Fatal(err)
						}
					}
					b.ReportMetric((cpuTime(b)-start)/float64(b.N), "cpu-ns/op")
				})
			}
		}
	}
}

// BenchmarkConflicts is the growth with the number of conflicted keys, at a fixed size.
func BenchmarkConflicts(b *testing.B) {
	for _, version := range []string{"11", "12"} {
		r := newLarge(version, 100_000, usualLevels)
		for _, c := range []int{20, 200, 2_000, 20_000} {
			maps := r.forks(2, c)
			b.Run(fmt.Sprintf("v%s/C=%d", version, c), func(b *testing.B) { benchResolve(b, r, maps) })
		}
	}
}

// BenchmarkForks is the growth with the number of states.
func BenchmarkForks(b *testing.B) {
	for _, version := range []string{"11", "12"} {
		r := newLarge(version, 100_000, usualLevels)
		for _, k := range []int{2, 3, 10, 70} {
			maps := r.forks(k, 20)
			b.Run(fmt.Sprintf("v%s/k=%d", version, k), func(b *testing.B) { benchResolve(b, r, maps) })
		}
	}
}

// BenchmarkDepth is the growth with the number of power levels events that the room has had, at a fixed difference: of new
// events, and of new ones with old ones.
func BenchmarkDepth(b *testing.B) {
	for _, version := range []string{"11", "12"} {
		for _, depth := range growth.Sizes(10, 100, 1_000, 10_000, 100_000) {
			r := newLarge(version, 1_000, depth)
			for _, r.newOnly = range []bool{true, false} {
				maps := r.forks(2, 20)
				b.Run(fmt.Sprintf("v%s/new=%t/levels=%d", version, r.newOnly, depth), func(b *testing.B) { benchResolve(b, r, maps) })
			}
		}
	}
}

// BenchmarkDeadEnds is the growth with the number of events that lead from the difference to nothing.
func BenchmarkDeadEnds(b *testing.B) {
	for _, n := range []int{10, 30, 100, 300} {
		r := newLarge("11", 1_000, usualLevels)
		maps := r.deadEnds(n)
		b.Run(fmt.Sprintf("events=%d", n*n), func(b *testing.B) { benchResolve(b, r, maps) })
	}
}

// BenchmarkNextEvent is the state after one more event, with its identity.
func BenchmarkNextEvent(b *testing.B) {
	for _, n := range sizes {
		r := newLarge("12", n, usualLevels)
		r.now.ID()
		b.Run(fmt.Sprintf("N=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			m := r.now
			start := cpuTime(b)
			for i := int64(1); b.Loop(); i++ {
				u := r.members[int(i*7919)%len(r.members)]
				m = m.Set(state.Key{Type: "m.room.member", StateKey: string(u)}, int64(len(r.events))+i)
				m.ID()
			}
			b.ReportMetric((cpuTime(b)-start)/float64(b.N), "cpu-ns/op")
			b.ReportMetric(float64(r.g.Bytes()), "graph-bytes")
			b.ReportMetric(float64(r.now.Bytes()), "map-bytes")
			b.ReportMetric(float64(r.g.Len()), "events")
		})
	}
}

// fromCreation are the states of a room while two branches grow from its creation, a state event at a time: what a server
// resolves that gets these events, one after the other.
func (r *large) fromCreation(depth int) [][]state.Map {
	first := r.beginning()
	maps := []state.Map{r.now, first, first}
	out := make([][]state.Map, 0, depth)
	for i := range depth {
		b := 1 + i%2
		switch i % 4 {
		case 0, 1:
			maps[b] = r.send(maps[b], owner, "m.room.topic", "", fmt.Sprintf(`{"topic":"%d"}`, i))
		case 2:
			maps[b] = r.profile(maps[b], owner)
		case 3:
			maps[b] = r.send(maps[b], owner, "m.room.power_levels", "", r.levels())
		}
		for _, m := range maps {
			m.ID()
		}
		out = append(out, slices.Clone(maps))
	}
	return out
}

// BenchmarkFromCreation is one more event of branches from the creation, with which each key of the state is in conflict.
func BenchmarkFromCreation(b *testing.B) {
	for _, version := range []string{"11", "12"} {
		for _, n := range growth.Sizes(10_000, 100_000) {
			r := newLarge(version, n, usualLevels)
			steps := r.fromCreation(12)
			for _, remember := range []bool{false, true} {
				b.Run(fmt.Sprintf("v%s/N=%d/remember=%t", version, n, remember), func(b *testing.B) {
					known, i := resolve.NewResolver(r.g), 0
					var loaded, visited int
					start := cpuTime(b)
					for b.Loop() {
						if !remember {
							known = resolve.NewResolver(r.g)
						}
						m, stats, err := known.Resolve(context.Background(), r.rules, steps[i%len(steps)], r, resolve.Budget{}, 1<<30)
						if err != nil {
							b.Fatal(err)
						}
						m.ID()
						i, loaded, visited = i+1, loaded+stats.Loaded, visited+stats.Visited
					}
					b.ReportAllocs()
					b.ReportMetric((cpuTime(b)-start)/float64(b.N), "cpu-ns/op")
					b.ReportMetric(float64(loaded)/float64(b.N), "loaded")
					b.ReportMetric(float64(visited)/float64(b.N), "visits")
					b.ReportMetric(float64(known.Bytes()-r.g.Bytes()), "memory-bytes")
				})
			}
		}
	}
}
