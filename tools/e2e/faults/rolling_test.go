package faults

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"hanse/tools/mxclient"
)

// All workers are restarted one after the other, and no client sees a single request fail: nobody repeats anything but
// the proxy before the workers.
func TestRollingRestart(t *testing.T) {
	once := mxclient.Retry{Attempts: 1}
	l := newLoad(t, 4, 8, 60, once)
	l.more(50)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	visited, rounds := make(chan error, 1), new(atomic.Int64)
	go func() {
		for ctx.Err() == nil {
			if err := visit(t.Context(), people[0], people[1]); err != nil {
				visited <- err
				return
			}
			rounds.Add(1)
		}
		visited <- nil
	}()
	begin := time.Now()
	if err := shared.RollingRestart(t.Context()); err != nil {
		t.Error(err)
	}
	t.Logf("rolling restart: %s, %d other rounds of requests", time.Since(begin).Round(time.Millisecond), rounds.Load())
	l.more(50)
	stop()
	if err := <-visited; err != nil {
		t.Error(err)
	}
	l.settle()
}

// visit does what people do besides talking, with methods that no proxy repeats among them.
func visit(ctx context.Context, host, guest *mxclient.Client) error {
	room, err := host.CreateRoom(ctx, mxclient.NewRoom{Preset: "private_chat", Invite: []string{guest.UserID}})
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	var said string
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"join", func() error { _, err := guest.Join(ctx, room); return err }},
		{"name", func() error {
			_, err := host.SendState(ctx, room, "m.room.name", "", map[string]string{"name": "Visit"})
			return err
		}},
		{"typing", func() error { return guest.Typing(ctx, room, true, 5000) }},
		{"send", func() (err error) { said, err = guest.SendText(ctx, room, "t"+room, "hello"); return err }},
		{"receipt", func() error { return host.Receipt(ctx, room, "m.read", said) }},
		{"redact", func() error { _, err := guest.Redact(ctx, room, said, "r"+room, ""); return err }},
		{"messages", func() error { _, err := host.Messages(ctx, room, mxclient.MessagesRequest{Dir: "b"}); return err }},
		{"account data", func() error { return host.SetAccountData(ctx, room, "org.example.visit", map[string]int{"n": 1}) }},
		{"display name", func() error { return guest.SetDisplayName(ctx, "Guest") }},
		{"leave", func() error { return guest.Leave(ctx, room) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}
