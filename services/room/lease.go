package room

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	"hanse/pkg/roomdb"
	logv1 "hanse/proto/log/v1"
)

// errUnavailable makes the caller's Router try again, here or elsewhere; the cause of the request keeps a write from
// being done twice.
var errUnavailable = status.Error(codes.Unavailable, "the partition is changing hands")

// lease is one lease of one partition, with everything that this worker holds of the partition. It is never used again once
// it is lost: the next acquisition makes a new one.
type lease struct {
	part  uint32
	epoch int64
	lane  *lane
	// ctx ends with the lease: background work for the partition runs in it.
	ctx  context.Context
	stop context.CancelFunc

	// head is the position of the last committed entry; the lane's.
	head int64
	// nid is the highest numeric id given out, also to changes that were never committed.
	nid atomic.Int64
	// projected is how far the membership index is written, projecting how many commits wait for it.
	projected  atomic.Int64
	projecting atomic.Int64
	// touched asks for a beacon; published is the head that it names.
	touched   atomic.Bool
	published atomic.Int64

	// judging counts the rooms of which events are being judged again (redo).
	judging atomic.Int32

	lost atomic.Bool
	err  atomic.Pointer[error]

	mu    sync.Mutex
	rooms map[id.Room]*room

	// queued are the events of changes that may not be in PostgreSQL yet, by number. The cache may forget them, but
	// nobody else has them; the lanes' bounds are theirs.
	queuedMu sync.Mutex
	queued   map[int64]*roomdb.Event
}

// enqueued notes the events of a change that was queued.
func (p *lease) enqueued(events []*newEvent) {
	p.queuedMu.Lock()
	defer p.queuedMu.Unlock()
	for _, e := range events {
		if e.stored != nil {
			p.queued[e.nid] = e.stored
		}
	}
}

// written forgets the events of a change that was committed, or never will be.
func (p *lease) written(events []*newEvent) {
	p.queuedMu.Lock()
	defer p.queuedMu.Unlock()
	for _, e := range events {
		delete(p.queued, e.nid)
	}
}

// queuedEvent returns an event of a queued change, or nil.
func (p *lease) queuedEvent(nid int64) *roomdb.Event {
	p.queuedMu.Lock()
	defer p.queuedMu.Unlock()
	return p.queued[nid]
}

func (p *lease) lostError() error {
	if err := p.err.Load(); err != nil {
		return *err
	}
	return errUnavailable
}

// Acquired implements partition.Handler: it catches up with what the owner before may have left undone, and tells
// the readers how far the log goes.
func (s *Service) Acquired(ctx context.Context, part uint32, got partition.Lease) error {
	p := &lease{part: part, epoch: got.Epoch, lane: s.laneOf(part), head: got.Head, rooms: make(map[id.Room]*room),
		queued: make(map[int64]*roomdb.Event)}
	p.ctx, p.stop = context.WithCancel(s.background)
	p.nid.Store(got.NID)
	p.projected.Store(got.Projected)
	p.published.Store(got.Head)
	if err := s.replay(ctx, p); err != nil {
		p.stop()
		return err
	}
	s.leases[part].Store(p)
	s.beacon(p, p.head)
	s.resumeFills(p)
	s.fillRelations(p, got.NID)
	return nil
}

// Lost implements partition.Handler.
func (s *Service) Lost(part uint32, got partition.Lease) {
	if p := s.leases[part].Load(); p != nil && p.epoch == got.Epoch {
		s.end(p, s.owner.NotOwner(part))
	}
	s.laneOf(part).flush()
}

// lose is called when an append shows that the lease is over, or that nobody knows what was written.
func (s *Service) lose(p *lease, why error) {
	if errors.Is(why, errFenced) {
		s.end(p, s.owner.NotOwner(p.part))
		s.owner.Fenced(p.part, p.epoch)
		return
	}
	s.end(p, errUnavailable)
	s.owner.Doubt(p.part, p.epoch)
}

// end drops all that is held of the partition.
func (s *Service) end(p *lease, err error) {
	p.err.CompareAndSwap(nil, &err)
	if p.lost.Swap(true) {
		return
	}
	p.stop()
	s.leases[p.part].CompareAndSwap(p, nil)
	p.mu.Lock()
	rooms := p.rooms
	p.rooms = nil
	p.mu.Unlock()
	for _, r := range rooms {
		r.dead.Store(true)
		s.graphs.Remove(r)
	}
	s.metrics.rooms.Sub(float64(len(rooms)))
}

// leaseOf returns the lease under which this worker serves a partition, or *partition.NotOwner.
func (s *Service) leaseOf(ctx context.Context, part uint32) (*lease, error) {
	if part >= uint32(len(s.leases)) {
		return nil, fmt.Errorf("partition %d: %w", part, partition.ErrNoPartition)
	}
	if p := s.leases[part].Load(); p != nil && !p.lost.Load() {
		if l, ok := s.owner.Lease(part); ok && l.Epoch == p.epoch {
			return p, nil
		}
	}
	got, err := s.owner.Await(ctx, part)
	if err != nil {
		return nil, err
	}
	p := s.leases[part].Load()
	if p == nil || p.epoch != got.Epoch || p.lost.Load() {
		return nil, errUnavailable
	}
	return p, nil
}

// asNotOwner finds the error that names another owner.
func asNotOwner(err error) (*partition.NotOwner, bool) {
	if err == nil {
		return nil, false
	}
	return partition.AsNotOwner(err)
}

// beacon says on the bus where the log of the partition ends.
func (s *Service) beacon(p *lease, head int64) {
	if err := s.bus.PublishLog(&logv1.Batch{Part: p.part, Epoch: p.epoch, Head: head}); err != nil {
		s.log.Debug("publish beacon", "err", err, "part", p.part)
	}
}
