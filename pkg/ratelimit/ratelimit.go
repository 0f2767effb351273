// Package ratelimit bounds how often somebody does something: a token bucket for each kind of action
// and each key, a user or an address, in the memory of each worker. A cluster therefore allows up to
// as many times the rate as it has workers; behind an edge that sends a user to the same worker it
// is the rate itself.
//
// Memory is bounded: the buckets that were used least recently are forgotten, which only ever errs in
// favour of the caller.
package ratelimit

import (
	"context"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/merr"
)

// Limit is the budget of one kind of action.
type Limit struct {
	// PerSecond is the rate in the long run.
	PerSecond float64
	// Burst is how many may come at once; at least 1.
	Burst int
}

// Config are the limits by kind.
type Config struct {
	// Limits by kind. A kind that is not named is not limited.
	Limits map[string]Limit
	// MaxKeys bounds the buckets in memory (default 100,000, about 100 bytes each).
	MaxKeys    int
	Registerer prometheus.Registerer
}

// Limiter counts. It is safe for concurrent use. A nil *Limiter allows everything.
type Limiter struct {
	limits  map[string]Limit
	shards  [shardCount]shard
	seed    maphash.Seed
	now     func() time.Time
	refused *prometheus.CounterVec
}

// shardCount keeps callers from waiting for each other.
const shardCount = 16

type shard struct {
	mu      sync.Mutex
	buckets *simplelru.LRU[bucketKey, *bucket]
}

type bucketKey struct{ kind, key string }

// bucket is a token bucket: it is filled when it is looked at.
type bucket struct {
	tokens float64
	at     time.Time
}

// New returns a Limiter with full buckets.
func New(cfg Config) (*Limiter, error) {
	if cfg.MaxKeys <= 0 {
		cfg.MaxKeys = 100_000
	}
	l := &Limiter{limits: cfg.Limits, seed: maphash.MakeSeed(), now: time.Now,
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hanse_rate_limited_total",
			Help: "Actions refused by rate limits."}, []string{"kind"})}
	for kind, limit := range cfg.Limits {
		if limit.PerSecond <= 0 || limit.Burst < 1 {
			return nil, fmt.Errorf("rate limit %s: %v per second with a burst of %d", kind, limit.PerSecond, limit.Burst)
		}
	}
	for i := range l.shards {
		lru, err := simplelru.NewLRU[bucketKey, *bucket](max(cfg.MaxKeys/shardCount, 1), nil)
		if err != nil {
			return nil, err
		}
		l.shards[i].buckets = lru
	}
	if cfg.Registerer != nil {
		for _, c := range []prometheus.Collector{l.refused, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "hanse_rate_limit_keys", Help: "Buckets in memory."}, func() float64 { return float64(l.size()) })} {
			if err := cfg.Registerer.Register(c); err != nil {
				return nil, fmt.Errorf("rate limits: %w", err)
			}
		}
	}
	return l, nil
}

// Allow takes one action of a kind from the budget of a key. If there is none left it returns
// M_LIMIT_EXCEEDED with the time after which there is (client-server API, "Rate limiting").
func (l *Limiter) Allow(_ context.Context, kind, key string) error {
	return l.AllowN(kind, key, 1)
}

// AllowN takes n actions at once, or none. More than the burst is never allowed.
func (l *Limiter) AllowN(kind, key string, n float64) error {
	if l == nil {
		return nil
	}
	limit, ok := l.limits[kind]
	if !ok {
		return nil
	}
	k := bucketKey{kind, key}
	s := &l.shards[maphash.Comparable(l.seed, k)%shardCount]
	now := l.now()
	s.mu.Lock()
	b, ok := s.buckets.Get(k)
	if !ok {
		b = &bucket{tokens: float64(limit.Burst), at: now}
		s.buckets.Add(k, b)
	}
	if passed := now.Sub(b.at); passed > 0 {
		b.tokens = min(b.tokens+passed.Seconds()*limit.PerSecond, float64(limit.Burst))
		b.at = now
	}
	missing := n - b.tokens
	if missing <= 0 {
		b.tokens -= n
	}
	s.mu.Unlock()
	if missing <= 0 {
		return nil
	}
	l.refused.WithLabelValues(kind).Inc()
	return merr.LimitExceeded(int64(missing/limit.PerSecond*1000) + 1)
}

func (l *Limiter) size() int {
	n := 0
	for i := range l.shards {
		l.shards[i].mu.Lock()
		n += l.shards[i].buckets.Len()
		l.shards[i].mu.Unlock()
	}
	return n
}
