package sync

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// The set agrees with a map as long as it has not forgotten anything, says what was new, and keeps its bound.
func TestLazySet(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var s lazySet
	model := make(map[lazyKey]bool)
	random := func(n int) []lazyKey {
		keys := make([]lazyKey, n)
		for i := range keys {
			keys[i] = keyOf(uint32(rng.IntN(3)), int64(rng.IntN(500)))
		}
		return keys
	}
	for range 3000 {
		keys := random(rng.IntN(12))
		if rng.IntN(3) == 0 {
			s.remove(keys)
			for _, k := range keys {
				delete(model, k)
			}
			continue
		}
		var fresh []lazyKey
		for _, k := range keys {
			if !model[k] {
				fresh = append(fresh, k)
			}
			model[k] = true
		}
		slices.Sort(fresh)
		if got := s.add(keys); !slices.Equal(got, fresh) {
			t.Fatalf("add said %v is new, want %v", got, fresh)
		}
		for _, k := range random(20) {
			if s.has(k) != model[k] {
				t.Fatalf("has(%d) = %t", k, !model[k])
			}
		}
	}
}

func TestLazySetForgets(t *testing.T) {
	var s lazySet
	all := make([]lazyKey, 5*lazyHalf)
	for i := range all {
		all[i] = keyOf(7, int64(i+1))
	}
	for batch := range slices.Chunk(all, 777) {
		s.add(batch)
		if len(s.young) > lazyHalf || len(s.old) > lazyHalf {
			t.Fatalf("%d and %d keys are held", len(s.young), len(s.old))
		}
		for _, k := range batch {
			if !s.has(k) {
				t.Fatal("what was just added is forgotten")
			}
		}
	}
	if s.has(all[0]) {
		t.Error("the oldest is still there")
	}
}
