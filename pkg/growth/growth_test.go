package growth_test

import (
	"fmt"
	"testing"

	"hanse/pkg/growth"
)

// recorder is a test that may fail.
type recorder struct {
	testing.TB
	failures []string
}

func (r *recorder) Helper()             {}
func (r *recorder) Logf(string, ...any) {}
func (r *recorder) Errorf(format string, args ...any) {
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

var kept []byte

func TestFlat(t *testing.T) {
	for _, c := range []struct {
		grows bool
		cost  func(size int) float64
	}{
		{false, func(int) float64 { return 5 }},
		{false, func(size int) float64 { return 5 + float64(size)/1000 }},
		{true, func(size int) float64 { return 5 + float64(size) }},
		{true, func(size int) float64 { return float64(size) / 10 }},
	} {
		r := &recorder{}
		growth.Flat(r, "it", 10, 1000, 2, func(size int) growth.Cost { return growth.Cost{"rows": c.cost(size)} })
		if (len(r.failures) > 0) != c.grows {
			t.Errorf("grows %t: %q", c.grows, r.failures)
		}
	}
	small, _ := growth.Bytes(func() { kept = make([]byte, 1_000) })
	large, pieces := growth.Bytes(func() { kept = make([]byte, 100_000) })
	if small < 1_000 || small > 10_000 || large < 100_000 || large > 120_000 || pieces < 1 {
		t.Errorf("%f and %f bytes, %f pieces", small, large, pieces)
	}
}
