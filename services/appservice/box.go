package appservice

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/appservice"
	"hanse/pkg/follow"
)

// box is a partition of services that this worker has. It implements follow.Keeper.
type box struct {
	*follow.Part
	s    *Service
	work sync.WaitGroup // loops that send

	registering sync.Mutex // held by registered

	mu      sync.Mutex
	left    bool
	streams map[string]*stream
}

// row is what is stored of a service.
type row struct {
	id            string
	txn           int64
	pending       bool
	pos           []int64
	behind        bool
	lastOK, since int64
	failures      int
	failing, next int64
	lastError     string
}

// open reads what the services of a partition have got.
func (s *Service) open(ctx context.Context, p *follow.Part) (*box, error) {
	b := &box{Part: p, s: s, streams: make(map[string]*stream)}
	rows, err := b.read(ctx)
	if err != nil {
		return nil, err
	}
	services := s.wanted.Load().byPart[p.N]
	followed := false // somebody needs what lies behind the cursors
	for _, one := range services {
		if r := rows[one.ID]; r != nil && !r.behind {
			followed = true
		}
	}
	if !followed {
		if err := b.skip(ctx); err != nil {
			return nil, err
		}
	}
	for _, one := range services {
		if err := b.add(ctx, one, rows[one.ID]); err != nil {
			b.Leave()
			return nil, err
		}
	}
	s.hold(p.N, true)
	for _, one := range b.all() {
		one.wake()
	}
	return b, nil
}

// skip lets the partition begin at the present heads of the log: none of its services was followed, maybe for months.
func (b *box) skip(ctx context.Context) error {
	heads, err := b.s.rooms.Heads(ctx)
	if err != nil {
		return fmt.Errorf("read heads of the log: %w", err)
	}
	at := make([]int64, b.s.shards.P())
	for q := range at {
		at[q] = heads[uint32(q)]
	}
	return b.Begin(ctx, at)
}

func (b *box) read(ctx context.Context) (map[string]*row, error) {
	rows, err := b.s.shards.For(b.N).Query(ctx, sqlStreams, int32(b.N))
	if err != nil {
		return nil, fmt.Errorf("read services: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(in pgx.CollectableRow) (*row, error) {
		r := new(row)
		err := in.Scan(&r.id, &r.txn, &r.pending, &r.pos, &r.behind, &r.lastOK, &r.since, &r.failures, &r.failing, &r.next, &r.lastError)
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("read services: %w", err)
	}
	found := make(map[string]*row, len(all))
	for _, r := range all {
		found[r.id] = r
	}
	return found, nil
}

// add begins to serve a service. One that was never served begins at the present.
func (b *box) add(ctx context.Context, service *appservice.Service, r *row) error {
	if r == nil {
		// Ids of transactions are never used again, also if the service is removed and added.
		r = &row{txn: time.Now().UnixMilli(), pos: b.handed()}
		var batch pgx.Batch
		batch.Queue(sqlNew, int32(b.N), service.ID, r.txn, r.pos)
		if err := b.Store(ctx, &batch); err != nil {
			return fmt.Errorf("store service: %w", err)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.left {
		b.streams[service.ID] = newStream(b, service, r)
	}
	return nil
}

// handed is how far the log was handed to the partition.
func (b *box) handed() []int64 {
	at := make([]int64, b.s.shards.P())
	for q := range at {
		at[q] = b.Handed(uint32(q))
	}
	return at
}

func (b *box) stream(service string) *stream {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.streams[service]
}

func (b *box) all() []*stream {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]*stream, 0, len(b.streams))
	for _, one := range b.streams {
		out = append(out, one)
	}
	return out
}

// registered takes over what is registered now.
func (b *box) registered() {
	b.registering.Lock()
	defer b.registering.Unlock()
	now := make(map[string]*appservice.Service)
	for _, one := range b.s.wanted.Load().byPart[b.N] {
		now[one.ID] = one
	}
	for _, one := range b.all() {
		if service := now[one.id]; service != nil {
			one.register(service)
			delete(now, one.id)
			continue
		}
		one.leave()
		b.mu.Lock()
		delete(b.streams, one.id)
		b.mu.Unlock()
		one.mu.Lock()
		one.drop()
		one.mu.Unlock()
	}
	if len(now) == 0 {
		return
	}
	// A service that was registered before continues where it stopped.
	rows, err := b.read(b.Context())
	for _, service := range now {
		if err == nil {
			err = b.add(b.Context(), service, rows[service.ID])
		}
	}
	if err != nil && b.Context().Err() == nil && !errors.Is(err, follow.ErrLost) {
		b.s.log.Warn("new application services wait", "err", err)
		time.AfterFunc(time.Second, b.registered)
		return
	}
	b.s.rematch()
	for _, one := range b.all() {
		one.wake()
	}
}

// Leave stops all services; what is on its way ends by itself.
func (b *box) Leave() {
	b.mu.Lock()
	b.left = true
	b.mu.Unlock()
	for _, one := range b.all() {
		one.leave()
	}
	b.s.hold(b.N, false)
}

// Quiet is closed when nothing is on its way any more.
func (b *box) Quiet() <-chan struct{} {
	done := make(chan struct{})
	go func() { b.work.Wait(); close(done) }()
	return done
}

// Close forgets what waited.
func (b *box) Close() {
	for _, one := range b.all() {
		one.mu.Lock()
		one.drop()
		one.mu.Unlock()
	}
}

// Flush stores where services stand that are behind, and says how far the others are.
func (b *box) Flush(ctx context.Context, upTo []int64) error {
	var batch pgx.Batch
	var done []func()
	for _, one := range b.all() {
		if then := one.flush(&batch, upTo); then != nil {
			done = append(done, then)
		}
	}
	if batch.Len() == 0 {
		return nil
	}
	if err := b.Store(ctx, &batch); err != nil {
		return fmt.Errorf("store services: %w", err)
	}
	for _, f := range done {
		f()
	}
	return nil
}

// Idle says that no service has anything to store.
func (b *box) Idle() bool {
	for _, one := range b.all() {
		if one.unsaved() {
			return false
		}
	}
	return true
}
