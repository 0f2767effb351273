package ratelimit

import (
	"context"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

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
	// MaxKeys bounds the buckets in memory (default 100,000, about 150 bytes each).
	MaxKeys int
	// Redis has the buckets that all workers share. Nil: each worker counts for itself.
	Redis      redis.Scripter
	Registerer prometheus.Registerer
}

// Limiter counts. It is safe for concurrent use. A nil *Limiter allows everything.
type Limiter struct {
	limits  map[string]Limit
	shared  *shared // nil: none
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
	lease  lease
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
	metrics := []prometheus.Collector{l.refused, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "hanse_rate_limit_keys", Help: "Buckets in memory."}, func() float64 { return float64(l.size()) })}
	if cfg.Redis != nil {
		l.shared = newShared(cfg.Redis)
		metrics = append(metrics, l.shared.asked)
	}
	if cfg.Registerer != nil {
		for _, c := range metrics {
			if err := cfg.Registerer.Register(c); err != nil {
				return nil, fmt.Errorf("rate limits: %w", err)
			}
		}
	}
	return l, nil
}

// Allow takes one action of a kind from the budget of a key. If there is none left it returns
// M_LIMIT_EXCEEDED with the time after which there is (client-server API, "Rate limiting").
func (l *Limiter) Allow(ctx context.Context, kind, key string) error {
	if l == nil {
		return nil
	}
	limit, ok := l.limits[kind]
	if !ok {
		return nil
	}
	k := bucketKey{kind, key}
	s := &l.shards[maphash.Comparable(l.seed, k)%shardCount]
	wait, leased := s.take(k, limit, l.now())
	if wait == 0 && !leased && l.shared.up(l.now()) {
		granted, again := l.shared.ask(ctx, k, limit, l.now())
		wait = s.lend(k, limit, granted, again, l.now())
	}
	if wait == 0 {
		return nil
	}
	l.refused.WithLabelValues(kind).Inc()
	return merr.LimitExceeded(wait.Milliseconds() + 1)
}

// take takes a token of this worker's bucket, and one of the lease if that has any; wait says when to come back if there
// is none.
func (s *shard) take(k bucketKey, limit Limit, now time.Time) (wait time.Duration, leased bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.bucket(k, limit, now)
	if b.tokens < 1 {
		return limit.time(1 - b.tokens), false
	}
	leased, wait = b.lease.take(now)
	if wait == 0 {
		b.tokens--
	}
	return wait, leased
}

// lend puts tokens that were leased aside, but for the one that the action takes. With none granted the action's token
// goes back to this worker's bucket.
func (s *shard) lend(k bucketKey, limit Limit, granted float64, again time.Duration, now time.Time) (wait time.Duration) {
	if granted == 0 && again == 0 {
		return 0 // nobody to ask: this worker's bucket decides
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.bucket(k, limit, now)
	b.lease.add(granted-1, again, now)
	if granted == 0 {
		b.tokens = min(b.tokens+1, float64(limit.Burst))
	}
	return again
}

// bucket returns a bucket as it is now. The shard is locked.
func (s *shard) bucket(k bucketKey, limit Limit, now time.Time) *bucket {
	b, ok := s.buckets.Get(k)
	if !ok {
		b = &bucket{tokens: float64(limit.Burst), at: now}
		s.buckets.Add(k, b)
	}
	if passed := now.Sub(b.at); passed > 0 {
		b.tokens = min(b.tokens+passed.Seconds()*limit.PerSecond, float64(limit.Burst))
		b.at = now
	}
	return b
}

// time is how long it takes until so many tokens have come back.
func (l Limit) time(tokens float64) time.Duration {
	return time.Duration(tokens / l.PerSecond * float64(time.Second))
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
