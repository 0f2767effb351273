package faults

import (
	"bytes"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hanse/pkg/await"
	"hanse/pkg/partition"
	"hanse/tools/cluster"
	"hanse/tools/loadgen/scenario"
	"hanse/tools/mxclient"
)

// patience bounds each wait: for traffic to go on after a fault, and for its books to be complete.
const patience = 90 * time.Second

// stubborn clients repeat what failed until it is answered; the transaction id makes that harmless.
var stubborn = mxclient.Retry{Attempts: 1000}

// load is people who write and read along in rooms all the time.
type load struct {
	*testing.T
	rooms   []scenario.Room
	traffic *scenario.Traffic
	begin   time.Time
}

var runs atomic.Int64

// newLoad makes rooms, at least as many as wanted, so that each owner and each shard has one, and starts writing in
// them: as fast as answers come if the rate is 0, so that there is always a request of each sender under way.
func newLoad(t *testing.T, rooms, senders int, rate float64, retry mxclient.Retry) *load {
	t.Helper()
	l := &load{T: t, begin: time.Now()}
	parts := partitions(t, shared)
	owners, shards := map[string]bool{}, map[int]bool{}
	for len(l.rooms) < rooms || len(owners) < shared.Replicas("room") || len(shards) < len(shared.Shards()) {
		room := newRoom(t, people)
		l.rooms = append(l.rooms, scenario.Room{ID: room, Users: withRetry(people, retry)})
		p := parts[partition.Of(room)]
		owners[p.owner], shards[p.shard] = true, true
	}
	l.traffic = startTraffic(t, scenario.TrafficConfig{Rooms: l.rooms, Senders: max(senders, len(l.rooms)), Rate: rate})
	return l
}

func startTraffic(t *testing.T, cfg scenario.TrafficConfig) *scenario.Traffic {
	t.Helper()
	cfg.Run = fmt.Sprint("run", runs.Add(1))
	traffic, err := scenario.StartTraffic(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return traffic
}

func withRetry(users []*mxclient.Client, retry mxclient.Retry) []*mxclient.Client {
	var out []*mxclient.Client
	for _, u := range users {
		out = append(out, u.With(retry))
	}
	return out
}

// newRoom makes a room in which all users are, each through the server of the first.
func newRoom(t *testing.T, users []*mxclient.Client) string {
	t.Helper()
	room, err := users[0].CreateRoom(t.Context(), mxclient.NewRoom{Preset: "public_chat"})
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range users[1:] {
		if _, err := u.Join(t.Context(), room); err != nil {
			t.Fatal(err)
		}
	}
	return room
}

// more waits until n more sends have been acknowledged.
func (l *load) more(n int64) {
	l.Helper()
	more(l.T, l.traffic, n)
}

func more(t *testing.T, traffic *scenario.Traffic, n int64) {
	t.Helper()
	_, from, _ := traffic.Counts()
	until(t, fmt.Sprintf("%d more sends", n), func() error {
		if _, acked, _ := traffic.Counts(); acked < from+n {
			return fmt.Errorf("%d were acknowledged", acked-from)
		}
		return nil
	})
}

// strike does harm while sends are under way, and waits until others have been acknowledged afterwards.
func (l *load) strike(what string, harm func() error) {
	l.Helper()
	until(l.T, "sends under way", func() error {
		if sent, acked, _ := l.traffic.Counts(); sent <= acked {
			return fmt.Errorf("%d sent, %d acknowledged", sent, acked)
		}
		return nil
	})
	begin := time.Now()
	if err := harm(); err != nil {
		l.Fatalf("%s: %v", what, err)
	}
	done := time.Now()
	l.more(40)
	l.Logf("%s: %s, and %s until 40 more sends were acknowledged", what, done.Sub(begin).Round(time.Millisecond), time.Since(done).Round(time.Millisecond))
}

// settle ends the writing and demands that the books are exact and that no request failed for good.
func (l *load) settle() {
	l.Helper()
	settle(l.T, l.traffic)
	l.Logf("in all %s", time.Since(l.begin).Round(time.Millisecond))
}

func settle(t *testing.T, traffic *scenario.Traffic) {
	t.Helper()
	out, err := traffic.Stop(t.Context(), patience)
	if err != nil {
		t.Fatal(err)
	}
	if err := out.Verdict.Err(); err != nil {
		t.Error(err)
	}
	if len(out.Errors) > 0 {
		t.Errorf("failed requests: %v", out.Errors)
	}
	t.Log(out.Verdict.Summary())
	for _, l := range out.Latencies {
		t.Logf("%+v", l)
	}
}

// row is a line of 'hanse partition list'.
type row struct {
	shard int
	owner string
	epoch int64
}

// partitions asks the hanse program who owns what.
func partitions(t *testing.T, c *cluster.Cluster) []row {
	t.Helper()
	program, err := cluster.Build()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), program, "partition", "list", "--config", c.ConfigFile()).Output()
	if err != nil {
		t.Fatalf("partition list: %v", err)
	}
	var rows []row
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	for i, line := range lines[1:] {
		f := strings.Fields(string(line))
		if len(f) < 7 || f[0] != strconv.Itoa(i) {
			t.Fatalf("partition list: %s", line) // a partition without an owner has fewer columns
		}
		shard, err := strconv.Atoi(f[1])
		if err != nil {
			t.Fatal(err)
		}
		epoch, err := strconv.ParseInt(f[4], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, row{shard: shard, owner: f[2], epoch: epoch})
	}
	return rows
}

// owner returns who owns the first room, and that worker's number.
func (l *load) owner() (row, int) {
	l.Helper()
	p := partitions(l.T, shared)[partition.Of(l.rooms[0].ID)]
	number, ok := strings.CutPrefix(p.owner, "room-")
	i, err := strconv.Atoi(number)
	if !ok || err != nil {
		l.Fatalf("owner %q", p.owner)
	}
	return p, i
}

// taken waits until another worker owns the first room, under a higher epoch.
func (l *load) taken(from row) {
	l.Helper()
	until(l.T, "a new owner", func() error {
		if now, _ := l.owner(); now.owner == from.owner || now.epoch <= from.epoch {
			return fmt.Errorf("owner %s, epoch %d", now.owner, now.epoch)
		}
		return nil
	})
}

// until repeats a check until it passes.
func until(t *testing.T, what string, check func() error) {
	t.Helper()
	await.Nil(t, patience, what, check)
}
