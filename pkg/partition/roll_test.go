package partition_test

import (
	"fmt"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"hanse/pkg/partition"
)

// rollTiming lets no worker be missed, and gives all of them time to hear of a change.
var rollTiming = partition.Timing{Beat: 2 * time.Second, TTL: time.Hour}

// settled waits until the workers with these ids own what rendezvous hashing gives them.
func (c *cluster) settled(ids []string) []partition.Row {
	c.t.Helper()
	deadline := time.Now().Add(patient)
	for {
		rows, err := c.rows.List(c.t.Context())
		if err != nil {
			c.t.Fatal(err)
		}
		var ready []string
		for _, m := range c.members.Of(partition.RoleRoom) {
			ready = append(ready, m.ID)
		}
		if slices.Equal(ready, slices.Sorted(slices.Values(ids))) && !slices.ContainsFunc(rows, func(r partition.Row) bool {
			m, _ := c.members.OwnerOf(r.Part, partition.RoleRoom)
			return r.Owner != m.ID
		}) {
			return rows
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("members are %q, want %q; rows %v", ready, ids, rows)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// All workers are replaced one by one, as an upgrade does. A worker that joins or leaves moves the partitions that it gets or had, each
// of them once: nobody takes what others own because it has not heard of them yet, or takes back what the new owner has taken.
func TestRollMovesEachPartitionOnce(t *testing.T) {
	c := newCluster(t, rollTiming)
	var ids []string
	running := map[string]*exec.Cmd{}
	for i := range 4 {
		ids = append(ids, fmt.Sprintf("room-old-%d", i))
		running[ids[i]] = c.start(ids[i])
	}
	before := c.settled(ids)
	moved := 0
	step := func(what string) {
		after := c.settled(ids)
		for i, row := range after {
			want := before[i].Epoch
			if row.Owner != before[i].Owner {
				want++
				moved++
			}
			if row.Epoch != want {
				t.Errorf("%s: partition %d of %s went to %s in %d steps", what, row.Part, before[i].Owner, row.Owner, row.Epoch-before[i].Epoch)
			}
		}
		before = after
	}
	for i := range 4 {
		id := fmt.Sprintf("room-new-%d", i)
		running[id] = c.start(id)
		ids = append(ids, id)
		step(id + " joins")
		c.signal(running[ids[0]], syscall.SIGTERM)
		ids = ids[1:]
		step(fmt.Sprintf("room-old-%d leaves", i))
	}
	if most := 4 * 2 * int(partition.Count()) / 3; moved > most { // a fifth at each of eight steps, on average
		t.Errorf("%d partitions were moved, want %d at most", moved, most)
	}
	t.Logf("moved %d times", moved)
}
