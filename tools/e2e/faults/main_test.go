package faults

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"hanse/tools/cluster"
	"hanse/tools/cluster/clustertest"
	"hanse/tools/mxclient"
)

// What all tests share: a cluster of two replicas a role and two shards, and people on it. Each test has rooms of its
// own, and leaves everything running.
var (
	yard   *clustertest.Yard
	shared *cluster.Cluster
	people []*mxclient.Client
)

// near is a second cluster, which federates with the shared one: it is started for the first test that wants it.
var near struct {
	*cluster.Cluster
	guests []*mxclient.Client
}

const (
	inRoom = 6 // people who read each room; some of them write
	guests = 3 // accounts of the second cluster
)

// neighbour returns the second cluster and people on it.
func neighbour(t *testing.T) (*cluster.Cluster, []*mxclient.Client) {
	t.Helper()
	if near.Cluster != nil {
		return near.Cluster, near.guests
	}
	begin := time.Now()
	c, err := yard.Start(t.Context(), "near", cluster.Config{Host: "127.0.0.1", Unsafe: true})
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

func TestMain(m *testing.M) {
	os.Exit(clustertest.Main("hanse-faults-", func(ctx context.Context, y *clustertest.Yard) (err error) {
		yard = y
		// With fsync: what PostgreSQL has acknowledged must survive its crash.
		if shared, err = y.Start(ctx, "shared", cluster.Config{}); err != nil {
			return err
		}
		people, err = register(ctx, shared, "p", inRoom)
		return err
	}, m.Run))
}

// register makes accounts, whose clients repeat nothing.
func register(ctx context.Context, c *cluster.Cluster, prefix string, n int) ([]*mxclient.Client, error) {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprint(prefix, i))
	}
	return clustertest.Register(ctx, c, mxclient.Options{}, names...)
}
