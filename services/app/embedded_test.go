package app

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"hanse/pkg/bus"
)

// A Redis that takes questions and does not answer is waited for as long as whoever asks says, and not for as long as its
// own time limit, of which this one has none.
func TestSilentRedis(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, stop, err := openRedis(Redis{URL: "redis://" + l.Addr().String() + "?read_timeout=-1&dial_timeout=1h&max_retries=-1"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stop(context.WithoutCancel(t.Context())) }()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	asked := make(chan error, 1)
	go func() { asked <- client.Get(ctx, "x").Err() }()
	select {
	case err := <-asked:
		if timeout := net.Error(nil); !errors.Is(err, context.DeadlineExceeded) && !(errors.As(err, &timeout) && timeout.Timeout()) {
			t.Errorf("%v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it is still waited for")
	}
}

// What is kept for a time in the Redis inside the process goes when the time is over, as with any other.
func TestEmbeddedRedisForgets(t *testing.T) {
	client, stop, err := openRedis(Redis{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stop(context.WithoutCancel(t.Context())) }()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := client.Set(ctx, "short", 1, time.Second).Err(); err != nil {
		t.Fatal(err)
	}
	if err := client.Set(ctx, "long", 1, time.Hour).Err(); err != nil {
		t.Fatal(err)
	}
	for {
		n, err := client.Exists(ctx, "short").Result()
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		<-time.After(50 * time.Millisecond)
	}
	if left, err := client.TTL(ctx, "long").Result(); err != nil || left > time.Hour-time.Second {
		t.Errorf("an hour is %v after a second: %v", left, err)
	}
}

// listeners are the TCP sockets of this machine's loopback that this process listens on.
func listeners(t *testing.T) map[string]bool {
	t.Helper()
	own := make(map[string]bool)
	fds, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil { // others come and go
			own[to] = true
		}
	}
	found := make(map[string]bool)
	for _, file := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		raw, err := os.ReadFile(file)
		must(t, err)
		for line := range strings.Lines(string(raw)) {
			if f := strings.Fields(line); len(f) > 9 && f[3] == "0A" && own["socket:["+f[9]+"]"] {
				found[f[1]] = true
			}
		}
	}
	return found
}

// Whoever else has an account on this machine reaches neither the Redis nor the NATS inside the process: they listen on
// nothing.
func TestEmbeddedServersListenOnNothing(t *testing.T) {
	before := listeners(t)
	client, stop, err := openRedis(Redis{})
	must(t, err)
	defer func() { must(t, stop(context.WithoutCancel(t.Context()))) }()
	must(t, client.Set(t.Context(), "a", 1, 0).Err())
	b, err := bus.Open(t.Context(), bus.Config{StoreDir: t.TempDir(), Name: "test"})
	must(t, err)
	defer b.Close()
	for addr := range listeners(t) {
		if !before[addr] {
			t.Errorf("a listener on %s", addr)
		}
	}
}

// A command that never ends does not keep the process from ending.
func TestEndlessScriptDoesNotKeepTheProcess(t *testing.T) {
	client, stop, err := openRedis(Redis{})
	must(t, err)
	go func() {
		_ = client.Eval(context.Background(), `redis.call("SET", "begun", 1) local i = 0 while i < 3e8 do i = i + 1 end`, nil).Err() // it outlives the test
	}()
	began := make(chan struct{})
	go func() {
		// The script holds the server: once it runs, nobody is answered.
		for {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			err := client.Ping(ctx).Err()
			cancel()
			if err != nil {
				close(began)
				return
			}
		}
	}()
	select {
	case <-began:
	case <-time.After(time.Minute):
		t.Fatal("the script does not run")
	}
	ended := make(chan error, 1)
	go func() {
		ended <- closeAll([]closer{{"first", func(context.Context) error { return nil }}, {"redis", stop},
			{"never", func(context.Context) error { select {} }}}, 100*time.Millisecond, 50*time.Millisecond)
	}()
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "never") || !strings.Contains(err.Error(), "redis") || strings.Contains(err.Error(), "first") {
			t.Errorf("%v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it does not end")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
