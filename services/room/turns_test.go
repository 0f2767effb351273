package room

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"
)

// Whoever waits gets a turn although somebody works without end, and one that is cancelled does not keep it.
func TestTurns(t *testing.T) {
	ts := newTurns(1)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	endless, err := ts.begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		for endless.Err() == nil {
			runtime.Gosched()
		}
		endless.pause()
		ended <- endless.Err()
	}()
	for range 5 {
		other, err := ts.begin(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		other.pause()
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
	last, err := ts.begin(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := ts.begin(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting ended with %v", err)
	}
	last.pause()
	last.pause() // once is enough
	if ts.free != 1 || ts.waiting() != 0 {
		t.Errorf("%d free, %d waiting", ts.free, ts.waiting())
	}
}

// A turn is handed on in the order in which it was asked for.
func TestTurnsInOrder(t *testing.T) {
	ts := newTurns(1)
	first, err := ts.begin(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	const n = 8
	came := make(chan int, n)
	for i := range n {
		go func() {
			mine, err := ts.begin(context.Background())
			if err == nil {
				came <- i
				mine.pause()
			}
		}()
		waitFor(t, func() bool { return ts.waiting() == i+1 })
	}
	first.pause()
	for i := range n {
		if got := <-came; got != i {
			t.Fatalf("%d came when it was the turn of %d", got, i)
		}
	}
}

// Processor time comes in at a rate, up to a bound, and can be overdrawn up to another.
func TestAllowance(t *testing.T) {
	a := allowance{rate: 0.1, most: 2 * time.Second}
	now := time.Unix(1000, 0)
	owed := func(want time.Duration) {
		t.Helper()
		if got := a.owed(now); got.Round(10*time.Millisecond) != want {
			t.Errorf("owed for %v, want %v", got, want)
		}
	}
	owed(0)
	a.spend(now, 2*time.Second)
	owed(0) // all spent, nothing owed
	a.spend(now, 500*time.Millisecond)
	owed(5 * time.Second)
	now = now.Add(4 * time.Second)
	owed(time.Second)
	now = now.Add(1001 * time.Millisecond)
	owed(0)
	now = now.Add(time.Hour)
	a.spend(now, 3*time.Second)
	owed(10 * time.Second)
	a.spend(now, time.Hour)
	owed(worstDebt * 10)
	now = now.Add(-time.Minute) // a clock that goes backwards gives nothing and takes nothing
	owed(worstDebt * 10)
}

// Many things wait for a turn and make room for others in between; few are done at once, and an ended context stops many.
func TestTurnsEach(t *testing.T) {
	ts := newTurns(1)
	held, err := ts.begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	done := 0
	count := func(int) { done++ }
	if err := ts.each(t.Context(), few, count); err != nil || done != few {
		t.Fatalf("%d of few things done beside somebody who works, %v", done, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	done = 0
	if err := ts.each(ended, few+1, count); !errors.Is(err, context.Canceled) || done != 0 {
		t.Fatalf("%d of many things done without a turn, %v", done, err)
	}
	held.pause()

	began, other := make(chan struct{}), make(chan error)
	go func() {
		<-began
		turn, err := ts.begin(context.Background())
		if err == nil {
			turn.pause()
		}
		other <- err
	}()
	working, stop := context.WithCancel(t.Context())
	defer stop()
	err = ts.each(working, 1<<40, func(i int) {
		if i == 0 {
			close(began)
		}
		select {
		case err := <-other:
			if err != nil {
				t.Error(err)
			}
			stop()
		default:
			runtime.Gosched()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
	if ts.free != 1 || ts.waiting() != 0 {
		t.Errorf("%d free, %d waiting", ts.free, ts.waiting())
	}
}
