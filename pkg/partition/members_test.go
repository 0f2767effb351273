package partition_test

import (
	"context"
	"testing"
	"time"

	"hanse/pkg/await"
	"hanse/pkg/bus/bustest"
	"hanse/pkg/partition"
)

// A worker that leaves is gone at once, also if a heartbeat is on its way; the entry of a successor with its id stays.
func TestLeaveAmongHeartbeats(t *testing.T) {
	nats := bustest.New(t)
	timing := partition.Timing{TTL: time.Minute, Beat: 10 * time.Second}
	join := func(id, addr string) *partition.Members {
		t.Helper()
		m, err := partition.Join(partition.MembersConfig{Bus: nats.Open(addr), Timing: timing, Self: partition.Member{ID: id, Addr: addr}})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	leave := func(m *partition.Members) {
		t.Helper()
		if err := m.Leave(context.Background()); err != nil {
			t.Error(err)
		}
	}
	watcher := join("watcher", "w:1")
	defer leave(watcher)
	has := func(addr string) bool {
		for _, m := range watcher.All() {
			if m.Addr == addr {
				return true
			}
		}
		return false
	}
	for range 30 {
		m := join("worker", "a:1")
		await.True(t, time.Minute, "the worker is there", func() bool { return has("a:1") })
		m.SetState(partition.Draining) // which sends a heartbeat
		leave(m)
		await.True(t, time.Minute, "the worker is gone", func() bool { return !has("a:1") })
	}
	old := join("worker", "a:1")
	await.True(t, time.Minute, "the worker is there", func() bool { return has("a:1") })
	next := join("worker", "b:1")
	await.True(t, time.Minute, "its successor is there", func() bool { return has("b:1") })
	leave(old)
	second := join("second", "c:1") // what it sees came after the leave
	defer leave(second)
	await.True(t, time.Minute, "another one sees the successor", func() bool {
		for _, m := range second.All() {
			if m.Addr == "b:1" {
				return true
			}
		}
		return false
	})
	leave(next)
}
