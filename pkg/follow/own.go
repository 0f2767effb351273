package follow

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// shard is the partitions of one database. Each is taken and given up on its own: one that does not answer keeps nobody from
// the partitions of the others.
type shard[K Keeper] struct {
	*Follower[K]
	own []uint32 // its partitions
	// yielded are partitions that another worker took although the membership gives them to us, and until when they are left
	// to it.
	yielded   map[uint32]time.Time
	rebalance chan struct{} // says that ownership is to be looked at
	drainOnce sync.Once
}

func newShard[K Keeper](f *Follower[K], own []uint32) *shard[K] {
	return &shard[K]{Follower: f, own: own, yielded: make(map[uint32]time.Time), rebalance: make(chan struct{}, 1)}
}

// follow follows the membership until ctx ends: it takes the partitions that rendezvous hashing gives to this worker, and gives up
// the others.
func (f *shard[K]) follow(ctx context.Context) {
	for ctx.Err() == nil {
		changed := f.cfg.Members.Changed()
		wait := f.retry(f.balance(ctx))
		if len(f.yielded) > 0 {
			wait = min(wait, yieldFor)
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-changed:
			clear(f.yielded)
			select {
			case <-ctx.Done():
			case <-time.After(settle):
			}
		case <-f.rebalance:
		case <-t.C:
		}
		t.Stop()
	}
}

// retry is when ownership is looked at again without a change of the membership.
func (f *Follower[K]) retry(err error) time.Duration {
	if err == nil {
		return time.Minute
	}
	f.cfg.Log.Warn("partitions could not be taken", "role", f.cfg.Role, "err", err)
	return time.Second
}

// Again has the ownership of all partitions looked at soon.
func (f *Follower[K]) Again() {
	for _, s := range f.shards {
		s.again()
	}
}

// again lets follow look at the ownership.
func (f *shard[K]) again() {
	select {
	case f.rebalance <- struct{}{}:
	default:
	}
}

// balance makes our partitions those that the membership gives us, but for those that somebody else took.
func (f *shard[K]) balance(ctx context.Context) error {
	var gain []uint32
	var lose []*held[K]
	mine := 0
	for _, part := range f.own {
		f.mu.RLock()
		have := f.parts[part]
		f.mu.RUnlock()
		want := !f.drain.Load() && f.cfg.Members.Mine(part, f.cfg.Role) && (f.cfg.Wanted == nil || f.cfg.Wanted(part))
		if have != nil && have.Lost() {
			f.yielded[part] = time.Now().Add(yieldFor)
		}
		if time.Now().Before(f.yielded[part]) {
			want = false
		} else {
			delete(f.yielded, part)
		}
		switch {
		case want && have == nil:
			gain = append(gain, part)
			mine++
		case want:
			mine++
		case have != nil:
			lose = append(lose, have)
		}
	}
	if len(lose) > 0 {
		f.giveUp(lose)
	}
	if mine == 0 && f.drain.Load() {
		f.drainOnce.Do(f.left.Done)
	}
	if len(gain) == 0 {
		return nil
	}
	f.cfg.Log.Info("partitions taken", "role", f.cfg.Role, "partitions", len(gain), "of", mine)
	return f.take(ctx, gain)
}

// take loads partitions and lets the log begin where the one that is farthest behind stands.
func (f *shard[K]) take(ctx context.Context, gain []uint32) error {
	loaded := make([]*held[K], len(gain))
	ctx, cancel := context.WithTimeout(ctx, takeTimeout)
	defer cancel()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, part := range gain {
		g.Go(func() (err error) {
			loaded[i], err = f.load(gctx, part)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		for _, h := range loaded {
			if h != nil {
				h.keeper.Leave()
				h.stop()
				h.keeper.Close()
			}
		}
		return err
	}
	if err := f.enter(gain, loaded); err != nil {
		f.giveUp(loaded) // to begin anew, with all of the log
		return fmt.Errorf("read log: %w", err)
	}
	return nil
}

// enter has loaded partitions get what the log has. Nothing is handed over meanwhile: each begins at its own cursor.
func (f *shard[K]) enter(gain []uint32, loaded []*held[K]) error {
	f.entering.Lock()
	defer f.entering.Unlock()
	read := f.logOf(gain)
	for _, q := range read {
		f.reader.Remove(q)
		if f.cfg.Rewind != nil {
			f.cfg.Rewind(q)
		}
	}
	f.mu.Lock()
	for _, h := range loaded {
		f.parts[h.N] = h
	}
	from := make([]int64, len(read))
	for i, q := range read {
		from[i] = f.lowest(q)
	}
	f.mu.Unlock()
	for i, q := range read {
		if err := f.reader.Add(q, from[i]); err != nil {
			return err
		}
	}
	return nil
}

// logOf returns the log partitions that must be read from another position because of partitions that were taken.
func (f *Follower[K]) logOf(gain []uint32) []uint32 {
	if f.cfg.Reach == SamePartition {
		return gain
	}
	all := make([]uint32, f.cfg.Shards.P())
	for q := range all {
		all[q] = uint32(q)
	}
	return all
}

// lowest is the position from which some partition of ours needs a log partition. f.mu is held.
func (f *Follower[K]) lowest(q uint32) int64 {
	low := int64(-1)
	for _, h := range f.parts {
		if h == nil || f.cfg.Reach == SamePartition && h.N != q {
			continue
		}
		if pos := h.Handed(q); low < 0 || pos < low {
			low = pos
		}
	}
	return max(low, 0)
}

// load takes a partition, and opens its keeper.
func (f *shard[K]) load(ctx context.Context, part uint32) (*held[K], error) {
	n := int(f.cfg.Shards.P())
	p := &Part{N: part, s: f.s, shards: f.cfg.Shards, again: f.again, storing: f.cfg.Storing, handed: make([]atomic.Int64, n),
		active: make([]atomic.Bool, n), stored: make([]int64, n), complete: time.Now()}
	if f.cfg.FromHead {
		for q := range p.stored {
			p.stored[q] = unknown
		}
	}
	if err := p.load(ctx); err != nil {
		return nil, err
	}
	if f.cfg.FromHead {
		if err := f.begin(ctx, p); err != nil {
			return nil, err
		}
	}
	p.ctx, p.stop = context.WithCancel(f.ctx)
	keeper, err := f.cfg.Open(ctx, p)
	if err != nil {
		p.stop()
		return nil, err
	}
	return &held[K]{p, keeper}, nil
}

// unknown stands for a cursor that has no row.
const unknown = -1

// begin sets and stores those cursors of a partition that have no row: the partition gets what comes from now on.
func (f *Follower[K]) begin(ctx context.Context, p *Part) error {
	heads, failed := f.cfg.Source.Heads(ctx)
	upTo, wanted := make([]int64, len(p.stored)), make([]bool, len(p.stored))
	for _, q := range f.logOf([]uint32{p.N}) {
		if p.stored[q] != unknown {
			continue
		}
		head, known := heads[q]
		if !known && failed != nil {
			return fmt.Errorf("read heads of the log: %w", failed)
		}
		upTo[q], wanted[q] = head, true
		p.handed[q].Store(head)
	}
	if err := p.putCursors(ctx, upTo, wanted); err != nil {
		return err
	}
	for q := range p.stored {
		p.stored[q] = max(p.stored[q], 0) // of the others the partition gets nothing
	}
	return nil
}

// stopReading ends the reading of the whole log if no partition is left that needs it.
func (f *Follower[K]) stopReading() {
	f.entering.Lock()
	defer f.entering.Unlock()
	if f.cfg.Reach == WholeLog && len(f.held()) == 0 {
		for q := range f.cfg.Shards.P() {
			f.reader.Remove(q)
		}
	}
}

// giveUp leaves partitions to others: what is on its way has LastWords to end, then it is stored where they stand. What was not
// delivered stays in front of the cursor, and the next worker reads it again.
func (f *Follower[K]) giveUp(lose []*held[K]) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(f.ctx), 2*LastWords)
	defer cancel()
	if f.cfg.Reach == SamePartition {
		for _, h := range lose {
			f.reader.Remove(h.N)
		}
	}
	f.mu.Lock()
	for _, h := range lose {
		f.parts[h.N] = nil
	}
	f.mu.Unlock()
	f.stopReading()
	for _, h := range lose {
		h.keeper.Leave()
	}
	patience, enough := context.WithTimeout(ctx, LastWords)
	defer enough()
	var g errgroup.Group
	g.SetLimit(8)
	for _, h := range lose {
		g.Go(func() error {
			select {
			case <-h.keeper.Quiet():
			case <-patience.Done():
				h.stop()
				select {
				case <-h.keeper.Quiet():
				case <-ctx.Done():
				}
			}
			if err := h.flush(ctx, h.keeper, true); err != nil && !errors.Is(err, ErrLost) {
				f.cfg.Log.Warn("cursors could not be stored", "role", f.cfg.Role, "part", h.N, "err", err)
			}
			h.stop()
			h.keeper.Close()
			return nil
		})
	}
	_ = g.Wait() // no function returns an error
}
