package fedout

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/destination"
	"hanse/pkg/matrix/id"
	"hanse/pkg/pg"
)

// destPart is a partition of destinations that this worker has.
type destPart struct {
	f     *sender
	part  uint32
	epoch int64       // under which what is known of the destinations is stored
	lost  atomic.Bool // somebody else has raised it
	// ctx is that of requests to the destinations.
	ctx  context.Context
	stop context.CancelFunc
	// handed is, for each log partition, the last position that was given to the destinations that are in the room.
	handed []atomic.Int64
	// active log partitions had something for a destination since their cursor was stored.
	active []atomic.Bool

	work    sync.WaitGroup // goroutines that send
	mu      sync.Mutex
	dests   map[id.Server]*dest
	failing map[id.Server]destination.State // as of the last look
	left    bool                            // the partition is somebody else's

	looked time.Time // all of it; belongs to who looks

	// These belong to who flushes.
	flushing sync.Mutex
	stored   []int64 // the cursors in the table
	complete time.Time
}

// dest returns a destination, which begins to exist for us if it did not. It will not be forgotten before the caller
// has used it.
func (p *destPart) dest(server id.Server) *dest {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.dests[server]
	if d == nil {
		d = &dest{f: p.f, p: p, server: server, gone: p.left}
		if st, ok := p.failing[server]; ok && st.BackingOff(time.Now()) {
			d.wait(st.RetryAfter)
		}
		p.dests[server] = d
	}
	d.touch()
	return d
}

// peek returns a destination that exists for us.
func (p *destPart) peek(server id.Server) *dest {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dests[server]
}

func (p *destPart) all() []*dest {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*dest, 0, len(p.dests))
	for _, d := range p.dests {
		out = append(out, d)
	}
	return out
}

// load reads where the partition stands.
func (f *sender) load(ctx context.Context, part uint32) (*destPart, error) {
	n := int(f.s.shards.P())
	p := &destPart{f: f, part: part, handed: make([]atomic.Int64, n), active: make([]atomic.Bool, n), stored: make([]int64, n), dests: make(map[id.Server]*dest), complete: time.Now()}
	// From here on nobody else can change what is read next.
	if err := f.s.shards.For(part).QueryRow(ctx, sqlTake, int32(part)).Scan(&p.epoch); err != nil {
		return nil, fmt.Errorf("take destinations: %w", err)
	}
	rows, err := f.s.shards.For(part).Query(ctx, sqlCursors, int32(part))
	if err != nil {
		return nil, fmt.Errorf("read cursors: %w", err)
	}
	var logPart uint32
	var pos int64
	_, err = pgx.ForEachRow(rows, []any{&logPart, &pos}, func() error {
		if int(logPart) < n {
			p.stored[logPart] = pos
			p.handed[logPart].Store(pos)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read cursors: %w", err)
	}
	p.ctx, p.stop = context.WithCancel(f.ctx)
	if err := p.look(ctx); err != nil {
		p.leave()
		p.stop()
		return nil, err
	}
	return p, nil
}

// leave stops all destinations; what is on its way ends by itself.
func (p *destPart) leave() {
	p.mu.Lock()
	p.left = true
	p.mu.Unlock()
	for _, d := range p.all() {
		d.leave()
	}
}

// quiet is closed when nothing of a partition that was left is on its way any more.
func (p *destPart) quiet() <-chan struct{} {
	done := make(chan struct{})
	go func() { p.work.Wait(); close(done) }()
	return done
}

// drop forgets what waited.
func (p *destPart) drop() {
	p.stop()
	for _, d := range p.all() {
		d.mu.Lock()
		for _, it := range d.queue {
			p.f.release(it)
		}
		d.queue = nil
		d.mu.Unlock()
	}
}

// look reads all that others may have changed of the partition. The health comes first: nobody is tried too early.
func (p *destPart) look(ctx context.Context) error {
	if err := p.lookHealth(ctx); err != nil {
		return err
	}
	if err := p.lookBehind(ctx); err != nil {
		return err
	}
	return p.lookEDUs(ctx)
}

// glance reads what a hint is about: destinations that were heard of, and EDUs that wait.
func (p *destPart) glance(ctx context.Context) error {
	if err := p.lookHealth(ctx); err != nil {
		return err
	}
	return p.lookEDUs(ctx)
}

// lookHealth takes over what the table says of backoffs.
func (p *destPart) lookHealth(ctx context.Context) error {
	p.f.s.dests.Forget(p.part)
	failing, err := p.f.s.dests.Failing(ctx, p.part)
	if err != nil {
		return err
	}
	now := time.Now()
	var healthy []*dest
	p.mu.Lock()
	p.failing = failing
	for server, d := range p.dests {
		if !failing[server].BackingOff(now) {
			healthy = append(healthy, d)
		}
	}
	p.mu.Unlock()
	for _, d := range healthy {
		d.revive()
	}
	return nil
}

func (p *destPart) lookEDUs(ctx context.Context) error {
	rows, err := p.f.s.shards.For(p.part).Query(ctx, sqlEDUServers, int32(p.part))
	if err != nil {
		return fmt.Errorf("read servers with EDUs: %w", err)
	}
	waiting, err := pgx.CollectRows(rows, pgx.RowTo[id.Server])
	if err != nil {
		return fmt.Errorf("read servers with EDUs: %w", err)
	}
	for _, server := range waiting {
		if !p.f.isLocal(server) {
			p.dest(server).wakeEDUs()
		}
	}
	return nil
}

// completeEvery is how often the cursors of log partitions are stored that had nothing for this partition: after a
// takeover no more than this is read in vain.
const completeEvery = time.Minute

// flush stores where destinations stand that are behind, and then how far the others are; all of them from time to
// time, and when the partition is given up.
func (p *destPart) flush(ctx context.Context, all bool) error {
	p.flushing.Lock()
	defer p.flushing.Unlock()
	now := time.Now()
	all = all || now.Sub(p.complete) > completeEvery
	if !all && p.idle() {
		return nil
	}
	heads, upTo := make([]int64, len(p.handed)), make([]int64, len(p.handed))
	wanted := make([]bool, len(p.handed))
	for q := range heads {
		wanted[q] = p.active[q].Swap(false) || all
		heads[q] = p.handed[q].Load()
		upTo[q] = heads[q]
	}
	dests := p.all()
	err := p.flushBehind(ctx, dests)
	if err == nil {
		for _, d := range dests {
			d.mu.Lock()
			d.pins(upTo)
			d.mu.Unlock()
		}
		err = p.putCursors(ctx, upTo, wanted)
	}
	for q := range heads {
		if wanted[q] && p.stored[q] < heads[q] {
			p.active[q].Store(true) // next time
		}
	}
	if err != nil {
		return err
	}
	if all {
		p.complete = now
	}
	p.forgetIdle(dests, now)
	return nil
}

// idle says that there is nothing to store before it is time to store all.
func (p *destPart) idle() bool {
	for q := range p.active {
		if p.active[q].Load() {
			return false
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.dests) == 0
}

// errLost says that a partition of destinations is somebody else's by now. Nothing was stored.
var errLost = errors.New("the destinations are another worker's")

// store executes statements in one transaction, if the partition is still ours.
func (p *destPart) store(ctx context.Context, what *pgx.Batch) error {
	if f := p.f.s.faults.storing; f != nil {
		f(p.part)
	}
	var b pgx.Batch
	b.Queue(sqlFence, int32(p.part), p.epoch)
	b.QueuedQueries = append(b.QueuedQueries, what.QueuedQueries...)
	err := p.f.s.shards.For(p.part).SendBatch(ctx, &b).Close()
	if pg.IsFenced(err) {
		p.lost.Store(true)
		p.f.again()
		return errLost
	}
	return err
}

func (p *destPart) putCursors(ctx context.Context, upTo []int64, wanted []bool) error {
	var parts []int32
	var positions []int64
	for q, pos := range upTo {
		if wanted[q] && pos > p.stored[q] {
			parts, positions = append(parts, int32(q)), append(positions, pos)
		}
	}
	if len(parts) == 0 {
		return nil
	}
	var b pgx.Batch
	b.Queue(sqlPutCursors, int32(p.part), parts, positions)
	if err := p.store(ctx, &b); err != nil {
		return fmt.Errorf("store cursors: %w", err)
	}
	for i, q := range parts {
		p.stored[q] = positions[i]
	}
	return nil
}

// forgetIdle drops destinations that have had nothing to do for a while.
func (p *destPart) forgetIdle(dests []*dest, now time.Time) {
	for _, d := range dests {
		p.mu.Lock()
		d.mu.Lock()
		if d.idle(now) && p.dests[d.server] == d {
			d.gone = true
			delete(p.dests, d.server)
		}
		d.mu.Unlock()
		p.mu.Unlock()
	}
}
