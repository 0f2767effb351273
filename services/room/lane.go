package room

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"hanse/pkg/merr"
	"hanse/pkg/pg"
	logv1 "hanse/proto/log/v1"
)

// errStale is what a change gets that was built on a state which never came to be: the room was dropped because an
// earlier change failed. The change is built again.
var errStale = errors.New("the room was reloaded")

// commitTimeout bounds one transaction. After it the outcome is unknown.
const commitTimeout = 30 * time.Second

// lane commits the changes of some partitions of one shard, one transaction at a time. What comes while a commit is
// under way makes up the next one (law 5): load makes batches larger, not queues longer.
type lane struct {
	s         *Service
	pool      *pgxpool.Pool
	projector *projector

	committing sync.Mutex // held while a transaction is under way

	mu sync.Mutex
	// queue is what somebody waits for, bulk what is stored by the thousand and may wait for them, with what was built
	// upon it in the same room.
	queue, bulk  []*change
	heavy, bulky int           // rows, roughly, of each
	bulkOf       map[*room]int // changes of a room in bulk
	wake         chan struct{}
}

// bulkRows is how many rows, roughly, of bulk one batch takes along: some milliseconds, which is what others wait for it.
// Larger ones would not be much cheaper.
const bulkRows = 120

func newLane(s *Service, pool *pgxpool.Pool) *lane {
	return &lane{s: s, pool: pool, wake: make(chan struct{}, 1), bulkOf: make(map[*room]int), projector: newProjector(s)}
}

// put queues a change. The caller holds the room's lock, so changes of a room come in the order in which they were
// built. A full queue refuses.
func (l *lane) put(c *change) error {
	weight := c.weight()
	l.mu.Lock()
	queue, rows := &l.queue, &l.heavy
	if c.bulk || l.bulkOf[c.room] > 0 {
		queue, rows = &l.bulk, &l.bulky
	}
	if *rows > l.s.cfg.QueueRows {
		l.mu.Unlock()
		return merr.Unavailable("the server is overloaded")
	}
	*queue = append(*queue, c)
	*rows += weight
	if queue == &l.bulk {
		l.bulkOf[c.room]++
	}
	l.mu.Unlock()
	l.s.metrics.queued.Add(float64(weight))
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return nil
}

// take removes the changes of the next batch from the queue.
func (l *lane) take() []*change {
	l.mu.Lock()
	defer l.mu.Unlock()
	changes, rows := first(&l.queue, l.s.cfg.BatchRows, func(*change) bool { return true })
	l.heavy -= rows
	left := make(map[*room]bool) // rooms that have older changes still to be taken
	for _, c := range l.queue {
		left[c.room] = true
	}
	bulk, bulky := first(&l.bulk, bulkRows, func(c *change) bool { return !left[c.room] })
	l.bulky -= bulky
	for _, c := range bulk {
		if l.bulkOf[c.room]--; l.bulkOf[c.room] == 0 {
			delete(l.bulkOf, c.room)
		}
	}
	l.s.metrics.queued.Sub(float64(rows + bulky))
	return append(changes, bulk...)
}

// first takes changes from the front of a queue: at least one, and no more rows than that, as long as they may go.
func first(queue *[]*change, most int, may func(*change) bool) (changes []*change, rows int) {
	q, n := *queue, 0
	for n < len(q) && may(q[n]) && (n == 0 || rows+q[n].weight() <= most) {
		rows += q[n].weight()
		n++
	}
	if *queue = q[n:]; n == len(q) {
		*queue = nil
	}
	return q[:n:n], rows
}

// run commits until ctx ends, and then answers what is still queued.
func (l *lane) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			for changes := l.take(); len(changes) > 0; changes = l.take() {
				failAll(changes, errUnavailable)
			}
			return
		case <-l.wake:
		}
		for changes := l.take(); len(changes) > 0; changes = l.take() {
			l.committing.Lock()
			l.commit(ctx, changes)
			l.committing.Unlock()
		}
	}
}

// flush returns when no transaction that began before is under way.
func (l *lane) flush() {
	l.committing.Lock()
	defer l.committing.Unlock()
}

// commit writes changes as one transaction. If PostgreSQL refuses one of them, the others must not suffer: the batch
// is split until the bad one stands alone.
func (l *lane) commit(ctx context.Context, changes []*change) {
	changes = living(changes)
	if len(changes) == 0 {
		return
	}
	start := time.Now()
	b := newBatch(changes)
	tctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	span := l.s.traceCommit(b)
	err := l.s.appendAll(tctx, l.pool, b)
	endCommit(span, err)
	cancel()
	switch {
	case err == nil:
		l.s.metrics.committed(b, time.Since(start))
		l.committed(b)
	case errors.Is(err, errFenced) && len(b.parts) == 1:
		l.s.lose(b.parts[0].p, errFenced)
		failAll(changes, b.parts[0].p.lostError())
	case errors.Is(err, errUnknownOutcome):
		l.s.metrics.unknown.Inc()
		l.s.log.Warn("append with unknown outcome", "err", err, "changes", len(changes))
		l.loseAll(b)
		failAll(changes, errUnavailable)
	case pg.Transient(err):
		// Nothing was written, and the same may work in a moment; but the database has more to do than to hear it from
		// us again at once, and callers come back by themselves.
		l.s.log.Warn("append failed", "err", err, "changes", len(changes))
		l.loseAll(b)
		failAll(changes, errUnavailable)
	case len(b.parts) > 1:
		// One lost partition, or one bad row: part from part first.
		for _, pb := range b.parts {
			l.commit(ctx, pb.changes)
		}
	case len(changes) > 1:
		l.commit(ctx, changes[:len(changes)/2])
		l.commit(ctx, changes[len(changes)/2:])
	default:
		l.refuse(changes[0], err)
	}
}

// refuse fails the one change that PostgreSQL does not take, and drops the room's provisional state.
func (l *lane) refuse(c *change, err error) {
	if !pg.IsUnique(err, "") {
		l.s.log.Error("append refused", "err", err, "room", c.room.id, "part", c.room.p.part)
	}
	l.s.metrics.refused.Inc()
	c.room.drop()
	c.finish(err)
}

func (l *lane) loseAll(b *batch) {
	for _, pb := range b.parts {
		l.s.lose(pb.p, errUnknownOutcome)
	}
}

// living answers changes of lost partitions and dropped rooms, and returns the others.
func living(changes []*change) []*change {
	alive := changes[:0:len(changes)]
	for _, c := range changes {
		switch {
		case c.room.p.lost.Load():
			c.finish(c.room.p.lostError())
		case c.room.dead.Load():
			c.finish(errStale)
		default:
			alive = append(alive, c)
		}
	}
	return alive
}

func failAll(changes []*change, err error) {
	for _, c := range changes {
		c.finish(err)
	}
}

// committed tells the world: the bus first, then the membership index, then who waits.
func (l *lane) committed(b *batch) {
	now := time.Now().UnixMicro()
	var members []*change
	for _, pb := range b.parts {
		pb.p.head = pb.head()
		pb.p.published.Store(pb.p.head)
		l.publish(pb, now)
		for _, c := range pb.changes {
			c.room.committed(c)
			l.s.shared.offer(c.resolved)
			c.commit()
			for _, o := range c.snaps {
				l.s.store.Put(pb.p.part, o.snap.SID(), o.snap.Map(), o.near)
			}
			if len(c.members) > 0 {
				members = append(members, c)
			} else {
				c.finish(nil)
			}
		}
	}
	l.projector.put(b, members)
}

func (l *lane) publish(pb *partBatch, now int64) {
	out := &logv1.Batch{Part: pb.p.part, Epoch: pb.p.epoch, Head: pb.p.head, CommittedUs: now}
	out.Entries = make([]*logv1.Entry, 0, pb.entries)
	var stale []int64
	for _, c := range pb.changes {
		traceparent := c.trace.traceparent()
		for _, e := range c.entries {
			e.bus.Traceparent = traceparent
			out.Entries = append(out.Entries, e.bus)
		}
		stale = append(stale, c.changed()...)
	}
	if pb.entries > 0 {
		pb.p.touched.Store(true)
		// What is lost here is read from PostgreSQL by whoever misses it.
		if err := l.s.bus.PublishLog(out); err != nil {
			l.s.log.Debug("publish log", "err", err, "part", pb.p.part)
		}
	}
	if len(stale) > 0 {
		l.s.db.Forget(pb.p.part, stale...)
		for _, nid := range stale {
			l.s.cache.Remove(eventKey{pb.p.part, pb.p.epoch, nid})
		}
		for _, c := range pb.changes {
			if c.reverses() { // a resolution may have read the rows as they were
				c.room.forgetVerdicts()
			}
		}
		if err := l.s.bus.PublishRedacted(&logv1.Redacted{Part: pb.p.part, Nids: stale}); err != nil {
			l.s.log.Debug("publish redactions", "err", err, "part", pb.p.part)
		}
	}
}

// reverses says whether the change gives stored events other verdicts.
func (c *change) reverses() bool {
	return len(c.partial.redone) > 0 || slices.ContainsFunc(c.events, (*newEvent).reversed)
}

// changed are stored events whose rows the change has changed: readers must not keep what they have of them.
func (c *change) changed() []int64 {
	var nids []int64
	for _, r := range c.redactions {
		nids = append(nids, r.target)
	}
	for _, e := range c.events {
		if e.rowExists {
			nids = append(nids, e.nid)
		}
	}
	for _, e := range c.partial.redone {
		nids = append(nids, e.nid)
	}
	for _, e := range c.partial.restored {
		nids = append(nids, e.target)
	}
	return nids
}
