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
	large := make([]byte, 100<<20)
	wait("a large heap", func(p int) bool { return p == 100 })
	runtime.KeepAlive(large)
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

// held returns the bytes of the heap that the system has not got back.
func held() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapSys - m.HeapReleased
}

// burst allocates 200 MiB that are all alive at once, and are garbage when it returns.
func burst() {
	all := make([][]byte, 200)
	for i := range all {
		all[i] = make([]byte, 1<<20)
	}
	runtime.KeepAlive(all)
}

// What a burst has left goes back to the system, wherever in the burst the last collection was, and so does what the next burst
// leaves. This test calls giveBack instead of waiting: nothing else allocates then.
func TestGiveBack(t *testing.T) {
	p := start(4<<20, time.Hour)
	defer p.stop()
	for _, c := range []struct {
		what string
		work func()
	}{
		{"collections within the burst", burst},
		{"no collection", func() { defer debug.SetGCPercent(debug.SetGCPercent(-1)); burst() }},
		{"a collection at the end of the burst", func() {
			all := make([]byte, 200<<20)
			runtime.GC()
			runtime.KeepAlive(all)
		}},
	} {
		c.work()
		await.True(t, time.Minute, c.what+": the memory is given back", func() bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.giveBack()
			return held() < 100<<20
		})
	}
}

// Garbage less than the slack is left where it is.
func TestLightLoadIsLeftAlone(t *testing.T) {
	debug.FreeOSMemory()
	p := start(512<<20, time.Hour)
	defer p.stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	burst()
	runtime.GC() // ends one that is under way, too
	p.cycles = read().cycles
	p.giveBack()
	if got := read().cycles; got != p.cycles {
		t.Errorf("%d collections, want none", got-p.cycles)
	}
}

// The timer gives back without anything that allocates, also what a second burst leaves.
func TestGivesBack(t *testing.T) {
	p := start(4<<20, time.Millisecond)
	defer p.stop()
	for range 2 {
		p.mu.Lock() // no time of quiet within the burst
		burst()
		p.mu.Unlock()
		await.True(t, time.Minute, "the memory is given back", func() bool { return held() < 100<<20 })
	}
}
