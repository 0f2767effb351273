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
	if people, err = register(ctx, shared, "p", inRoom); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return code
	}
	if code = m.Run(); code != 0 {
		shared.DumpLogs(os.Stderr)
	}
	return code
}

// register makes accounts, whose clients repeat nothing.
func register(ctx context.Context, c *cluster.Cluster, prefix string, n int) ([]*mxclient.Client, error) {
	all := mxclient.New(c.BaseURL, mxclient.Options{})
	var out []*mxclient.Client
	for i := range n {
		p, err := all.RegisterShared(ctx, c.SharedSecret, fmt.Sprint(prefix, i), "correct horse battery", false)
		if err != nil {
			return nil, fmt.Errorf("register: %w", err)
		}
		out = append(out, p)
	}
	return out, nil
}
