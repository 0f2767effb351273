package cache_test

import (
	"testing"
	"time"

	"hanse/pkg/cache"
)

func newCache(budget int64, maxAge time.Duration) *cache.Cache[string, string] {
	return cache.New(cache.Config[string, string]{
		Name: "test", Budget: budget, MaxAge: maxAge,
		Weigh: func(k, v string) int64 { return int64(len(k) + len(v)) },
	})
}

func TestBudgetEvictsTheOldest(t *testing.T) {
	c := newCache(10, 0)
	c.Add("a", "1234") // 5
	c.Add("b", "1234") // 10
	if _, ok := c.Get("a"); !ok {
		t.Fatal("a is gone within the budget")
	}
	c.Add("c", "1234") // b was used longest ago
	if _, ok := c.Get("b"); ok {
		t.Error("b outlived a, which was used later")
	}
	if _, ok := c.Get("a"); !ok {
		t.Error("a is gone")
	}
	if got := c.Bytes(); got != 10 {
		t.Errorf("Bytes() = %d, want 10", got)
	}
}

func TestReplacingKeepsTheSum(t *testing.T) {
	c := newCache(10, 0)
	c.Add("a", "1234")
	c.Add("a", "12")
	if got := c.Bytes(); got != 3 {
		t.Errorf("Bytes() = %d, want 3", got)
	}
	c.Remove("a")
	if got := c.Bytes(); got != 0 {
		t.Errorf("Bytes() = %d after Remove, want 0", got)
	}
}

func TestTooLargeIsNotKept(t *testing.T) {
	c := newCache(3, 0)
	c.Add("a", "1")
	c.Add("b", "1234")
	if _, ok := c.Get("b"); ok {
		t.Error("an entry above the budget was kept")
	}
	if _, ok := c.Get("a"); !ok {
		t.Error("an entry above the budget drove out another")
	}
}

func TestMaxAge(t *testing.T) {
	c := newCache(10, time.Nanosecond)
	c.Add("a", "1")
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		if _, ok := c.Get("a"); !ok {
			return
		}
	}
	t.Error("the entry outlived its age")
}
