// Package scenario holds the load generator's scenarios, one file each. A
// scenario is a struct of parameters, whose tags are its command-line flags, with
// a method Run: set up, measure, verify, report.
package scenario

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"hanse/tools/loadgen/measure"
	"hanse/tools/loadgen/report"
	"hanse/tools/loadgen/stage"
	"hanse/tools/mxclient"
)

// Env is what every scenario needs.
type Env struct {
	Client   *mxclient.Client // without an account
	Stage    *stage.Stage
	Meter    *measure.Meter
	Server   string
	Label    string
	Run      string // distinguishes this run's messages and transactions
	Retries  *Tally // repeated requests, by reason; may be nil
	Progress func(format string, args ...any)
}

// Scenario is one kind of load.
type Scenario interface {
	Run(ctx context.Context, env *Env) (*report.Report, error)
}

func (e *Env) progress(format string, args ...any) {
	if e.Progress != nil {
		e.Progress(format, args...)
	}
}

func (e *Env) report(name, unit string, params map[string]any) *report.Report {
	return &report.Report{Scenario: name, Server: e.Server, Label: e.Label, Started: time.Now(), Params: params, Unit: unit}
}

// epoch is what the times in messages count from: the monotonic clock, so that a
// step of the wall clock does not count as latency.
var epoch = time.Now()

func nanos(t time.Time) int64 { return int64(t.Sub(epoch)) }

// Tally counts errors by kind, concurrently.
type Tally struct {
	mu sync.Mutex
	m  map[string]int
}

// Add counts an error by its errcode, its status or its nature.
func (t *Tally) Add(what string, err error) {
	kind := "transport"
	var refused *mxclient.Error
	switch {
	case errors.As(err, &refused) && refused.Code != "":
		kind = refused.Code
	case errors.As(err, &refused):
		kind = "HTTP " + strconv.Itoa(refused.Status)
	case errors.Is(err, context.DeadlineExceeded):
		kind = "timeout"
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m == nil {
		t.m = map[string]int{}
	}
	t.m[what+" "+kind]++
}

// Counts returns what was counted.
func (t *Tally) Counts() map[string]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.m
}

// Sum counts all.
func (t *Tally) Sum() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for _, c := range t.m {
		n += c
	}
	return n
}

// pace says how fast and how long work is done.
type pace struct {
	workers  int
	count    int           // 0: no limit
	duration time.Duration // 0: no limit
	rate     float64       // operations a second in all; 0: each worker as fast as it can
}

// drive runs fn in workers until count or duration is reached. due is when the
// operation should have begun: with a rate, a late operation's latency counts
// from then, so that a server that stalls does not hide it by slowing us down.
func (p pace) drive(ctx context.Context, fn func(ctx context.Context, worker int, due time.Time)) time.Duration {
	start := time.Now()
	var next atomic.Int64
	var wg sync.WaitGroup
	for w := range p.workers {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := next.Add(1) - 1
				if p.count > 0 && i >= int64(p.count) {
					return
				}
				due := time.Now()
				if p.rate > 0 {
					due = start.Add(time.Duration(float64(i) / p.rate * float64(time.Second)))
				}
				if p.duration > 0 && due.Sub(start) >= p.duration {
					return
				}
				if !waitUntil(ctx, due) {
					return
				}
				fn(ctx, w, due)
			}
		})
	}
	wg.Wait()
	return time.Since(start)
}

func waitUntil(ctx context.Context, at time.Time) bool {
	d := time.Until(at)
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// castRoom is a room with its members.
type castRoom struct {
	id    string
	users []*mxclient.Client
}

// cast sets up rooms of members each, with people of their own or shared ones.
func (e *Env) cast(ctx context.Context, rooms, members int, shared bool) ([]castRoom, error) {
	n := rooms * members
	if shared {
		n = members
	}
	users, err := e.Stage.Users(ctx, "u", n)
	if err != nil {
		return nil, err
	}
	out := make([]castRoom, rooms)
	for i := range out {
		first := i * members
		if shared {
			first = 0
		}
		pool := users[first : first+members]
		id, err := e.Stage.Room(ctx, fmt.Sprintf("cast-%d-%d-%d", first, members, i), pool)
		if err != nil {
			return nil, err
		}
		out[i] = castRoom{id: id, users: pool}
	}
	return out, e.Stage.Save()
}

// finish ends the measurement and adds what every report has.
func (e *Env) finish(ctx context.Context, span *measure.Span, r *report.Report, errs *Tally, limitedBefore int64) error {
	u, err := span.Stop(ctx)
	if err != nil {
		return err
	}
	r.Usage = u
	r.Errors = errs.Counts()
	r.RateLimited = e.Client.RateLimited() - limitedBefore
	if e.Retries != nil && e.Retries.Sum() > 0 {
		r.Add("requests repeated", float64(e.Retries.Sum()), "")
	}
	return nil
}

// isDone tells the end of a scenario from a failure.
func isDone(ctx context.Context, err error) bool {
	var refused *mxclient.Error
	return ctx.Err() != nil && !errors.As(err, &refused)
}

// setupWorkers is how many requests at a time prepare a measurement.
const setupWorkers = 16

// each calls fn for 0 to n-1 with so many workers, and ends at the first error.
func each(ctx context.Context, workers, n int, fn func(i int) error) error {
	var g errgroup.Group
	g.SetLimit(workers)
	for i := range n {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return fn(i)
		})
	}
	return g.Wait()
}
