package state

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Config is what an operator may set.
type Config struct {
	// Cache is the budget of a process for the states of rooms, in bytes.
	Cache int64 `koanf:"cache" yaml:"cache"`
}

// DefaultConfig suits a small server.
func DefaultConfig() Config { return Config{Cache: 128 << 20} }

// Store reads snapshots, through a cache that all callers of a process share.
// Snapshots never change, so the cache needs no invalidation. It is safe for
// concurrent use.
type Store struct {
	mu      sync.Mutex
	cache   *cache
	loading map[Ref]*load

	hits, misses, leaps, payloads prometheus.Counter
}

var errAborted = errors.New("load was aborted")

// load is one snapshot being read; others who want it wait for done.
type load struct {
	done chan struct{}
	m    Map
	err  error
}

// NewStore returns a store. Metrics may be nil.
func NewStore(cfg Config, metrics prometheus.Registerer) *Store {
	s := &Store{cache: newCache(cfg.Cache), loading: map[Ref]*load{}}
	labels := prometheus.Labels{"cache": "state"}
	counter := func(name, help string, l prometheus.Labels) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: l})
	}
	s.hits = counter("hanse_cache_hits_total", "Look-ups that a cache answered.", labels)
	s.misses = counter("hanse_cache_misses_total", "Look-ups that a cache did not answer.", labels)
	s.leaps = counter("hanse_state_cold_loads_total", "Snapshots read without an ancestor in the cache.", nil)
	s.payloads = counter("hanse_state_entries_read_total", "Entries read to load snapshots.", nil)
	if metrics != nil {
		size := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "hanse_cache_bytes", Help: "What a cache holds.", ConstLabels: labels},
			func() float64 { return float64(s.Bytes()) })
		metrics.MustRegister(s.hits, s.misses, s.leaps, s.payloads, size)
	}
	return s
}

// Bytes returns what the cache holds, by its own estimate.
func (s *Store) Bytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cache.used
}

// Put offers a map to the cache, which the caller made or is likely to need. near is
// a snapshot of which it is a child, or 0.
func (s *Store) Put(part uint32, sid int64, m Map, near int64) {
	if sid == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cache.put(Ref{part, sid}, m, Ref{part, near}, 1)
}

// Load returns the state of a snapshot. sid 0 is the empty state. db must reach the
// partition's shard. An error of a snapshot that is not there wraps ErrNotFound.
func (s *Store) Load(ctx context.Context, db Querier, part uint32, sid int64) (Map, error) {
	if sid == 0 {
		return Map{}, nil
	}
	ref := Ref{part, sid}
	s.mu.Lock()
	m, ok := s.cache.get(ref)
	s.mu.Unlock()
	if ok {
		s.hits.Inc()
		return m, nil
	}
	ms, err := s.LoadMany(ctx, db, []Ref{ref})
	return ms[ref], err
}

// LoadMany returns the states of many snapshots of one shard. Those that the cache
// lacks take one query together, or two or three if they are large or have been away
// from the cache for long. It fails if any of them does.
func (s *Store) LoadMany(ctx context.Context, db Querier, refs []Ref) (map[Ref]Map, error) {
	out := make(map[Ref]Map, len(refs))
	for try := 0; ; try++ {
		own, others := s.claim(refs, out)
		err := s.read(ctx, db, own, out)
		again := false
		for ref, l := range others {
			select {
			case <-ctx.Done():
				return nil, fmt.Errorf("load state: %w", ctx.Err())
			case <-l.done:
			}
			if l.err != nil {
				// It may have been the other's deadline, not ours.
				again = true
				continue
			}
			out[ref] = l.m
		}
		if err != nil {
			return nil, err
		}
		if !again {
			return out, nil
		}
		if try == 2 {
			return nil, errors.New("load state: another reader of the same snapshot failed three times")
		}
	}
}

// claim answers what it can from the cache and splits the rest into what this caller
// must read and what others are reading.
func (s *Store) claim(refs []Ref, out map[Ref]Map) (own []Ref, others map[Ref]*load) {
	s.mu.Lock()
	defer s.mu.Unlock()
	others = map[Ref]*load{}
	mine := map[Ref]bool{}
	for _, ref := range refs {
		if _, ok := out[ref]; ok || mine[ref] || others[ref] != nil {
			continue
		}
		if ref.SID == 0 {
			out[ref] = Map{}
			continue
		}
		if m, ok := s.cache.get(ref); ok {
			s.hits.Inc()
			out[ref] = m
			continue
		}
		s.misses.Inc()
		if l := s.loading[ref]; l != nil {
			others[ref] = l
			continue
		}
		s.loading[ref] = &load{done: make(chan struct{})}
		mine[ref] = true
		own = append(own, ref)
	}
	return own, others
}

// settle tells those who wait for own how it went.
func (s *Store) settle(own []Ref, out map[Ref]Map, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ref := range own {
		l := s.loading[ref]
		delete(s.loading, ref)
		m, ok := out[ref]
		if l.m = m; !ok {
			l.err = err
			if err == nil {
				l.err = errAborted
			}
		}
		close(l.done)
	}
}
