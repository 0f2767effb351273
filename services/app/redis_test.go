package app

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hanse/pkg/freeport"
)

// startRedis starts a server, or a Sentinel, with lines of configuration, and returns its address.
func startRedis(t *testing.T, sentinel bool, lines ...string) (addr string, kill func()) {
	t.Helper()
	port, err := freeport.Port()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "redis.conf")
	lines = append(lines, fmt.Sprintf("port %d", port), "bind 127.0.0.1", "dir "+filepath.Dir(file))
	args := []string{file}
	if sentinel {
		args = append(args, "--sentinel")
	} else {
		lines = append(lines, `save ""`)
	}
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("redis-server", args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() } // it may have ended
	t.Cleanup(kill)
	return fmt.Sprintf("127.0.0.1:%d", port), kill
}

// waitFor waits until a condition holds.
func waitFor(t *testing.T, what string, holds func(ctx context.Context) error) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		err := holds(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		<-time.After(50 * time.Millisecond)
	}
}

// Redis fails over while it is used: the client asks the Sentinels who is the master now.
func TestRedisFailover(t *testing.T) {
	quoted := `"a b"`
	master, kill := startRedis(t, false, `requirepass `+quoted, `masterauth `+quoted)
	replica, _ := startRedis(t, false, `requirepass `+quoted, `masterauth `+quoted, "replicaof "+strings.Replace(master, ":", " ", 1))
	one := &Redis{URL: "redis://:a%20b@" + replica}
	c, err := one.client()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	waitFor(t, "replica", func(ctx context.Context) error {
		info, err := c.Info(ctx, "replication").Result()
		if err == nil && !strings.Contains(info, "master_link_status:up") {
			err = fmt.Errorf("%s", info)
		}
		return err
	})
	var sentinels []string
	for range 3 {
		addr, _ := startRedis(t, true, "sentinel monitor chat "+strings.Replace(master, ":", " ", 1)+" 2", "sentinel auth-pass chat "+quoted,
			"sentinel down-after-milliseconds chat 500", "sentinel failover-timeout chat 2000")
		sentinels = append(sentinels, addr)
	}
	followed := &Redis{URL: "redis://" + sentinels[0] + "/0?master_name=chat&addr=" + sentinels[1] + "&addr=" + sentinels[2] + "&password=a+b"}
	client, err := followed.client()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	set := func(ctx context.Context) error { return client.Set(ctx, "key", "value", time.Minute).Err() }
	waitFor(t, "write before", set)
	waitFor(t, "Sentinels that know each other and the replica", func(ctx context.Context) error {
		for _, addr := range sentinels {
			c, err := (&Redis{URL: "redis://" + addr}).client()
			if err != nil {
				return err
			}
			text, err := c.Info(ctx, "sentinel").Result()
			_ = c.Close() // nothing was written
			if err != nil {
				return err
			}
			if !strings.Contains(text, "slaves=1,sentinels=3") {
				return fmt.Errorf("%s", text)
			}
		}
		return nil
	})
	kill()
	waitFor(t, "write after", set)
	waitFor(t, "the new master", func(ctx context.Context) error {
		value, err := c.Get(ctx, "key").Result()
		if err == nil && value != "value" {
			err = fmt.Errorf("has %q", value)
		}
		return err
	})
}

func TestRedisURLs(t *testing.T) {
	for url, want := range map[string]string{
		"redis://h:6379/0": "",
		"redis://:p@s1:26379/0?master_name=m&addr=s2:1":   "",
		"redis://s1:26379/0?master_name=":                 "master_name",
		"redis://s1:26379/0?master_name=m&addr=nowhere":   "master_name",
		"redis://s1:26379/0?master_name=m&unheard_of=yes": "master_name",
		"http://h":   "redis://host:port/db",
		"redis://h ": "redis://host:port/db",
	} {
		client, err := (&Redis{URL: url}).client()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", url, err)
		}
		if client != nil {
			_ = client.Close() // it has not connected
		}
	}
}
