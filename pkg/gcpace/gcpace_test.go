package gcpace

import (
	"os"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"hanse/pkg/await"
)

func TestPercent(t *testing.T) {
	for _, c := range []struct {
		slack, live uint64
		want        int
	}{
		{64 << 20, 0, 100}, {64 << 20, 16 << 20, 400}, {64 << 20, 64 << 20, 100}, {64 << 20, 1 << 30, 100}, {64 << 20, 1 << 10, 2000},
	} {
		if got := percentFor(c.slack, c.live); got != c.want {
			t.Errorf("percentFor(%d, %d) = %d, want %d", c.slack, c.live, got, c.want)
		}
	}
}

// current returns the percentage in force.
func current() int {
	p := debug.SetGCPercent(100)
	debug.SetGCPercent(p)
	return p
}

// Each collection adjusts the percentage to what is alive, and in the end it is what it was.
func TestKeep(t *testing.T) {
	if os.Getenv("GOGC") != "" {
		t.Skip("GOGC is set")
	}
	before := current()
	stop := Keep(64 << 20)
	wait := func(what string, ok func(percent int) bool) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
			runtime.GC()
			if ok(current()) {
				return
			}
		}
		t.Fatalf("%s: %d%%", what, current())
	}
	wait("a small heap", func(p int) bool { return p > 200 })
	held := make([]byte, 100<<20)
	wait("a large heap", func(p int) bool { return p == 100 })
	runtime.KeepAlive(held)
	wait("a small heap again", func(p int) bool { return p > 200 })
	stop()
	stop()
	if got := current(); got != before {
		t.Errorf("%d%% in the end, %d%% before", got, before)
	}
	runtime.GC()
	if got := current(); got != before {
		t.Errorf("%d%% after the next collection, %d%% before", got, before)
	}
}

func TestKeepRespectsGOGC(t *testing.T) {
	t.Setenv("GOGC", "70")
	before := current()
	defer Keep(1 << 40)()
	if got := current(); got != before {
		t.Errorf("%d%%, %d%% before", got, before)
	}
}

// What a burst has left goes back to the system without another allocation.
func TestGivesBack(t *testing.T) {
	if os.Getenv("GOGC") != "" {
		t.Skip("GOGC is set")
	}
	defer keep(4<<20, 100*time.Millisecond)()
	func() {
		burst := make([][]byte, 200)
		for i := range burst {
			burst[i] = make([]byte, 1<<20)
		}
		runtime.KeepAlive(burst)
	}()
	var m runtime.MemStats
	await.True(t, time.Minute, "the memory is given back", func() bool {
		runtime.ReadMemStats(&m)
		return m.HeapSys-m.HeapReleased < 100<<20
	})
}
