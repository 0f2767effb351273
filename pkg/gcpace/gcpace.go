// Package gcpace makes garbage collections of small heaps rare.
//
// Go collects when as much has been allocated as was alive after the last collection (GOGC=100). A server that holds
// 20 MiB and answers with hundreds of kilobytes then collects many times a second, and each time looks at all that it
// holds. Keep raises the percentage while the heap is small, so that a fixed amount at least is allocated between two
// collections; a heap that is larger than this amount is collected as ever. The memory that a process takes grows by
// the amount at most.
//
// Memory that a burst of work has left behind goes back to the system once the process has been quiet for a while: the runtime
// alone gives it back over many minutes, and keeps garbage for two.
//
// Whoever sets GOGC has decided otherwise: Keep does nothing then. GOMEMLIMIT stays in force: near it the runtime
// collects more often whatever the percentage is.
package gcpace

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

// The bounds of the percentage: what is Go's default, and what is enough for any heap that matters.
const (
	minPercent = 100
	maxPercent = 2000
)

// quiet is the time without a collection after which a process counts as quiet.
const quiet = 20 * time.Second

// Keep lets at least slack bytes be allocated between two collections, until stop is called. There can be one in a
// process.
func Keep(slack int64) (stop func()) {
	if slack <= 0 || os.Getenv("GOGC") != "" {
		return func() {}
	}
	return start(uint64(slack), quiet).stop
}

func start(slack uint64, quiet time.Duration) *pacer {
	p := &pacer{slack: slack, quiet: quiet, cycles: read().cycles}
	p.before = debug.SetGCPercent(minPercent)
	p.percent = minPercent
	p.rest = time.AfterFunc(quiet, p.rested)
	p.collected()
	return p
}

type pacer struct {
	slack uint64
	quiet time.Duration

	mu      sync.Mutex
	stopped bool
	before  int // percentage before Keep
	percent int // in force

	rest   *time.Timer // runs rested, once for each time of quiet
	cycles uint64      // collections that rested has seen
	kept   uint64      // bytes that the heap took when rested had given back last
}

// collected runs after each collection, and has itself called after the next one: what it allocates is garbage then.
func (p *pacer) collected() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return
	}
	// Setting the percentage stops the world for a moment: small differences do not matter.
	if next := percentFor(p.slack, read().live); next < p.percent*9/10 || next > p.percent*11/10 {
		debug.SetGCPercent(next)
		p.percent = next
	}
	runtime.AddCleanup(new([64]byte), func(p *pacer) { p.collected() }, p)
}

func (p *pacer) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.stopped {
		p.stopped = true
		p.rest.Stop()
		debug.SetGCPercent(p.before)
	}
}

// rested runs again and again, and gives memory back if nothing has been collected since it ran last.
func (p *pacer) rested() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return
	}
	p.giveBack()
	p.rest.Reset(p.quiet)
}

// giveBack collects and gives the system what is free, if the heap takes more than it needs and may fill anew with garbage: a
// process under a steady light load is left alone. What it needs is what was alive after the last collection, or what it took
// when giveBack had run last: the last collection can have come in the middle of a burst, when all that is garbage now was alive.
func (p *pacer) giveBack() {
	m := read()
	if m.cycles != p.cycles {
		p.cycles = m.cycles
		return
	}
	if need := min(m.live, p.kept); m.heap > need+max(p.slack, need/2) {
		debug.FreeOSMemory()
		m = read()
		p.cycles, p.kept = m.cycles, m.heap
	}
}

// memory is what the runtime says of the heap.
type memory struct {
	heap   uint64 // bytes in use, with garbage, and free ones that the system has not got back
	live   uint64 // bytes that were alive after the last collection
	cycles uint64 // collections so far
}

func read() memory {
	sample := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
		{Name: "/gc/heap/live:bytes"}, {Name: "/gc/cycles/total:gc-cycles"},
	}
	metrics.Read(sample)
	value := func(i int) uint64 { return sample[i].Value.Uint64() }
	return memory{heap: value(0) + value(1), live: value(2), cycles: value(3)}
}

// percentFor returns the percentage of live that makes up slack.
func percentFor(slack, live uint64) int {
	if live == 0 {
		return minPercent // nothing was collected yet
	}
	return int(min(max(slack*100/live, minPercent), maxPercent))
}
