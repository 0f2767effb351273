package ratelimit

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
)

const (
	// askTime bounds the wait for Redis, restTime is how long it is left alone after it did not answer.
	askTime  = 250 * time.Millisecond
	restTime = 2 * time.Second
	// leaseLife is how long leased tokens may be used.
	leaseLife = time.Minute
	// slices is how many slices a full bucket has at least.
	slices = 20
)

// script takes up to ARGV[3] tokens, whole ones, of the bucket KEYS[1] with a rate of ARGV[1] and a burst of ARGV[2]. It
// returns how many it took, or 0 and the microseconds until there is one. What is stored is the time at which the
// bucket is full again, by the clock of Redis; the key goes at that time.
var script = redis.NewScript(`
local rate, burst, want = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1e6
local full = math.max(now, math.min(tonumber(redis.call('GET', KEYS[1]) or now), now + burst / rate))
local have = burst - (full - now) * rate + 1e-4
if have < 1 then
	return {0, math.ceil((1 - have) / rate * 1e6) + 1}
end
local take = math.min(want, math.floor(have))
full = full + take / rate
redis.call('SET', KEYS[1], string.format('%.6f', full), 'PX', math.ceil((full - now) * 1000) + 1)
return {take, 0}`)

// shared are the buckets of all workers.
type shared struct {
	redis   redis.Scripter
	askTime time.Duration
	rest    atomic.Int64 // Unix nanoseconds until which Redis is left alone
	asked   *prometheus.CounterVec
}

func newShared(r redis.Scripter) *shared {
	return &shared{redis: r, askTime: askTime, asked: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hanse_rate_limit_leases_total",
		Help: "Questions to Redis for tokens, by result: granted, refused or failed."}, []string{"result"})}
}

// up says whether there is a Redis to ask.
func (s *shared) up(now time.Time) bool { return s != nil && now.UnixNano() >= s.rest.Load() }

// ask leases tokens: at least one is granted, or again says when to come back. Neither: Redis did not answer.
func (s *shared) ask(ctx context.Context, k bucketKey, limit Limit, now time.Time) (granted float64, again time.Duration) {
	// A client that gives up is no failure of Redis.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.askTime)
	defer cancel()
	got, err := script.Run(ctx, s.redis, []string{"hanse:limit:" + k.kind + ":" + k.key}, limit.PerSecond, limit.Burst, limit.slice()).Int64Slice()
	switch {
	case err != nil || len(got) != 2:
		s.rest.Store(now.Add(restTime).UnixNano())
		s.asked.WithLabelValues("failed").Inc()
		return 0, 0
	case got[0] == 0:
		s.asked.WithLabelValues("refused").Inc()
		return 0, time.Duration(got[1]) * time.Microsecond
	}
	s.asked.WithLabelValues("granted").Inc()
	return float64(got[0]), 0
}

// slice is how many tokens are leased at once.
func (l Limit) slice() int {
	return max(1, int(min(float64(l.Burst)/slices, l.PerSecond)))
}

// lease is what a worker holds of a shared bucket: tokens until end, or the knowledge that there are none until then.
type lease struct {
	tokens float64
	end    time.Time
	none   bool
}

// take takes a token; wait is not 0 if it is known that there is none.
func (l *lease) take(now time.Time) (taken bool, wait time.Duration) {
	switch {
	case !now.Before(l.end):
		*l = lease{}
	case l.none:
		return false, l.end.Sub(now)
	case l.tokens >= 1:
		l.tokens--
		return true, 0
	}
	return false, 0
}

// add notes an answer of Redis: tokens to spare, or the time until there are some.
func (l *lease) add(tokens float64, again time.Duration, now time.Time) {
	switch {
	case again > 0:
		*l = lease{none: true, end: now.Add(again)}
	case l.none || !now.Before(l.end):
		*l = lease{tokens: tokens, end: now.Add(leaseLife)}
	default:
		l.tokens, l.end = l.tokens+tokens, now.Add(leaseLife)
	}
}
