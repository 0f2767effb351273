package faults

import (
	"fmt"
	"testing"
	"time"

	"hanse/tools/cluster"
)

// The owner of a partition is killed between taking requests and answering them: another takes over, and who asked
// again gets the event that the dead one had committed.
func TestOwnerKilled(t *testing.T) {
	l := newLoad(t, 4, 8, 0, stubborn)
	l.more(50)
	before, i := l.owner()
	l.strike("kill "+before.owner, func() error { return shared.Kill("room", i) })
	l.taken(before)
	l.strike("start it again", func() error { return shared.Launch(t.Context(), "room", i) })
	l.settle()
}

// Each worker of each role is killed in turn and started again.
func TestEachRoleKilled(t *testing.T) {
	l := newLoad(t, 4, 8, 0, stubborn)
	for _, role := range cluster.Roles {
		for i := range shared.Replicas(role) {
			l.more(20)
			l.strike(fmt.Sprintf("kill %s-%d", role, i), func() error { return shared.Kill(role, i) })
			if err := shared.Launch(t.Context(), role, i); err != nil {
				t.Fatal(err)
			}
		}
	}
	l.settle()
}

// lease is for how long a worker believes its lease without a look at PostgreSQL (partition.OwnerConfig.LeaseTrust),
// and longer than its heartbeats may be missing.
const lease = 8 * time.Second

// An owner stands still for longer than its lease and wakes in the middle of its appends: the fence holds.
func TestOwnerPaused(t *testing.T) {
	l := newLoad(t, 4, 8, 0, stubborn)
	l.more(50)
	before, i := l.owner()
	begin := time.Now()
	l.strike("stop "+before.owner, func() error { return shared.Pause("room", i) })
	defer func() { _ = shared.Resume("room", i) }() // it may run already
	l.taken(before)
	until(t, "the end of the lease", func() error {
		if since := time.Since(begin); since <= lease {
			return fmt.Errorf("only %s have passed", since)
		}
		return nil
	})
	l.strike("wake it", func() error { return shared.Resume("room", i) })
	// Its partitions come back to it, by epochs that are higher again.
	until(t, "home-coming", func() error {
		if now, _ := l.owner(); now.owner != before.owner || now.epoch < before.epoch+2 {
			return fmt.Errorf("owner %s, epoch %d", now.owner, now.epoch)
		}
		return nil
	})
	l.more(50)
	l.settle()
}
