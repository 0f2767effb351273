package fedout

import (
	"context"
	"errors"
	"testing"
)

// However many patient transactions there are, others find a slot; all slots are used, and all come back.
func TestLane(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, n := range []int{1, 2, 4, 256} {
		s := newLane(n)
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

// The slow ones are bounded in number and in bytes: the one that has waited longest has to end. Who ends gives its place
// back, once.
func TestSlow(t *testing.T) {
	s := slow{most: 3, mostBytes: 100}
	var ones []*slowOne
	ended := make(map[int]error)
	add := func(bytes int64) {
		n := len(ones)
		ones = append(ones, &slowOne{bytes: bytes, cancel: func(why error) { ended[n] = why }})
		s.add(ones[n])
	}
	check := func(waiting int, bytes int64, over ...int) {
		t.Helper()
		if s.waiting.Len() != waiting || s.bytes != bytes || len(ended) != len(over) {
			t.Fatalf("%d wait with %d bytes and %v have ended, want %d, %d and %v", s.waiting.Len(), s.bytes, ended, waiting, bytes, over)
		}
		for _, n := range over {
			if !errors.Is(ended[n], errOverloaded) {
				t.Fatalf("%d ended with %v", n, ended[n])
			}
		}
	}
	for range 4 {
		add(10)
	}
	check(3, 30, 0)
	add(90)
	check(2, 100, 0, 1, 2)
	s.remove(ones[0])
	s.remove(ones[3])
	s.remove(ones[3])
	check(1, 90, 0, 1, 2)
	add(500) // one may always wait
	check(1, 500, 0, 1, 2, 4)
	s.remove(ones[5])
	s.add(ones[5]) // its timer came late
	check(0, 0, 0, 1, 2, 4)
}
