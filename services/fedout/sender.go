package fedout

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"hanse/pkg/cache"
	"hanse/pkg/follow"
	"hanse/pkg/matrix/id"
	"hanse/pkg/node"
	"hanse/pkg/partition"
	"hanse/pkg/retries"
	"hanse/pkg/userdb"
)

const (
	observeEvery = time.Second
	// lookEvery is how soon rows are found whose wake-up was lost.
	lookEvery = 30 * time.Second
	// fullEvery bounds how often a hint leads to more than a glance.
	fullEvery = 5 * time.Second
)

// sender sends to the destinations whose partitions this worker has.
type sender struct {
	s      *Service
	follow *follow.Follower[*destPart]
	rooms  *roomCache
	slots  *slots
	// swift are servers that answered their last transaction well.
	swift *cache.Cache[id.Server, struct{}]
	bytes atomic.Int64

	// ctx is that of requests to other servers.
	ctx  context.Context
	work sync.WaitGroup

	// joined are the rooms of users whose presence is sent; an entry goes when its user's memberships change.
	joined *cache.Cache[id.User, []userdb.JoinedRoom]
	// typed are rooms in which local users have typed.
	typed *cache.Cache[id.Room, roomKey]
	// greeted are servers that were told who of ours is in a room.
	greeted *cache.Cache[greeting, struct{}]

	wakes     chan struct{}
	woken     []atomic.Bool
	ephemeral chan func()
}

func newSender(s *Service, reg prometheus.Registerer) *sender {
	n := s.shards.P()
	f := &sender{
		s: s, rooms: newRoomCache(s.shards, s.servers.IsLocal), slots: newSlots(s.cfg.Transactions, slowQueues*s.cfg.QueueBytes),
		swift: cache.New(cache.Config[id.Server, struct{}]{Name: "fedout_swift", Budget: 4 << 20, MaxAge: swiftFor, Metrics: reg,
			Weigh: func(server id.Server, _ struct{}) int64 { return int64(len(server)) + 150 }}),
		wakes: make(chan struct{}, 1), woken: make([]atomic.Bool, n),
		joined: cache.New(cache.Config[id.User, []userdb.JoinedRoom]{Name: "fedout_joined", Budget: 16 << 20, MaxAge: 30 * time.Second, Metrics: reg,
			Weigh: func(user id.User, rooms []userdb.JoinedRoom) int64 { return int64(len(user)+100*len(rooms)) + 150 }}),
		typed: cache.New(cache.Config[id.Room, roomKey]{Name: "fedout_typed", Budget: 4 << 20, MaxAge: 10 * time.Minute, Metrics: reg,
			Weigh: func(room id.Room, _ roomKey) int64 { return int64(len(room)) + 150 }}),
		greeted: cache.New(cache.Config[greeting, struct{}]{Name: "fedout_greeted", Budget: 2 << 20, MaxAge: greetedFor, Metrics: reg,
			Weigh: func(g greeting, _ struct{}) int64 { return int64(len(g.server)) + 170 }}),
		ephemeral: make(chan func(), 1024),
	}
	f.follow = follow.New(follow.Config[*destPart]{
		Role: node.RoleFedout, Tables: "fed", Reach: follow.WholeLog, Shards: s.shards, Bus: s.bus, Members: s.members, Source: s.db, Log: s.log,
		Open: f.open, Plan: f.plan, Rewind: f.rooms.forgetPart,
		Storing: func(part uint32) {
			if storing := s.faults.storing; storing != nil {
				storing(part)
			}
		},
	})
	f.ctx = f.follow.Context()
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
	subs, err := f.subscribe()
	if err != nil {
		return err
	}
	defer func() {
		for _, sub := range subs {
			_ = sub.Stop() // fails only if the connection is closed
		}
	}()
	var others sync.WaitGroup
	others.Go(func() { f.looks(ctx) })
	others.Go(func() { f.ephemerals(ctx) })
	others.Go(func() { f.observes(ctx) })
	f.follow.Run(ctx)
	f.work.Wait()
	others.Wait()
	return nil
}

// drain gives the destinations to other workers, and waits for what is on its way.
func (f *sender) drain(ctx context.Context) error {
	if err := f.follow.Drain(ctx); err != nil {
		return err
	}
	quiet := make(chan struct{})
	go func() { f.work.Wait(); close(quiet) }()
	select {
	case <-quiet:
		return nil
	case <-ctx.Done():
		return ctx.Err()
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
			toLook, failed = f.toLook(ctx, f.follow.All())
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

// toLook returns those of our partitions of which a look finds anything, or about whose destinations we know anything. The others are not
// read one by one.
func (f *sender) toLook(ctx context.Context, ours []*destPart) (toLook map[uint32]bool, failed error) {
	toLook = make(map[uint32]bool)
	var parts []uint32
	for _, p := range ours {
		p.mu.Lock()
		if parts = append(parts, p.N); len(p.dests) > 0 || len(p.failing) > 0 {
			toLook[p.N] = true
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
	p, ok := f.follow.Get(part)
	if !ok {
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

// observes sets the gauges from time to time.
func (f *sender) observes(ctx context.Context) {
	tick := time.NewTicker(observeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f.observe()
		}
	}
}

// observe sets the gauges.
func (f *sender) observe() {
	dests, backlog := map[string]int{}, map[string]int{}
	now := time.Now()
	for _, p := range f.follow.All() {
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
	p, ok := f.follow.Get(partition.Of(string(server)))
	if !ok {
		return
	}
	p.mu.Lock()
	delete(p.failing, server)
	p.mu.Unlock()
	if d := p.peek(server); d != nil {
		d.revive()
	}
}
