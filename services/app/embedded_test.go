package app

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"
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
	defer stop()
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
	defer stop()
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
