package state

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"testing"

	"hanse/pkg/growth"
)

// sizes are the growth tables' N: the last is the network's largest room.
var sizes = growth.Sizes(100, 1_000, 10_000, 100_000, 350_000)

// synthetic returns a state like a large public room's: members of many servers and
// a handful of everything else.
func synthetic(n int) []Entry {
	rng := rand.New(rand.NewPCG(1, uint64(n)))
	es := []Entry{
		{Key{"m.room.create", ""}, 1}, {Key{"m.room.power_levels", ""}, 2}, {Key{"m.room.join_rules", ""}, 3},
		{Key{"m.room.history_visibility", ""}, 4}, {Key{"m.room.name", ""}, 5}, {Key{"m.room.topic", ""}, 6},
		{Key{"m.room.server_acl", ""}, 7},
	}
	names := []string{"alice", "bob", "irc_", "telegram_", "maria.", "x", "dev-", "user"}
	for i := len(es); i < n; i++ {
		user := fmt.Sprintf("@%s%d:srv%d.example.org", names[rng.IntN(len(names))], rng.IntN(10*n), rng.IntN(1+n/35))
		es = append(es, Entry{Key{"m.room.member", user}, 1_000_000 + int64(i)*3})
	}
	return es
}

func syntheticMap(n int) Map {
	return New(func(yield func(Key, int64) bool) {
		for _, e := range synthetic(n) {
			if !yield(e.Key, e.NID) {
				return
			}
		}
	})
}

func bySize(b *testing.B, f func(b *testing.B, n int, es []Entry, m Map)) {
	for _, n := range sizes {
		es, m := synthetic(n), syntheticMap(n)
		m.ID()
		b.Run(fmt.Sprintf("N=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			f(b, n, es, m)
		})
	}
}

func BenchmarkGet(b *testing.B) {
	bySize(b, func(b *testing.B, _ int, es []Entry, m Map) {
		rng := rand.New(rand.NewPCG(2, 2))
		for b.Loop() {
			if _, ok := m.Get(es[rng.IntN(len(es))].Key); !ok {
				b.Fatal("absent")
			}
		}
	})
}

// BenchmarkGetHot looks up a thousand keys again and again, as auth rules do: keys and
// path are in the processor's caches, which BenchmarkGet's random keys are not.
func BenchmarkGetHot(b *testing.B) {
	bySize(b, func(b *testing.B, _ int, es []Entry, m Map) {
		rng := rand.New(rand.NewPCG(2, 2))
		hot := make([]Key, 1000)
		for i := range hot {
			hot[i] = es[rng.IntN(len(es))].Key
		}
		for i := 0; b.Loop(); i++ {
			if _, ok := m.Get(hot[i%len(hot)]); !ok {
				b.Fatal("absent")
			}
		}
	})
}

func BenchmarkSet(b *testing.B) {
	bySize(b, func(b *testing.B, _ int, es []Entry, m Map) {
		rng := rand.New(rand.NewPCG(2, 2))
		for i := int64(1); b.Loop(); i++ {
			m = m.Set(es[rng.IntN(len(es))].Key, 1<<40+i)
		}
	})
}

func BenchmarkSetAndID(b *testing.B) {
	bySize(b, func(b *testing.B, _ int, es []Entry, m Map) {
		rng := rand.New(rand.NewPCG(2, 2))
		for i := int64(1); b.Loop(); i++ {
			m = m.Set(es[rng.IntN(len(es))].Key, 1<<40+i)
			m.ID()
		}
	})
}

// fork returns k maps that each changed c keys of m, and whose IDs are known.
func fork(m Map, es []Entry, k, c int) []Map {
	rng := rand.New(rand.NewPCG(3, 3))
	ms := make([]Map, k)
	for i := range ms {
		ms[i] = m
		for j := range c {
			ms[i] = ms[i].Set(es[rng.IntN(len(es))].Key, 1<<40+int64(i*c+j))
		}
		ms[i].ID()
	}
	return ms
}

func BenchmarkDiff(b *testing.B) {
	for _, c := range []int{2, 20, 200} {
		b.Run(fmt.Sprintf("C=%d", c), func(b *testing.B) {
			bySize(b, func(b *testing.B, _ int, es []Entry, m Map) {
				ms := fork(m, es, 2, c/2)
				for b.Loop() {
					for range Diff(ms[0], ms[1]) {
					}
				}
			})
		})
	}
}

func BenchmarkDiffN(b *testing.B) {
	for _, k := range []int{3, 10} {
		b.Run(fmt.Sprintf("k=%d/C=20", k), func(b *testing.B) {
			bySize(b, func(b *testing.B, _ int, es []Entry, m Map) {
				ms := fork(m, es, k, 20/k)
				for b.Loop() {
					for range DiffN(ms) {
					}
				}
			})
		})
	}
}

// BenchmarkDiffUnshared compares maps that were built apart from one another, as
// after a cold load: only the content hashes say what is equal.
func BenchmarkDiffUnshared(b *testing.B) {
	bySize(b, func(b *testing.B, n int, es []Entry, m Map) {
		other := syntheticMap(n).Set(es[0].Key, 1<<40)
		other.ID()
		for b.Loop() {
			for range Diff(m, other) {
			}
		}
	})
}

func BenchmarkBuild(b *testing.B) {
	for _, n := range sizes {
		es := synthetic(n)
		b.Run(fmt.Sprintf("N=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			m := syntheticMap(n)
			runtime.GC()
			runtime.ReadMemStats(&after)
			for b.Loop() {
				New(func(yield func(Key, int64) bool) {
					for _, e := range es {
						if !yield(e.Key, e.NID) {
							return
						}
					}
				}).ID()
			}
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(m.Len()), "heapB/entry")
			b.ReportMetric(float64(m.Bytes())/float64(m.Len()), "estB/entry")
			runtime.KeepAlive(m)
		})
	}
}

// BenchmarkGoMapGet is the yardstick for BenchmarkGet: the same look-ups in a Go map.
func BenchmarkGoMapGet(b *testing.B) {
	bySize(b, func(b *testing.B, _ int, es []Entry, m Map) {
		g := maps.Collect(m.All())
		rng := rand.New(rand.NewPCG(2, 2))
		for b.Loop() {
			if _, ok := g[es[rng.IntN(len(es))].Key]; !ok {
				b.Fatal("absent")
			}
		}
	})
}
