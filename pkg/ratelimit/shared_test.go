package ratelimit

import (
	"context"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/redis/go-redis/v9"

	"hanse/pkg/merr"
)

// server is a redis-server of the test's own.
type server struct {
	t      *testing.T
	socket string
	cmd    *exec.Cmd
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{t: t, socket: filepath.Join(t.TempDir(), "s")}
	s.start()
	t.Cleanup(func() { s.kill() })
	return s
}

// start starts it, empty, and waits until it answers.
func (s *server) start() {
	s.t.Helper()
	s.cmd = exec.Command("redis-server", "--port", "0", "--unixsocket", s.socket, "--save", "", "--appendonly", "no", "--dir", filepath.Dir(s.socket))
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatalf("redis-server, of the package of that name: %v", err)
	}
	c := s.client()
	deadline := time.Now().Add(2 * time.Minute)
	for c.Ping(s.t.Context()).Err() != nil {
		if time.Now().After(deadline) {
			s.t.Fatal("redis-server does not answer")
		}
		<-time.After(10 * time.Millisecond)
	}
}

func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

func (s *server) client() *redis.Client {
	c := redis.NewClient(&redis.Options{Network: "unix", Addr: s.socket, MaxRetries: -1, DialTimeout: time.Minute, ReadTimeout: time.Minute})
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// limiters are those of some workers that share a Redis. Nothing runs out of the buckets' time: a second of the test
// gives back a ten-thousandth of a token.
func (s *server) limiters(n int, burst int) []*Limiter {
	s.t.Helper()
	var all []*Limiter
	for range n {
		all = append(all, s.limiter("login", Limit{PerSecond: 1e-4, Burst: burst}))
	}
	return all
}

// limiter is that of a worker that waits for Redis for as long as it takes: an answer that is late would not count.
func (s *server) limiter(kind string, limit Limit) *Limiter {
	s.t.Helper()
	l, err := New(Config{Limits: map[string]Limit{kind: limit}, Redis: s.client()})
	if err != nil {
		s.t.Fatal(err)
	}
	l.shared.askTime = time.Hour
	return l
}

// allowed asks the limiters in turn, rounds times each, and counts.
func allowed(ctx context.Context, rounds int, of ...*Limiter) (n int) {
	for range rounds {
		for _, l := range of {
			if l.Allow(ctx, "login", "@a:test") == nil {
				n++
			}
		}
	}
	return n
}

// Client requests are limited per user and per address by the cluster, not by each of its workers.
func TestWorkersShareALimit(t *testing.T) {
	s := newServer(t)
	workers := s.limiters(2, 40)
	if n := allowed(t.Context(), 40, workers...); n != 40 {
		t.Errorf("two workers allowed %d of a burst of 40", n)
	}
	e, ok := merr.As(workers[0].Allow(t.Context(), "login", "@a:test"))
	if !ok || e.Status != 429 || e.RetryAfterMS < 9e6 || e.RetryAfterMS > 1e7+1 {
		t.Errorf("refusal of a bucket that gives a token in 10,000 s: %+v", e)
	}
	if err := workers[1].Allow(t.Context(), "login", "@b:test"); err != nil {
		t.Errorf("another user: %v", err)
	}
	// A worker that comes later begins with what the others have left.
	if n := allowed(t.Context(), 5, s.limiters(1, 40)...); n != 0 {
		t.Errorf("a third worker allowed %d more", n)
	}
}

// The server inside a process that has all roles understands the script, too.
func TestEmbedded(t *testing.T) {
	srv := miniredis.RunT(t)
	c := redis.NewClient(&redis.Options{Addr: srv.Addr()})
	t.Cleanup(func() { _ = c.Close() })
	l, err := New(Config{Limits: map[string]Limit{"login": {PerSecond: 1e-4, Burst: 5}}, Redis: c})
	if err != nil {
		t.Fatal(err)
	}
	l.shared.askTime = time.Hour
	if n := allowed(t.Context(), 10, l); n != 5 {
		t.Errorf("allowed %d of 5", n)
	}
	if n := testutil.ToFloat64(l.shared.asked.WithLabelValues("failed")); n != 0 {
		t.Errorf("%v questions failed", n)
	}
	if life := srv.TTL("hanse:limit:login:@a:test"); life < 49_000*time.Second || life > 50_001*time.Second {
		t.Errorf("the bucket is kept for %v; it is full after 50,000 s", life)
	}
}

// Who waits as long as he was told is let in, at every worker.
func TestSharedBucketFillsUp(t *testing.T) {
	s := newServer(t)
	var workers []*Limiter
	for range 2 {
		workers = append(workers, s.limiter("login", Limit{PerSecond: 20, Burst: 1}))
	}
	began := time.Now()
	const n = 10
	for i := range n {
		err := workers[i%2].Allow(t.Context(), "login", "@a:test")
		if e, refused := merr.As(err); refused {
			<-time.After(time.Duration(e.RetryAfterMS) * time.Millisecond)
			err = workers[i%2].Allow(t.Context(), "login", "@a:test")
		}
		if err != nil {
			t.Fatalf("action %d: %v", i, err)
		}
	}
	if took := time.Since(began); took < (n-1)*45*time.Millisecond {
		t.Errorf("%d actions at 20 per second within %v", n, took)
	}
}

// Redis is asked for slices, not for each request; what is allowed stays within the limit and a slice for each worker.
func TestLeases(t *testing.T) {
	s := newServer(t)
	l := s.limiter("request", Limit{PerSecond: 100, Burst: 2000})
	for i := range 1000 {
		if err := l.Allow(t.Context(), "request", "@a:test"); err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
	}
	if n := testutil.ToFloat64(l.shared.asked.WithLabelValues("granted")); n != 10 {
		t.Errorf("Redis was asked %v times for 1000 requests in slices of 100", n)
	}
	// Refusals are remembered, too.
	workers := s.limiters(1, 10)
	if n := allowed(t.Context(), 1000, workers...); n != 10 {
		t.Errorf("allowed %d of a burst of 10", n)
	}
	if n := testutil.ToFloat64(workers[0].shared.asked.WithLabelValues("refused")); n > 1 {
		t.Errorf("Redis was asked %v times for what it had refused", n)
	}
}

// Redis is never truth: without it each worker keeps the limit for itself, and all is as before when it is back.
func TestRedisIsGone(t *testing.T) {
	s := newServer(t)
	workers := s.limiters(2, 30)
	if n := allowed(t.Context(), 10, workers...); n != 20 {
		t.Fatalf("allowed %d of 20", n)
	}
	s.kill()
	at := time.Now()
	for _, w := range workers {
		w.now = func() time.Time { return at }
	}
	if n := allowed(t.Context(), 100, workers...); n != 40 {
		t.Errorf("without Redis two workers allowed %d more; each had allowed 10 of 30", n)
	}
	for i, w := range workers {
		if n := testutil.ToFloat64(w.shared.asked.WithLabelValues("failed")); n != 1 {
			t.Errorf("worker %d asked a dead Redis %v times", i, n)
		}
	}
	s.start()
	at = at.Add(restTime)
	count := func() (n int) {
		for range 50 {
			for _, w := range workers {
				if w.Allow(t.Context(), "login", "@c:test") == nil {
					n++
				}
			}
		}
		return n
	}
	if n := count(); n != 30 {
		t.Errorf("with a new Redis two workers allowed %d of a burst of 30", n)
	}
}
