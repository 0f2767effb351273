package peer_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"hanse/pkg/await"
	"hanse/pkg/matrix/id"
	"hanse/tools/cluster"
	"hanse/tools/hugeroom"
	"hanse/tools/hugeroom/peer"
	"hanse/tools/mxclient"
)

const lazy = `{"room":{"state":{"lazy_load_members":true}}}`

// TestHanseJoins has a cluster join a large room without its members (server-server API, PUT /v2/send_join,
// "omit_members"): its user talks at once, whatever the number of members; the members come in the background, though the
// workers that fetch them are killed. HANSE_FULL=1 takes the largest room, HANSE_MEMBERS=n one of another size.
func TestHanseJoins(t *testing.T) {
	size := hugeroom.Scaled(1500)
	if full := os.Getenv("HANSE_FULL"); full != "" {
		size = hugeroom.Largest()
	} else if n, err := strconv.Atoi(os.Getenv("HANSE_MEMBERS")); err == nil {
		size = hugeroom.Scaled(n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	ca, err := cluster.OpenCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l, err := peer.Listen(ctx, ca, 0)
	if err != nil {
		t.Fatal(err)
	}
	size.Version, size.Names = "12", hugeroom.LoopbackName(l.Port())
	room, err := hugeroom.New(size)
	if err != nil {
		t.Fatal(err)
	}
	asked, held := make(chan struct{}), make(chan struct{})
	var once sync.Once
	p := peer.New(l, room, peer.Config{Roots: ca.Pool(), OmitMembers: true, Before: func(endpoint string, _ *http.Request) error {
		if endpoint == "state_ids" {
			once.Do(func() { close(asked) })
			<-held
		}
		return nil
	}})
	go func() { _ = p.Serve(ctx) }() // ends with the test
	c, err := cluster.Start(ctx, cluster.Config{Dir: t.TempDir(), CA: ca, Shards: 1, Unsafe: true, Settings: map[string]string{"log.level": "info"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			c.DumpLogs(os.Stderr)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	alice, err := mxclient.New(c.BaseURL, mxclient.Options{Timeout: 5 * time.Minute}).RegisterShared(ctx, c.SharedSecret, "alice", "wonderland", false)
	if err != nil {
		t.Fatal(err)
	}

	// The room is there at once.
	begin := time.Now()
	if _, err := alice.Join(ctx, string(room.ID), string(p.Resident())); err != nil {
		t.Fatal(err)
	}
	joined := time.Since(begin)
	said, err := alice.SendText(ctx, string(room.ID), "1", "hello")
	if err != nil {
		t.Fatal(err)
	}
	sent := time.Since(begin)
	first, err := alice.Sync(ctx, mxclient.SyncRequest{Filter: lazy})
	if err != nil || first.Rooms.Join[string(room.ID)] == nil {
		t.Fatalf("a device that loads members lazily is not told of the room: %v", err)
	}
	shown := time.Since(begin)
	whole, err := alice.Sync(ctx, mxclient.SyncRequest{})
	if err != nil || whole.Rooms.Join[string(room.ID)] != nil {
		t.Fatalf("a device that wants all members is told of the room before there are any: %v", err)
	}
	until(t, ctx, "the message comes to the others", func() bool {
		var came bool
		p.Booked(func(b *peer.Book) { _, came = b.Came[id.Event(said)] })
		return came
	})
	seen := time.Since(begin)
	t.Logf("%d members: joined after %v, sent after %v, shown after %v, seen by the others after %v", size.Members, joined, sent, shown, seen)

	// The members come, though their fetchers are killed: before, and in the middle.
	<-asked
	restart(ctx, t, c)
	close(held)
	begin = time.Now()
	until(t, ctx, "the state is sent", func() bool {
		var n int64
		p.Booked(func(b *peer.Book) { n = b.Bytes["state"] })
		return n > 0
	})
	restart(ctx, t, c)
	var members map[string]struct{}
	until(t, ctx, "the members come", func() bool {
		members, err = alice.JoinedMembers(ctx, string(room.ID))
		return err == nil
	})
	p.Booked(func(b *peer.Book) {
		t.Logf("whole %v after that, with two kills; state_ids %d B, state %d B, in %d requests", time.Since(begin), b.Bytes["state_ids"], b.Bytes["state"],
			b.Requests["state_ids"]+b.Requests["state"]+b.Requests["event"])
	})
	for i := range c.Replicas("room") {
		t.Logf("worker %d: %s", i, peak(c.PID("room", i)))
	}
	if want := joinedIn(t, p); len(members) != want {
		t.Errorf("%d members, not %d", len(members), want)
	}
	next, err := alice.Sync(ctx, mxclient.SyncRequest{Filter: lazy, Since: first.NextBatch, Timeout: time.Second})
	if err != nil || next.Rooms.Join[string(room.ID)] == nil {
		t.Fatalf("nothing is told of the room when it is whole: %v", err)
	}
	if got := string(next.Rooms.Join[string(room.ID)].Summary); !strings.Contains(got, fmt.Sprintf(`"m.joined_member_count":%d`, len(members))) {
		t.Errorf("summary %s", got)
	}
	all, err := alice.Sync(ctx, mxclient.SyncRequest{Since: whole.NextBatch, Timeout: time.Second})
	if err != nil || all.Rooms.Join[string(room.ID)] == nil || len(all.Rooms.Join[string(room.ID)].State.Events) < len(members) {
		t.Fatalf("a device that wants all members does not get them: %v", err)
	}
	if _, err := alice.SendText(ctx, string(room.ID), "2", "as always"); err != nil {
		t.Fatal(err)
	}
}

// restart kills the workers that own rooms, without any grace.
func restart(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	t.Helper()
	for i := range c.Replicas("room") {
		if err := c.Kill("room", i); err != nil {
			t.Fatal(err)
		}
		if err := c.Launch(ctx, "room", i); err != nil {
			t.Fatal(err)
		}
	}
}

func until(t *testing.T, ctx context.Context, what string, done func() bool) {
	t.Helper()
	end, _ := ctx.Deadline()
	await.True(t, time.Until(end), what, done)
}

// joinedIn counts the members of the room as its own servers see it.
func joinedIn(t *testing.T, p *peer.Peer) (n int) {
	t.Helper()
	err := p.Room(func(r *hugeroom.Room) error {
		m, err := r.Before(r.Ends()...)
		if err != nil {
			return err
		}
		for _, e := range r.PDUs(hugeroom.Numbers(m)) {
			if e.Type == "m.room.member" && e.Membership() == "join" {
				n++
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// peak says how much memory a process has taken at most.
func peak(pid int) string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return err.Error()
	}
	for line := range strings.Lines(string(raw)) {
		if strings.HasPrefix(line, "VmHWM:") {
			return strings.TrimSpace(line)
		}
	}
	return "unknown"
}
