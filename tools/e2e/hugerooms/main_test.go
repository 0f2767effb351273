package hugerooms

import (
	"context"
	"log/slog"
	"os"
	"strconv"
	"testing"
	"time"

	"hanse/pkg/await"
	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	"hanse/tools/cluster"
	"hanse/tools/cluster/clustertest"
	"hanse/tools/hugeroom"
	"hanse/tools/hugeroom/peer"
	"hanse/tools/mxclient"
)

// full asks for the sizes of the network's largest room.
var full = os.Getenv("HUGEROOM_FULL") != ""

// size is a number of members: small, or that of a full run, or what HUGEROOM_MEMBERS says.
func size(t *testing.T, small, large int) int {
	t.Helper()
	if text := os.Getenv("HUGEROOM_MEMBERS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal("HUGEROOM_MEMBERS:", err)
		}
		return n
	}
	if full {
		return large
	}
	return small
}

// patience bounds each wait.
func patience() time.Duration {
	if full || os.Getenv("HUGEROOM_MEMBERS") != "" {
		return 20 * time.Minute
	}
	return 2 * time.Minute
}

// What all tests share: a cluster, in which each test has rooms of its own.
var (
	yard   *clustertest.Yard
	shared *cluster.Cluster

	sharedArrivals arrivals
)

func TestMain(m *testing.M) {
	os.Exit(clustertest.Main("hanse-huge-", func(ctx context.Context, y *clustertest.Yard) (err error) {
		yard = y
		shared, err = newCluster(ctx, "shared", "localhost", &sharedArrivals)
		return err
	}, m.Run))
}

func newCluster(ctx context.Context, name, host string, a *arrivals) (*cluster.Cluster, error) {
	return yard.Start(ctx, name, cluster.Config{Host: host, Unsafe: !full, Transport: a.transport})
}

// register makes accounts, whose clients repeat what failed until it is answered.
func register(t *testing.T, c *cluster.Cluster, names ...string) []*mxclient.Client {
	t.Helper()
	out, err := clustertest.Register(t.Context(), c, mxclient.Options{Timeout: patience(), Retry: mxclient.Retry{Attempts: 1000}}, names...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// serve makes a room and starts its servers.
func serve(t *testing.T, cfg hugeroom.Config, how peer.Config) *peer.Peer {
	t.Helper()
	l, err := peer.Listen(t.Context(), yard.CA, 0)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Names = hugeroom.LoopbackName(l.Port())
	begin := time.Now()
	room, err := hugeroom.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d events of %d members of %d servers made in %s", room.Len(), cfg.Members, cfg.Servers, since(begin))
	how.Roots, how.Log = yard.CA.Pool(), slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelInfo}))
	p := peer.New(l, room, how)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- p.Serve(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return p
}

// testLog writes what the servers log to the test's.
type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Logf("peer: %s", b)
	return len(b), nil
}

func since(t time.Time) time.Duration { return time.Since(t).Round(time.Millisecond) }

// neighbour makes a room in the same partition as another one, with all users in it.
func neighbour(t *testing.T, of string, users []*mxclient.Client) string {
	t.Helper()
	for range 2000 {
		room, err := users[0].CreateRoom(t.Context(), mxclient.NewRoom{Preset: "public_chat"})
		if err != nil {
			t.Fatal(err)
		}
		if partition.Of(room) != partition.Of(of) {
			continue
		}
		for _, u := range users[1:] {
			if _, err := u.Join(t.Context(), room); err != nil {
				t.Fatal(err)
			}
		}
		return room
	}
	t.Fatal("no room falls into the partition of " + of)
	return ""
}

// until repeats a check until it passes.
func until(t *testing.T, what string, check func() error) {
	t.Helper()
	await.Nil(t, patience(), what, check)
}

// stateOf is the current state of a room by the names of its events.
func stateOf(t *testing.T, p *mxclient.Client, room string) (map[string]id.Event, error) {
	events, err := p.State(t.Context(), room)
	if err != nil {
		return nil, err
	}
	out := make(map[string]id.Event, len(events))
	for _, e := range events {
		out[e.Type+"\x00"+*e.StateKey] = id.Event(e.EventID)
	}
	return out, nil
}
