package search

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/bus"
	"hanse/pkg/follow"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
	logv1 "hanse/proto/log/v1"
)

// maxPending bounds the rows of a partition that wait to be written; beyond it the log waits.
const maxPending = 2000

// Deps are what an Indexer is built from.
type Deps struct {
	// Role is the role whose workers share the partitions.
	Role       string
	Shards     *pg.Shards
	Bus        *bus.Bus
	Members    *partition.Members
	Source     follow.Log
	Log        *slog.Logger
	Registerer prometheus.Registerer // may be nil
}

// Indexer writes this worker's share of the index.
type Indexer struct {
	follower *follow.Follower[*share]
	indexed  prometheus.Counter
}

// NewIndexer assembles an indexer; it does nothing before Run.
func NewIndexer(d Deps) *Indexer {
	x := &Indexer{indexed: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "hanse_search_indexed_total", Help: "Events that were put into the index of words."})}
	if d.Registerer != nil {
		d.Registerer.MustRegister(x.indexed)
	}
	x.follower = follow.New(follow.Config[*share]{
		Role: d.Role, Tables: "search", Reach: follow.SamePartition, Shards: d.Shards, Bus: d.Bus, Members: d.Members, Source: d.Source, Log: d.Log,
		Open: func(_ context.Context, p *follow.Part) (*share, error) {
			return &share{part: p, indexed: x.indexed}, nil
		},
		Plan: x.plan,
	})
	return x
}

// Run indexes until ctx ends.
func (x *Indexer) Run(ctx context.Context) { x.follower.Run(ctx) }

// Drain gives the partitions to other workers.
func (x *Indexer) Drain(ctx context.Context) error { return x.follower.Drain(ctx) }

// plan cuts the texts of a run of entries into words, and makes room for them in the share that gets them.
func (x *Indexer) plan(ctx context.Context, d bus.Delivery) (func(follow.Hand[*share]), error) {
	var of changes
	for _, e := range d.Entries {
		if err := of.add(e); err != nil {
			return nil, bus.Unprocessable(err)
		}
	}
	if len(of.rows)+len(of.redacted) == 0 {
		return nil, nil
	}
	if s, ok := x.follower.Get(d.Part); ok && s.full() {
		if err := s.write(ctx); err != nil {
			return nil, err
		}
	}
	return func(h follow.Hand[*share]) {
		if s, ok := h.To(d.Part, d.Entries[len(d.Entries)-1].Pos); ok {
			s.put(of)
		}
	}, nil
}

// changes are what entries of the log change in the index.
type changes struct {
	rows     []Entry
	redacted []string
}

func (c *changes) add(e *logv1.Entry) error {
	l := e.GetEvent()
	if l == nil {
		return nil
	}
	if l.Redacts != "" {
		c.redacted = append(c.redacted, l.Redacts)
	}
	if l.Redacted || !searched(l.Type) {
		return nil
	}
	rules, ok := roomversion.Get(l.RoomVersion)
	if !ok {
		return fmt.Errorf("event %s: room version %q", l.EventId, l.RoomVersion)
	}
	pdu, err := event.ParseTrusted(l.Json, id.Event(l.EventId), rules)
	if err != nil {
		return fmt.Errorf("event %s: %w", l.EventId, err)
	}
	if row, ok := NewEntry(l.Nid, e.RoomNid, l.OriginServerTs, l.Type, l.StateKey != nil, pdu.Content); ok {
		c.rows = append(c.rows, row)
	}
	return nil
}

// Again writes an entry of the log that was passed over.
func Again(ctx context.Context, shards *pg.Shards, part uint32, e *logv1.Entry) error {
	var of changes
	if err := of.add(e); err != nil {
		return err
	}
	var b pgx.Batch
	of.queue(&b, part)
	if b.Len() == 0 {
		return nil
	}
	return shards.For(part).SendBatch(ctx, &b).Close()
}

func (c *changes) queue(b *pgx.Batch, part uint32) {
	if len(c.rows) > 0 {
		QueuePut(b, part, c.rows)
	}
	if len(c.redacted) > 0 { // of these rows, too
		QueueRemove(b, part, c.redacted)
	}
}

// share is a partition's part of the index. Its rows are written together, every second.
type share struct {
	follow.Stored
	part    *follow.Part
	indexed prometheus.Counter

	mu      sync.Mutex
	pending changes
	writing sync.Mutex
}

func (s *share) put(c changes) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending.rows, s.pending.redacted = append(s.pending.rows, c.rows...), append(s.pending.redacted, c.redacted...)
}

func (s *share) full() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.pending.rows)+len(s.pending.redacted) > maxPending
}

// Idle implements follow.Keeper.
func (s *share) Idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.pending.rows)+len(s.pending.redacted) == 0
}

// Flush implements follow.Keeper.
func (s *share) Flush(ctx context.Context, _ []int64) error { return s.write(ctx) }

// write writes what is pending. What could not be written stays.
func (s *share) write(ctx context.Context) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	now := s.pending
	s.mu.Unlock()
	var b pgx.Batch
	if now.queue(&b, s.part.N); b.Len() == 0 {
		return nil
	}
	if err := s.part.Store(ctx, &b); err != nil {
		if errors.Is(err, follow.ErrLost) {
			return err
		}
		return fmt.Errorf("write index: %w", err)
	}
	s.indexed.Add(float64(len(now.rows)))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending.rows, s.pending.redacted = s.pending.rows[len(now.rows):], s.pending.redacted[len(now.redacted):]
	return nil
}
