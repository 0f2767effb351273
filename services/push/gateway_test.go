package push

import (
	"errors"
	"testing"
	"time"
)

// A request that was not made after all teaches nothing of its gateway.
func TestGatewayNotAsked(t *testing.T) {
	g := newGateways(Defaults(), newMetrics(nil))
	woken := 0
	again := func() { woken++ }
	enter := func() *pass {
		t.Helper()
		p, err := g.enter("https://gateway.test", again)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	enter().leave(true, false, 0)
	to := g.known["https://gateway.test"]
	if !to.good.IsZero() {
		t.Error("a gateway that was not asked counts as one that answers")
	}
	enter().leave(false, false, 0)
	var paused *pausedError
	if _, err := g.enter("https://gateway.test", again); !errors.As(err, &paused) {
		t.Fatalf("after a failure: %v", err)
	}

	to.until = time.Now() // the pause is over
	p := enter()
	for range 3 {
		if _, err := g.enter("https://gateway.test", again); !errors.Is(err, errCrowded) {
			t.Fatalf("a second request to a gateway that failed: %v", err)
		}
	}
	p.leave(true, false, 0)
	if to.failures != 1 || to.busy != 0 || !to.good.IsZero() {
		t.Errorf("after a request that was not made: %+v", to)
	}
	if woken != 1 || len(to.crowd) != 2 {
		t.Errorf("%d are woken to try, %d wait", woken, len(to.crowd))
	}
	enter().leave(true, true, 0)
	if to.failures != 0 || to.good.IsZero() || woken != 3 {
		t.Errorf("after an answer: %+v, %d woken", to, woken)
	}
}
