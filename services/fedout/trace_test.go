package fedout

import (
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"hanse/pkg/telemetry"
	"hanse/pkg/telemetry/telemetrytest"
)

// A transaction belongs to the trace of the first event in it, and is linked with those of all that are traced.
func TestTraceOfTransaction(t *testing.T) {
	collector := telemetrytest.New(t)
	tracing, err := telemetry.OpenTracing(t.Context(), telemetry.TracingConfig{Endpoint: collector.Endpoint, Ratio: 1, Worker: "one"})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	w.tracer = tracing.Tracer()
	a := w.remote()
	r := w.room("r", a.name)
	hold, entered := make(chan struct{}), make(chan struct{})
	var first atomic.Bool
	wait := func(*http.Request, []byte) int {
		if first.CompareAndSwap(false, true) {
			close(entered)
			<-hold
		}
		return 0
	}
	a.answer.Store(&wait)
	k := w.start("one")
	sent := r.send("not traced")
	<-entered
	r.traceparent = "00-" + strings.Repeat("a1", 16) + "-" + strings.Repeat("a2", 8) + "-01"
	sent = append(sent, r.send("one")...)
	r.traceparent = "00-" + strings.Repeat("b1", 16) + "-" + strings.Repeat("b2", 8) + "-01"
	sent = append(sent, r.send("two")...)
	w.waitFor("the events were not handed on", func() bool {
		at, ok := k.sender.follow.Position(r.part)
		return ok && at >= 3
	})
	close(hold)
	a.gets(sent...)
	k.End()
	if err := tracing.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	spans := collector.Spans()
	if len(spans) != 1 || spans[0].Name != "fedout.transaction" || spans[0].Trace != strings.Repeat("a1", 16) || spans[0].Parent != strings.Repeat("a2", 8) ||
		!slices.Equal(spans[0].Links, []string{strings.Repeat("a2", 8), strings.Repeat("b2", 8)}) {
		t.Errorf("spans %+v", spans)
	}
}
