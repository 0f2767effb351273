package hugerooms

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	"hanse/tools/cluster"
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
	if full {
		return 20 * time.Minute
	}
	return 2 * time.Minute
}

// The clusters of all tests, in which each test has rooms of its own.
var (
	dir    string
	ca     *cluster.CA
	shared *cluster.Cluster

	sharedArrivals arrivals
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	code = 1
	var err error
	if dir, err = os.MkdirTemp("", "hanse-huge-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return code
	}
	defer func() {
		if code == 0 {
			_ = os.RemoveAll(dir) // what is left in a temporary directory harms nobody
		} else {
			fmt.Fprintln(os.Stderr, "logs are in", dir)
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	if ca, err = cluster.OpenCA(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return code
	}
	if shared, err = newCluster(ctx, "shared", "localhost", &sharedArrivals); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return code
	}
	defer func() {
		if err := shared.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	return m.Run()
}

func newCluster(ctx context.Context, name, host string, a *arrivals) (*cluster.Cluster, error) {
	return cluster.Start(ctx, cluster.Config{Dir: filepath.Join(dir, name), CA: ca, Host: host, Unsafe: true, Transport: a.transport})
}

const password = "correct horse battery"

// stubborn clients repeat what failed until it is answered.
var stubborn = mxclient.Retry{Attempts: 1000}

// register makes accounts.
func register(t *testing.T, c *cluster.Cluster, names ...string) []*mxclient.Client {
	t.Helper()
	all := mxclient.New(c.BaseURL, mxclient.Options{Timeout: patience(), Retry: stubborn})
	var out []*mxclient.Client
	for _, name := range names {
		p, err := all.RegisterShared(t.Context(), c.SharedSecret, name, password, false)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

// serve makes a room and starts its servers.
func serve(t *testing.T, cfg hugeroom.Config, how peer.Config) *peer.Peer {
	t.Helper()
	l, err := peer.Listen(t.Context(), ca, 0)
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
	how.Roots, how.Log = ca.Pool(), slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelInfo}))
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
	ctx, cancel := context.WithTimeout(t.Context(), patience())
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %s: %v", what, patience(), err)
		case <-tick.C:
		}
	}
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
