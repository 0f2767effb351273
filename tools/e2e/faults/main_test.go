package faults

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hanse/tools/cluster"
	"hanse/tools/mxclient"
)

// What all tests share: a cluster of two replicas a role and two shards, and people on it. Each test has rooms of its
// own, and leaves everything running.
var (
	shared *cluster.Cluster
	people []*mxclient.Client
	dir    string
	ca     *cluster.CA // of all clusters of these tests
)

// near is a second cluster, which federates with the shared one: it is started for the first test that wants it.
var near struct {
	*cluster.Cluster
	guests []*mxclient.Client
}

const guests = 3 // accounts of the second cluster

// neighbour returns the second cluster and people on it.
func neighbour(t *testing.T) (*cluster.Cluster, []*mxclient.Client) {
	t.Helper()
	if near.Cluster != nil {
		return near.Cluster, near.guests
	}
	begin := time.Now()
	c, err := cluster.Start(t.Context(), cluster.Config{Dir: filepath.Join(dir, "near"), CA: ca, Host: "127.0.0.1", Unsafe: true})
	if err != nil {
		t.Fatal(err)
	}
	near.Cluster = c
	if near.guests, err = register(t.Context(), c, "q", guests); err != nil {
		t.Fatal(err)
	}
	t.Logf("second cluster: %s", time.Since(begin).Round(time.Millisecond))
	return c, near.guests
}

const inRoom = 6 // people who read each room; some of them write

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	code = 1
	var err error
	if dir, err = os.MkdirTemp("", "hanse-faults-"); err != nil {
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
	// With fsync: what PostgreSQL has acknowledged must survive its crash.
	if shared, err = cluster.Start(ctx, cluster.Config{Dir: filepath.Join(dir, "shared"), CA: ca}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return code
	}
	defer func() {
		if err := shared.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	defer func() {
		if near.Cluster == nil {
			return
		}
		if code != 0 {
			near.DumpLogs(os.Stderr)
		}
		if err := near.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	if people, err = register(ctx, shared, "p", inRoom); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return code
	}
	if code = m.Run(); code != 0 {
		shared.DumpLogs(os.Stderr)
	}
	return code
}

const accountPassword = "correct horse battery"

// register makes accounts, whose clients repeat nothing.
func register(ctx context.Context, c *cluster.Cluster, prefix string, n int) ([]*mxclient.Client, error) {
	all := mxclient.New(c.BaseURL, mxclient.Options{})
	var out []*mxclient.Client
	for i := range n {
		p, err := all.RegisterShared(ctx, c.SharedSecret, fmt.Sprint(prefix, i), accountPassword, false)
		if err != nil {
			return nil, fmt.Errorf("register: %w", err)
		}
		out = append(out, p)
	}
	return out, nil
}
