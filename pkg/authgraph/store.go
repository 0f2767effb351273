package authgraph

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/cache"
	"hanse/pkg/metric"
)

// MaxEvents bounds the graph of a room.
const MaxEvents = 1 << 22

// blockEvents is how many events a stored block has. It is part of the stored form: blocks of another size are not read.
const blockEvents = 4096

// DefaultCache is a budget that suits a small server.
const DefaultCache = 64 << 20

// Store reads the graphs of rooms from PostgreSQL, keeps those used last within a budget of bytes, and stores what makes
// the next reading cheaper. It is safe for concurrent use.
type Store struct {
	block int

	mu    sync.Mutex // look-up and insertion in one
	cache *cache.Cache[Room, *entry]

	loads, sealed, failures prometheus.Counter
	rebuilds                prometheus.Counter
}

// entry is a graph in the cache.
type entry struct {
	turn   chan struct{} // held by who reads rows for it
	sealed int           // how many of its events stored blocks have; of the holder of the turn

	mu sync.RWMutex // written with the turn
	g  *Graph       // nil: nothing was read yet
}

// NewStore returns a store with a budget of bytes. Metrics may be nil.
func NewStore(budget int64, metrics prometheus.Registerer) *Store {
	return newStore(budget, blockEvents, metrics)
}

func newStore(budget int64, block int, metrics prometheus.Registerer) *Store {
	counter := func(name, help string) prometheus.Counter {
		return metric.Register(metrics, prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help}))
	}
	return &Store{
		block: block,
		cache: cache.New(cache.Config[Room, *entry]{
			Name: "authgraph", Budget: budget, Metrics: metrics,
			Weigh: func(_ Room, e *entry) int64 {
				if e.g == nil {
					return entryBytes
				}
				return e.g.Bytes() + entryBytes
			},
		}),
		loads:    counter("hanse_authgraph_loads_total", "Auth graphs of rooms read from PostgreSQL."),
		sealed:   counter("hanse_authgraph_blocks_total", "Blocks of auth graphs stored."),
		failures: counter("hanse_authgraph_store_failures_total", "Blocks of auth graphs that could not be stored; the next reader tries again."),
		rebuilds: counter("hanse_authgraph_rebuilds_total", "Auth graphs whose blocks were unreadable and were made anew."),
	}
}

// entryBytes is what an entry holds beside its graph.
const entryBytes = 400

// Load reads the graph of a room as it is in PostgreSQL. It belongs to the caller, who may add to it.
func (s *Store) Load(ctx context.Context, db DB, room Room) (*Graph, error) {
	g, _, err := s.load(ctx, db, room)
	return g, err
}

// View calls f with the graph of a room, which f must not change or keep. The graph has at least those of the named
// events that are committed state events.
func (s *Store) View(ctx context.Context, db DB, room Room, has []int64, f func(*Graph) error) error {
	e := s.entry(room)
	if done, err := e.view(has, f); done {
		return err
	}
	select {
	case e.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-e.turn }()
	if done, err := e.view(has, f); done { // somebody else has read them meanwhile
		return err
	}
	if err := s.refresh(ctx, db, room, e); err != nil {
		return err
	}
	_, err := e.view(nil, f)
	return err
}

// view calls f if the graph has all of the events.
func (e *entry) view(has []int64, f func(*Graph) error) (bool, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.g == nil {
		return false, nil
	}
	for _, nid := range has {
		if e.g.Find(nid) == None {
			return false, nil
		}
	}
	return true, f(e.g)
}

func (s *Store) entry(room Room) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.cache.Get(room)
	if !ok {
		e = &entry{turn: make(chan struct{}, 1)}
		s.cache.Add(room, e)
	}
	return e
}

// refresh brings an entry up to date. The caller has the turn.
func (s *Store) refresh(ctx context.Context, db DB, room Room, e *entry) error {
	defer func() { s.cache.Add(room, e) }() // it weighs more now
	if e.g == nil {
		g, sealed, err := s.load(ctx, db, room)
		if err != nil {
			return err
		}
		e.mu.Lock()
		e.g, e.sealed = g, sealed
		e.mu.Unlock()
		return nil
	}
	err := readNodes(ctx, db, room, e.g.Last(), func(nodes []Node) error {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.g.addAll(nodes)
	})
	if err != nil {
		if errors.Is(err, ErrUnknown) || errors.Is(err, ErrOrder) {
			e.mu.Lock()
			e.g = nil // whatever happened to the rows: the next one reads all of them
			e.mu.Unlock()
		}
		return err
	}
	e.sealed = s.trySeal(ctx, db, room, e.g, e.sealed)
	return nil
}

// load reads a graph: blocks, and the events behind them. Blocks that cannot be read are made anew from the events.
func (s *Store) load(ctx context.Context, db DB, room Room) (*Graph, int, error) {
	s.loads.Inc()
	g := New()
	sealed, err := s.readBlocks(ctx, db, room, g)
	if errors.Is(err, ErrCorrupt) {
		s.rebuilds.Inc()
		g, sealed = New(), 0
		if _, err = db.Exec(ctx, deleteBlocks, int32(room.Part), room.NID); err != nil {
			err = fmt.Errorf("delete auth blocks: %w", err)
		}
	}
	if err != nil {
		return nil, 0, err
	}
	if err := readNodes(ctx, db, room, g.Last(), g.addAll); err != nil {
		return nil, 0, err
	}
	return g, s.trySeal(ctx, db, room, g, sealed), nil
}

// trySeal stores full blocks. A failure costs the next reader time and nobody the answer.
func (s *Store) trySeal(ctx context.Context, db DB, room Room, g *Graph, sealed int) int {
	sealed, err := s.seal(ctx, db, room, g, sealed)
	if err != nil {
		s.failures.Inc()
	}
	return sealed
}

// Bytes returns what the cache holds, by its own estimate.
func (s *Store) Bytes() int64 { return s.cache.Bytes() }
