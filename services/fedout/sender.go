package fedout

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"hanse/pkg/bus"
	"hanse/pkg/cache"
	"hanse/pkg/deadletter"
	"hanse/pkg/matrix/id"
	"hanse/pkg/node"
	"hanse/pkg/partition"
	"hanse/pkg/retries"
	"hanse/pkg/userdb"
)

const (
	flushEvery = time.Second
	// lookEvery is how soon rows are found whose wake-up was lost.
	lookEvery = 30 * time.Second
	// fullEvery bounds how often a hint leads to more than a glance.
	fullEvery = 5 * time.Second
	// settle is how long the ownership of partitions must stand still before it is acted upon: workers come and go
	// several at a time.
	settle = 50 * time.Millisecond
	// yieldFor is how long a worker that has lost a partition leaves it alone while the membership does not change: two that see
	// different members do not take it from each other all the time.
	yieldFor = 10 * time.Second
	// lastWords bounds the time for transactions under way when the worker ends.
	lastWords = 5 * time.Second
)

// sender sends to the destinations whose partitions this worker has.
type sender struct {
	s      *Service
	rooms  *roomCache
	reader *bus.LogReader
	slots  *slots
	// swift are servers that answered their last transaction well.
	swift *cache.Cache[id.Server, struct{}]
	bytes atomic.Int64

	// ctx is that of requests to other servers.
	ctx  context.Context
	stop context.CancelFunc
	work sync.WaitGroup

	mu    sync.RWMutex
	parts []*destPart // nil: not ours

	// joined are the rooms of users whose presence is sent; an entry goes when its user's memberships change.
	joined *cache.Cache[id.User, []userdb.JoinedRoom]
	// typed are rooms in which local users have typed.
	typed *cache.Cache[id.Room, roomKey]
	// greeted are servers that were told who of ours is in a room.
	greeted *cache.Cache[greeting, struct{}]

	// yielded are partitions that another worker took though the membership gives them to us, and until when they are left
	// to it. They belong to own.
	yielded map[uint32]time.Time

	wakes     chan struct{}
	woken     []atomic.Bool
	ephemeral chan func()
	drain     atomic.Bool
	rebalance chan struct{} // says that ownership is to be looked at
	drained   chan struct{} // closed when no partition is left
}

func newSender(s *Service, reg prometheus.Registerer) *sender {
	n := s.shards.P()
	f := &sender{
		s: s, rooms: newRoomCache(s.shards, s.servers.IsLocal), slots: newSlots(s.cfg.Transactions, slowQueues*s.cfg.QueueBytes),
		swift: cache.New(cache.Config[id.Server, struct{}]{Name: "fedout_swift", Budget: 4 << 20, MaxAge: swiftFor, Metrics: reg,
			Weigh: func(server id.Server, _ struct{}) int64 { return int64(len(server)) + 150 }}),
		parts: make([]*destPart, n), wakes: make(chan struct{}, 1), woken: make([]atomic.Bool, n),
		joined: cache.New(cache.Config[id.User, []userdb.JoinedRoom]{Name: "fedout_joined", Budget: 16 << 20, MaxAge: 30 * time.Second, Metrics: reg,
			Weigh: func(user id.User, rooms []userdb.JoinedRoom) int64 { return int64(len(user)+100*len(rooms)) + 150 }}),
		typed: cache.New(cache.Config[id.Room, roomKey]{Name: "fedout_typed", Budget: 4 << 20, MaxAge: 10 * time.Minute, Metrics: reg,
			Weigh: func(room id.Room, _ roomKey) int64 { return int64(len(room)) + 150 }}),
		greeted: cache.New(cache.Config[greeting, struct{}]{Name: "fedout_greeted", Budget: 2 << 20, MaxAge: greetedFor, Metrics: reg,
			Weigh: func(g greeting, _ struct{}) int64 { return int64(len(g.server)) + 170 }}),
		ephemeral: make(chan func(), 1024), drained: make(chan struct{}),
		rebalance: make(chan struct{}, 1), yielded: make(map[uint32]time.Time),
	}
	return f
}

func (f *sender) isLocal(server id.Server) bool { return f.s.servers.IsLocal(server) }

// retain and release count the memory of items that wait.
func (f *sender) retain(it *item) {
	if it.refs.Add(1) == 1 {
		f.bytes.Add(it.size)
	}
}

func (f *sender) release(it *item) {
	if it.refs.Add(-1) == 0 {
		f.bytes.Add(-it.size)
	}
}

// run sends until ctx ends.
func (f *sender) run(ctx context.Context) error {
	f.ctx, f.stop = context.WithCancel(context.WithoutCancel(ctx))
	defer f.stop()
	f.reader = bus.NewLogReader(f.s.bus, bus.ReaderConfig{Name: "fedout", Source: f.s.db, Heads: f.s.db.Heads, Handle: f.handle,
		DeadLetter: f.deadLetter, Log: f.s.log})
	defer f.reader.Close()
	subs, err := f.subscribe()
	if err != nil {
		return err
	}
	defer func() {
		for _, sub := range subs {
			_ = sub.Stop() // fails only if the connection is closed
		}
	}()
	var g errgroup.Group
	g.Go(func() error { f.flushes(ctx); return nil })
	g.Go(func() error { f.looks(ctx); return nil })
	g.Go(func() error { f.ephemerals(ctx); return nil })
	f.own(ctx)
	f.reader.Close()
	f.giveUp(f.owned())
	f.stop() // what is still on its way has had its time
	f.work.Wait()
	return g.Wait()
}

// deadLetter stores an entry that cannot be processed; hanse deadletter replay gives it another try.
func (f *sender) deadLetter(ctx context.Context, d bus.Delivery, cause error) error {
	return deadletter.Put(ctx, f.s.shards, d.Part, deadletter.Fedout, d.Entries[0].Pos, cause)
}

// own follows the membership until ctx ends: it takes the partitions of destinations that rendezvous hashing gives to
// this worker, and gives up the others.
func (f *sender) own(ctx context.Context) {
	for ctx.Err() == nil {
		changed := f.s.members.Changed()
		wait := f.s.ownRetry(f.balance(ctx))
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

// ownRetry is when ownership is looked at again without a change of the membership.
func (s *Service) ownRetry(err error) time.Duration {
	if err == nil {
		return time.Minute
	}
	s.log.Warn("partitions of destinations could not be acquired", "err", err)
	return time.Second
}

// again lets own look at the ownership.
func (f *sender) again() {
	select {
	case f.rebalance <- struct{}{}:
	default:
	}
}

// balance makes our partitions those that the membership gives us, but for those that somebody else took.
func (f *sender) balance(ctx context.Context) error {
	var gain []uint32
	var lose []*destPart
	mine := 0
	for part := range f.s.shards.P() {
		f.mu.RLock()
		have := f.parts[part]
		f.mu.RUnlock()
		want := !f.drain.Load() && f.s.members.Mine(part, node.RoleFedout)
		if have != nil && have.lost.Load() {
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
		f.work.Wait()
		select {
		case <-f.drained:
		default:
			close(f.drained)
		}
	}
	if len(gain) == 0 {
		return nil
	}
	f.s.log.Info("destinations taken", "partitions", len(gain), "of", mine)
	return f.take(ctx, gain)
}

// take loads partitions and lets the log begin where the one that is farthest behind stands.
func (f *sender) take(ctx context.Context, gain []uint32) error {
	loaded := make([]*destPart, len(gain))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, part := range gain {
		g.Go(func() (err error) {
			loaded[i], err = f.load(gctx, part)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		for _, p := range loaded {
			if p != nil {
				p.leave()
				p.stop()
			}
		}
		return err
	}
	// Nothing is handled while the new partitions come in: each begins at its own cursor.
	for q := range f.s.shards.P() {
		f.reader.Remove(q)
		f.rooms.forgetPart(q)
	}
	f.mu.Lock()
	for _, p := range loaded {
		f.parts[p.part] = p
	}
	from := make([]int64, f.s.shards.P())
	for q := range from {
		from[q] = f.lowest(uint32(q))
	}
	f.mu.Unlock()
	for q, pos := range from {
		if err := f.reader.Add(uint32(q), pos); err != nil {
			f.giveUp(loaded) // to begin anew, with all of the log
			return fmt.Errorf("read log: %w", err)
		}
	}
	return nil
}

// lowest is the position from which some partition of ours needs the log. f.mu is held.
func (f *sender) lowest(q uint32) int64 {
	low := int64(-1)
	for _, p := range f.parts {
		if p == nil {
			continue
		}
		if pos := p.handed[q].Load(); low < 0 || pos < low {
			low = pos
		}
	}
	return max(low, 0)
}

func (f *sender) owned() []*destPart {
	f.mu.RLock()
	defer f.mu.RUnlock()
	var out []*destPart
	for _, p := range f.parts {
		if p != nil {
			out = append(out, p)
		}
	}
	return out
}

// giveUp leaves partitions to others: what is on its way has lastWords to end, then it is stored where they stand. What
// was not delivered stays in front of the cursor, and the next worker reads it again.
func (f *sender) giveUp(lose []*destPart) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(f.ctx), 2*lastWords)
	defer cancel()
	f.mu.Lock()
	for _, p := range lose {
		f.parts[p.part] = nil
	}
	f.mu.Unlock()
	for _, p := range lose {
		p.leave()
	}
	patience, enough := context.WithTimeout(ctx, lastWords)
	defer enough()
	var g errgroup.Group
	g.SetLimit(8)
	for _, p := range lose {
		g.Go(func() error {
			select {
			case <-p.quiet():
			case <-patience.Done():
				p.stop()
				select {
				case <-p.quiet():
				case <-ctx.Done():
				}
			}
			if err := p.flush(ctx, true); err != nil && !errors.Is(err, errLost) {
				f.s.log.Warn("cursors could not be stored", "part", p.part, "err", err)
			}
			p.drop()
			return nil
		})
	}
	_ = g.Wait() // no function returns an error
}

// flushes stores the cursors from time to time.
func (f *sender) flushes(ctx context.Context) {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	stores := retries.Log{To: f.s.log, What: "storing cursors"}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var failed error
		fctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		for _, p := range f.owned() {
			err := p.flush(fctx, false)
			if errors.Is(err, errLost) {
				f.s.log.Info("destinations were taken by another worker", "part", p.part)
			} else if err != nil {
				failed = fmt.Errorf("partition %d: %w", p.part, err)
			}
		}
		cancel()
		if ctx.Err() == nil {
			stores.Note(failed)
		}
		f.observe()
	}
}

// looks reads rows of others: when a hint says so, and all of them from time to time.
func (f *sender) looks(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	reads := retries.Log{To: f.s.log, What: "reading destinations"}
	for {
		full := false
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			full = true
		case <-f.wakes:
		}
		toLook := make(map[uint32]bool)
		var failed error
		if full {
			toLook, failed = f.toLook(ctx)
		}
		for part := range f.woken {
			if f.woken[part].Swap(false) || toLook[uint32(part)] {
				if err := f.look(ctx, uint32(part), full); err != nil {
					failed = fmt.Errorf("partition %d: %w", part, err)
				}
			}
		}
		if ctx.Err() == nil && (full || failed != nil) { // a hint leads to some shards only
			reads.Note(failed)
		}
	}
}

// toLook returns our partitions of which a look finds anything, or about whose destinations we know anything. The others are not
// read one by one.
func (f *sender) toLook(ctx context.Context) (toLook map[uint32]bool, failed error) {
	toLook = make(map[uint32]bool)
	var parts []uint32
	for _, p := range f.owned() {
		p.mu.Lock()
		if parts = append(parts, p.part); len(p.dests) > 0 || len(p.failing) > 0 {
			toLook[p.part] = true
		}
		p.mu.Unlock()
	}
	for pool, of := range f.s.shards.Groups(parts) {
		rows, err := pool.Query(ctx, sqlToLook, of)
		if err == nil {
			var part uint32
			_, err = pgx.ForEachRow(rows, []any{&part}, func() error { toLook[part] = true; return nil })
		}
		if err != nil {
			failed = err // next time
		}
	}
	return toLook, failed
}

func (f *sender) look(ctx context.Context, part uint32, full bool) error {
	f.mu.RLock()
	p := f.parts[part]
	f.mu.RUnlock()
	if p == nil {
		return nil
	}
	look := p.glance
	if full || time.Since(p.looked) > fullEvery {
		look, p.looked = p.look, time.Now()
	}
	err := look(ctx)
	if err != nil && !full && ctx.Err() == nil {
		time.AfterFunc(databasePause, func() { f.wake(part) })
	}
	return err
}

// wake takes the hint that rows of a partition changed.
func (f *sender) wake(part uint32) {
	if int(part) >= len(f.woken) {
		return
	}
	f.woken[part].Store(true)
	select {
	case f.wakes <- struct{}{}:
	default:
	}
}

// observe sets the gauges.
func (f *sender) observe() {
	dests, backlog := map[string]int{}, map[string]int{}
	now := time.Now()
	for _, p := range f.owned() {
		for _, d := range p.all() {
			d.mu.Lock()
			st := d.state(now)
			dests[st]++
			backlog[st] += len(d.queue) + len(d.inflight) + len(d.behind)
			d.mu.Unlock()
		}
	}
	for _, st := range []string{"healthy", "behind", "backing_off"} {
		f.s.metrics.dests.WithLabelValues(st).Set(float64(dests[st]))
		f.s.metrics.backlog.WithLabelValues(st).Set(float64(backlog[st]))
	}
	f.s.metrics.queueBytes.Set(float64(f.bytes.Load()))
}

// revive ends the pause of a destination that has answered somebody.
func (f *sender) revive(server id.Server) {
	f.mu.RLock()
	p := f.parts[partition.Of(string(server))]
	f.mu.RUnlock()
	if p == nil {
		return
	}
	p.mu.Lock()
	delete(p.failing, server)
	p.mu.Unlock()
	if d := p.peek(server); d != nil {
		d.revive()
	}
}
