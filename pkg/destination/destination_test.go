package destination

import (
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	"hanse/pkg/pg/pgtest"
)

type countingBus struct{ wakes atomic.Int32 }

func (b *countingBus) WakeFedout(uint32) error { b.wakes.Add(1); return nil }

func TestDelay(t *testing.T) {
	for n, want := range map[int]time.Duration{0: First, 1: First, 2: 2 * First, 5: 16 * First, 17: Longest, 1000: Longest} {
		for range 100 {
			if d := Delay(n); d < want*4/5 || d > want*6/5 {
				t.Fatalf("Delay(%d) = %s, want about %s", n, d, want)
			}
		}
	}
}

// Two workers share one backoff: failures under way together count once, and a success or traffic from the server
// ends it for both.
func TestShared(t *testing.T) {
	cfg := pgtest.Config(t, 1)
	bus := new(countingBus)
	a, b := New(pgtest.Open(t, cfg), bus), New(pgtest.Open(t, cfg), bus)
	clock := time.Now()
	a.now, b.now = func() time.Time { return clock }, func() time.Time { return clock }
	ctx, server := t.Context(), "remote.example"

	var g errgroup.Group
	for _, s := range []*Store{a, b, a, b} {
		g.Go(func() error { _, err := s.Failed(ctx, "remote.example", clock); return err })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	st, err := b.Failed(ctx, "remote.example", clock)
	if err != nil || st.Failures != 1 || !st.BackingOff(clock) {
		t.Fatalf("after failures at once: %+v, %v", st, err)
	}
	clock = st.RetryAfter.Add(time.Millisecond)
	again, err := b.Failed(ctx, "remote.example", clock)
	if err != nil || again.Failures != 2 || again.RetryAfter.Sub(clock) < First {
		t.Fatalf("second failure: %+v, %v", again, err)
	}
	if failing, err := a.Failing(ctx, partOf(server)); err != nil || failing["remote.example"] != again {
		t.Fatalf("Failing = %v, %v", failing, err)
	}
	if err := a.Seen(ctx, "remote.example"); err != nil || bus.wakes.Load() != 1 {
		t.Fatalf("Seen: %v, %d wake-ups", err, bus.wakes.Load())
	}
	if err := a.Seen(ctx, "remote.example"); err != nil || bus.wakes.Load() != 1 {
		t.Fatalf("Seen again: %v, %d wake-ups", err, bus.wakes.Load())
	}
	b.Forget(partOf(server))
	if st, err := b.Get(ctx, "remote.example"); err != nil || st.Failures != 0 || st.BackingOff(clock) {
		t.Fatalf("after traffic: %+v, %v", st, err)
	}
}

// A worker that stood still notes what it saw before others saw something else: that stands.
func TestLateObservations(t *testing.T) {
	cfg := pgtest.Config(t, 1)
	late, other := New(pgtest.Open(t, cfg), new(countingBus)), New(pgtest.Open(t, cfg), new(countingBus))
	clock := time.Now()
	late.now, other.now = func() time.Time { return clock }, func() time.Time { return clock }
	ctx, server := t.Context(), id.Server("remote.example")
	stand := func(failures int) {
		t.Helper()
		for _, s := range []*Store{late, other} {
			if st, err := s.read(ctx, server); err != nil || st.Failures != failures {
				t.Fatalf("%+v, %v; want %d failures", st, err, failures)
			}
		}
	}
	seen := clock
	clock = clock.Add(time.Minute)
	st, err := other.Failed(ctx, server, clock)
	if err != nil || st.Failures != 1 {
		t.Fatalf("%+v, %v", st, err)
	}
	if err := late.Succeeded(ctx, server, seen); err != nil {
		t.Fatal(err)
	}
	stand(1)
	if st, err := late.Get(ctx, server); err != nil || !st.BackingOff(clock) {
		t.Errorf("%+v, %v: the late one believes itself", st, err)
	}
	began := clock
	clock = st.RetryAfter.Add(time.Minute)
	if err := other.Succeeded(ctx, server, clock); err != nil {
		t.Fatal(err)
	}
	stand(0)
	if st, err := late.Failed(ctx, server, began); err != nil || st.Failures != 0 {
		t.Fatalf("%+v, %v: a failure from before the success counts", st, err)
	}
	stand(0)
	if st, err := late.Failed(ctx, server, clock); err != nil || st.Failures != 1 {
		t.Fatalf("%+v, %v: one from after it does not", st, err)
	}
}

func partOf(server string) uint32 { return partition.Of(server) }
