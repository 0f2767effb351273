// Package followtest runs workers of a role that follows the log, for tests: each with connections of its own, so that it can be
// killed.
package followtest

import (
	"context"
	"log/slog"
	"os"
	"testing"
	"time"

	"hanse/pkg/bus"
	"hanse/pkg/bus/bustest"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
	"hanse/pkg/pg/pgtest"
)

// Worker is one worker: what it has of its own.
type Worker struct {
	Bus     *bus.Bus
	Shards  *pg.Shards
	Members *partition.Members
	Log     *slog.Logger // shown if HANSE_TEST_LOG is set

	t        testing.TB
	cancel   context.CancelFunc
	done     chan struct{}
	unfollow func()
}

// New announces a worker that does nothing yet.
func New(t testing.TB, nats *bustest.Server, cfg pg.Config, role, name string) *Worker {
	t.Helper()
	k := &Worker{Bus: nats.Open(name), Shards: pgtest.Open(t, cfg), Log: slog.New(slog.DiscardHandler), t: t, done: make(chan struct{})}
	if os.Getenv("HANSE_TEST_LOG") != "" {
		k.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("worker", name)
	}
	var err error
	k.Members, err = partition.Join(partition.MembersConfig{Bus: k.Bus, Self: partition.Member{ID: name, Addr: name + ":1", Roles: []string{role}},
		Timing: partition.Timing{Beat: 100 * time.Millisecond, TTL: 3 * time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Go lets the worker run until End, Kill or the end of the test. unfollow ends its follower at once (follow.Follower.Stop).
func (k *Worker) Go(run func(context.Context) error, unfollow func()) {
	k.t.Helper()
	k.unfollow = unfollow
	var ctx context.Context
	ctx, k.cancel = context.WithCancel(context.Background())
	go func() {
		defer close(k.done)
		if err := run(ctx); err != nil {
			k.t.Errorf("worker %s: %v", k.Members.Self().ID, err)
		}
	}()
	k.Members.SetState(partition.Ready)
	k.t.Cleanup(k.End)
}

// End ends the worker in good order.
func (k *Worker) End() {
	k.cancel()
	<-k.done
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = k.Members.Leave(ctx) // fails after Kill
}

// Kill takes PostgreSQL, the bus and all requests from the worker at once, as if it had never been.
func (k *Worker) Kill() {
	k.Bus.Conn().Close()
	k.Shards.Close()
	k.unfollow()
	k.cancel()
}
