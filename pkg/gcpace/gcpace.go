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
func Keep(slack int64) (stop func()) { return keep(slack, quiet) }

func keep(slack int64, quiet time.Duration) (stop func()) {
	if slack <= 0 || os.Getenv("GOGC") != "" {
		return func() {}
	}
	p := &pacer{slack: uint64(slack), quiet: quiet}
	p.rest = time.AfterFunc(quiet, p.giveBack)
	p.before = debug.SetGCPercent(minPercent)
	p.percent = minPercent
	p.collected()
	return p.stop
}

type pacer struct {
	slack uint64
	quiet time.Duration
	rest  *time.Timer // set anew by each collection

	mu      sync.Mutex
	stopped bool
	before  int // percentage before Keep
	percent int // in force
}

// collected runs after each collection, and has itself called after the next one: what it allocates is garbage then.
func (p *pacer) collected() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return
	}
	p.rest.Reset(p.quiet)
	// Setting the percentage stops the world for a moment: small differences do not matter.
	if next := percentFor(p.slack, live()); next < p.percent*9/10 || next > p.percent*11/10 {
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

// giveBack runs when nothing has been collected for a while. It collects, and gives the system what is free, if that is more than
// what the process may fill anew with garbage: a process under a steady light load is left alone.
func (p *pacer) giveBack() {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/free:bytes"}, {Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	objects, free, live := sample[0].Value.Uint64(), sample[1].Value.Uint64(), sample[2].Value.Uint64()
	if objects+free > live+max(p.slack, live/2) {
		debug.FreeOSMemory()
	}
}

// live returns the bytes that were alive after the last collection.
func live() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// percentFor returns the percentage of live that makes up slack.
func percentFor(slack, live uint64) int {
	if live == 0 {
		return minPercent // nothing was collected yet
	}
	return int(min(max(slack*100/live, minPercent), maxPercent))
}
