package ratelimit

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/merr"
)

// Client-server API, "Rate limiting": 429 M_LIMIT_EXCEEDED with the time to wait.
func TestBucket(t *testing.T) {
	l, err := New(Config{Limits: map[string]Limit{"login": {PerSecond: 2, Burst: 3}}, Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1000, 0)
	l.now = func() time.Time { return now }
	allow := func(key string) *merr.Error {
		e, _ := merr.As(l.Allow(t.Context(), "login", key))
		return e
	}
	for range 3 {
		if e := allow("a"); e != nil {
			t.Fatalf("burst: %v", e)
		}
	}
	e := allow("a")
	if e == nil || e.Status != 429 || e.RetryAfterMS < 500 || e.RetryAfterMS > 501 {
		t.Fatalf("after the burst: %+v", e)
	}
	if e := allow("b"); e != nil {
		t.Fatalf("another key: %v", e)
	}
	if err := l.Allow(t.Context(), "unlimited", "a"); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Duration(e.RetryAfterMS) * time.Millisecond) // those who wait as told are let in
	if e := allow("a"); e != nil {
		t.Fatalf("after the wait: %v", e)
	}
	if e := allow("a"); e == nil {
		t.Fatal("only one token came back")
	}
	now = now.Add(-time.Hour) // a clock that goes back takes nothing away and gives nothing
	if e := allow("a"); e == nil {
		t.Fatal("the clock went back")
	}
}

func TestMemoryIsBounded(t *testing.T) {
	l, err := New(Config{Limits: map[string]Limit{"x": {PerSecond: 1, Burst: 1}}, MaxKeys: 160})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10_000 {
		if err := l.Allow(t.Context(), "x", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := l.size(); n > 160 {
		t.Errorf("%d buckets", n)
	}
}

func TestBadLimits(t *testing.T) {
	for _, limit := range []Limit{{0, 1}, {1, 0}, {-1, 5}} {
		if _, err := New(Config{Limits: map[string]Limit{"x": limit}}); err == nil {
			t.Errorf("accepted %+v", limit)
		}
	}
	var none *Limiter
	if err := none.Allow(t.Context(), "x", "y"); err != nil {
		t.Error(err)
	}
}

func BenchmarkAllow(b *testing.B) {
	l, err := New(Config{Limits: map[string]Limit{"x": {PerSecond: 1e9, Burst: 1e9}}})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := l.Allow(b.Context(), "x", "@user:example"); err != nil {
			b.Fatal(err)
		}
	}
}
