// Package cache is a least-recently-used cache with a budget in bytes.
//
// The caller says what an entry weighs; when the sum exceeds the budget, the entries that were not used for longest
// go. An entry that alone exceeds the budget is not kept. All methods are safe for concurrent use.
package cache

import (
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/prometheus/client_golang/prometheus"
)

// Cache maps K to V.
type Cache[K comparable, V any] struct {
	budget int64
	maxAge time.Duration
	weigh  func(K, V) int64

	mu    sync.Mutex
	lru   *simplelru.LRU[K, entry[V]]
	bytes int64

	hits, misses prometheus.Counter
}

type entry[V any] struct {
	value  V
	weight int64
	added  time.Time
}

// Config describes a cache. Name labels its metrics.
type Config[K comparable, V any] struct {
	Name string
	// Budget is the sum of weights that is kept, in bytes.
	Budget int64
	// MaxAge makes entries disappear after a while; 0 means never.
	MaxAge time.Duration
	// Weigh says how many bytes an entry holds, keys and bookkeeping included.
	Weigh func(K, V) int64
	// Metrics may be nil.
	Metrics prometheus.Registerer
}

// New returns an empty cache.
func New[K comparable, V any](cfg Config[K, V]) *Cache[K, V] {
	c := &Cache[K, V]{budget: cfg.Budget, maxAge: cfg.MaxAge, weigh: cfg.Weigh}
	// The byte budget bounds the number of entries; the list itself needs no bound of its own.
	lru, err := simplelru.NewLRU(1<<31-1, func(_ K, e entry[V]) { c.bytes -= e.weight })
	if err != nil {
		panic(err) // only for a size below one
	}
	c.lru = lru
	labels := prometheus.Labels{"cache": cfg.Name}
	c.hits = prometheus.NewCounter(prometheus.CounterOpts{Name: "hanse_cache_hits_total", Help: "Look-ups that a cache answered.", ConstLabels: labels})
	c.misses = prometheus.NewCounter(prometheus.CounterOpts{Name: "hanse_cache_misses_total", Help: "Look-ups that a cache did not answer.", ConstLabels: labels})
	if cfg.Metrics != nil {
		size := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "hanse_cache_bytes", Help: "What a cache holds.", ConstLabels: labels},
			func() float64 { return float64(c.Bytes()) })
		for _, m := range []prometheus.Collector{c.hits, c.misses, size} {
			// Two instances of a cache in one process share the first one's metrics.
			if err := cfg.Metrics.Register(m); err != nil {
				continue
			}
		}
	}
	return c
}

// Get returns the value of k.
func (c *Cache[K, V]) Get(k K) (V, bool) {
	c.mu.Lock()
	e, ok := c.lru.Get(k)
	if ok && c.maxAge > 0 && time.Since(e.added) > c.maxAge {
		c.lru.Remove(k)
		ok = false
	}
	c.mu.Unlock()
	if !ok {
		c.misses.Inc()
		var none V
		return none, false
	}
	c.hits.Inc()
	return e.value, true
}

// Peek returns the value of k without that counting as a use of it.
func (c *Cache[K, V]) Peek(k K) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.lru.Peek(k)
	if !ok || c.maxAge > 0 && time.Since(e.added) > c.maxAge {
		var none V
		return none, false
	}
	return e.value, true
}

// Add stores v under k, in place of what was there.
func (c *Cache[K, V]) Add(k K, v V) {
	e := entry[V]{value: v, weight: c.weigh(k, v)}
	if c.maxAge > 0 {
		e.added = time.Now()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lru.Remove(k) // Add would replace the value without telling us of the old weight
	if e.weight > c.budget {
		return
	}
	c.lru.Add(k, e)
	c.bytes += e.weight
	for c.bytes > c.budget {
		c.lru.RemoveOldest()
	}
}

// Remove forgets k.
func (c *Cache[K, V]) Remove(k K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lru.Remove(k)
}

// Purge forgets everything.
func (c *Cache[K, V]) Purge() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lru.Purge()
}

// Bytes returns the sum of the weights.
func (c *Cache[K, V]) Bytes() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes
}

// Len returns the number of entries.
func (c *Cache[K, V]) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lru.Len()
}
