// Package growth is for the tests that stand beside the benchmarks of docs: an operation costs the same where a room, a
// server or a cluster is larger. Such a test compares what does not depend on the machine or on what else runs on it: bytes
// allocated, events visited, statements, rows.
package growth

import (
	"os"
	"runtime"
	"slices"
	"strconv"
	"testing"
)

// Sizes are those at which a benchmark runs: all, or with HANSE_SIZE in the environment those up to that one.
func Sizes(all ...int) []int {
	most, err := strconv.Atoi(os.Getenv("HANSE_SIZE"))
	if err != nil || most <= 0 {
		return all
	}
	return slices.DeleteFunc(all, func(n int) bool { return n > most })
}

// Cost is what an operation costs: numbers by unit.
type Cost map[string]float64

// Flat runs the operation at two sizes, and fails the test if a number at the large one is more than most times what it is at the
// small one. What is below a hundredth of the difference of the sizes is never too much: that much another goroutine may add.
func Flat(t testing.TB, what string, small, large int, most float64, cost func(size int) Cost) {
	t.Helper()
	before, after := cost(small), cost(large)
	for unit, b := range before {
		a := after[unit]
		t.Logf("%s: %.4g %s at %d, %.4g at %d", what, b, unit, small, a, large)
		if a > max(most*b, float64(large-small)/100) {
			t.Errorf("%s costs %.4g %s at a size of %d, but %.4g at %d", what, b, unit, small, a, large)
		}
	}
}

// Bytes returns how many bytes a call of f allocates, and in how many pieces: the least of several calls, after one that
// does not count.
func Bytes(f func()) (bytes, pieces float64) {
	f()
	for n := range 5 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		b, p := float64(after.TotalAlloc-before.TotalAlloc), float64(after.Mallocs-before.Mallocs)
		if n == 0 || b < bytes {
			bytes = b
		}
		if n == 0 || p < pieces {
			pieces = p
		}
	}
	return bytes, pieces
}
