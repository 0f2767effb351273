package cluster_test

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"hanse/tools/cluster"
)

func startCluster(t *testing.T, cfg cluster.Config) *cluster.Cluster {
	t.Helper()
	cfg.Dir, cfg.Unsafe = t.TempDir(), true
	c, err := cluster.Start(t.Context(), cfg)
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
	return c
}

// serves fails the test unless the cluster answers by HTTP and by HTTPS.
func serves(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	for _, base := range []string{c.BaseURL, c.HTTPSURL} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+"/_matrix/client/versions", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.HTTPClient().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var body struct{ Versions []string }
		err = json.NewDecoder(resp.Body).Decode(&body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || len(body.Versions) == 0 {
			t.Fatalf("%s: %s, %v", base, resp.Status, err)
		}
	}
}

func TestAllInOne(t *testing.T) {
	c := startCluster(t, cluster.Config{AllInOne: true})
	serves(t, c)
	if err := c.CreateUser(t.Context(), "alice", "wonderland", false); err != nil {
		t.Fatal(err)
	}
	if err := c.CreateUser(t.Context(), "alice", "wonderland", false); err == nil || !strings.Contains(err.Error(), "is taken") {
		t.Errorf("the same account twice: %v", err)
	}
	if err := c.Kill("all", 0); err != nil {
		t.Fatal(err)
	}
	if err := c.Launch(t.Context(), "all", 0); err != nil {
		t.Fatal(err)
	}
	serves(t, c)
}

func TestReplicasFaultsAndRestarts(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	c := startCluster(t, cluster.Config{})
	serves(t, c)
	if n := len(c.PIDs()); n != 2*len(cluster.Roles)+4 {
		t.Errorf("%d processes: %v", n, c.PIDs())
	}
	if err := c.CreateUser(ctx, "alice", "wonderland", true); err != nil {
		t.Fatal(err)
	}
	steps := []struct {
		name string
		do   func() error
	}{
		{"kill a client", func() error { return c.Kill("client", 0) }},
		{"launch it", func() error { return c.Launch(ctx, "client", 0) }},
		{"pause a room", func() error { return c.Pause("room", 1) }},
		{"resume it", func() error { return c.Resume("room", 1) }},
		{"wipe NATS", c.WipeNATS},
		{"start NATS", func() error { return c.StartNATS(ctx) }},
		{"flush Redis", func() error { return c.FlushRedis(ctx) }},
		{"restart PostgreSQL", func() error { return c.RestartPostgres(ctx, 0, false) }},
		{"crash PostgreSQL", func() error { return c.RestartPostgres(ctx, 1, true) }},
		{"restart a sync", func() error { return c.Restart(ctx, "sync", 1) }},
	}
	for _, s := range steps {
		start := time.Now()
		if err := s.do(); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		t.Logf("%s: %s", s.name, time.Since(start).Round(time.Millisecond))
		serves(t, c)
	}
}
