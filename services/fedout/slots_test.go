package fedout

import (
	"context"
	"testing"
)

// However many patient transactions there are, others find a slot; all slots are used, and all come back.
func TestSlots(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, n := range []int{1, 2, 4, 256} {
		s := newSlots(n)
		var leave []func()
		enter := func(patient bool) {
			t.Helper()
			l, err := s.enter(t.Context(), patient)
			if err != nil {
				t.Fatal(err)
			}
			leave = append(leave, l)
		}
		full := func(patient bool) {
			t.Helper()
			if _, err := s.enter(ended, patient); err == nil {
				t.Fatalf("one more than there are of %d (patient %v)", n, patient)
			}
		}
		for range 2 {
			for range max(1, n*3/4) {
				enter(true)
			}
			full(true)
			for range n - max(1, n*3/4) {
				enter(false)
			}
			full(false)
			for _, l := range leave {
				l()
			}
			for leave = nil; len(leave) < n; {
				enter(false)
			}
			full(true)
			full(false)
			for _, l := range leave {
				l()
			}
			leave = nil
		}
		if len(s.all) != 0 || len(s.patient) != 0 {
			t.Fatalf("%d and %d slots of %d are taken", len(s.all), len(s.patient), n)
		}
	}
}
