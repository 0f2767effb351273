package hugerooms

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hanse/tools/loadgen/measure"
	"hanse/tools/mxclient"
)

// within is a user of the tormented room itself, who writes there at besideRate all the time.
type within struct {
	t      *testing.T
	room   string
	user   *mxclient.Client
	runs   int
	quiet  measure.Recorder
	refuse atomic.Int64
}

// meanwhile lets the user write while something happens, and notes what a send took. What the room does not allow for a
// while is counted.
func (w *within) meanwhile(took *measure.Recorder, happens func()) {
	w.t.Helper()
	w.runs++
	ctx, stop := context.WithCancel(w.t.Context())
	var senders sync.WaitGroup
	senders.Go(func() {
		slots := make(chan struct{}, besideSenders)
		tick := time.NewTicker(time.Second / besideRate)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			slots <- struct{}{}
			senders.Go(func() {
				defer func() { <-slots }()
				w.send(took, fmt.Sprintf("within%d-%d", w.runs, n))
			})
		}
	})
	happens()
	stop()
	senders.Wait()
}

func (w *within) send(took *measure.Recorder, text string) {
	begin := time.Now()
	_, err := w.user.SendText(w.t.Context(), w.room, text, text)
	switch {
	case mxclient.IsCode(err, "M_FORBIDDEN"):
		w.refuse.Add(1)
	case err != nil:
		w.t.Errorf("a send in the room itself: %v", err)
	}
	took.Add(time.Since(begin))
}

// compare logs what sends took beside what they took in quiet times.
func (w *within) compare(what string, took *measure.Recorder) {
	quiet, busy := w.quiet.Summary(""), took.Summary("")
	w.t.Logf("a send in the room itself: quiet p50 %.1f p99 %.1f ms (%d); in %s p50 %.1f p90 %.1f p99 %.1f max %.1f ms (%d): p99 %.1f times; %d were refused", quiet.P50, quiet.P99,
		quiet.Count, what, busy.P50, busy.P90, busy.P99, busy.Max, busy.Count, busy.P99/quiet.P99, w.refuse.Swap(0))
}
