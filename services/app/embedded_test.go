package app

import (
	"context"
	"testing"
	"time"
)

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
