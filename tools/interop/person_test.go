//go:build interop

package interop

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hanse/tools/mxclient"
)

// patience bounds every wait: federation has pauses of its own.
const patience = 40 * time.Second

// server is one of the two sides.
type server struct {
	name, serverName, baseURL, secret string
}

func sides() (h, s server) {
	return server{"hanse", hanse.ServerName, hanse.BaseURL, hanse.SharedSecret},
		server{"synapse", other.serverName, other.baseURL, other.secret}
}

var everybody atomic.Int64

// person is a user with a client that syncs.
type person struct {
	*mxclient.Client
	id     string
	server server

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each answer
	events  map[string][]mxclient.Event
	rooms   map[string]string // membership by room
	typing  map[string]string
	receipt map[string]string
	toMe    []mxclient.Event
	present map[string]string
	devices map[string]int // how often each user was in device_lists.changed
	syncErr error
}

// newPerson registers a user whose client syncs until the test ends.
func newPerson(t *testing.T, on server) *person {
	t.Helper()
	p := newQuiet(t, on)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s := &mxclient.Syncer{
			Client: p.Client, Request: mxclient.SyncRequest{Timeout: 10 * time.Second}, OnSync: p.take,
			OnError: func(error) error { return nil },
		}
		if err := s.Run(ctx); err != nil {
			p.mu.Lock()
			p.syncErr = err
			p.mu.Unlock()
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return p
}

// newQuiet registers a user whose client does not sync.
func newQuiet(t *testing.T, on server) *person {
	t.Helper()
	c, err := mxclient.New(on.baseURL, mxclient.Options{}).RegisterShared(t.Context(), on.secret, fmt.Sprintf("p%d", everybody.Add(1)), "interop-password-1", false)
	if err != nil {
		t.Fatalf("register on %s: %v", on.name, err)
	}
	user, _, err := c.Whoami(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return &person{
		Client: c, id: user, server: on, changed: make(chan struct{}), events: make(map[string][]mxclient.Event), rooms: make(map[string]string),
		typing: make(map[string]string), receipt: make(map[string]string), present: make(map[string]string), devices: make(map[string]int),
	}
}

func (p *person) take(_ context.Context, r *mxclient.SyncResponse) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for room, j := range r.Rooms.Join {
		p.rooms[room] = "join"
		p.events[room] = append(append(p.events[room], j.State.Events...), j.Timeline.Events...)
		for _, e := range j.Ephemeral.Events {
			switch e.Type {
			case "m.typing":
				p.typing[room] = string(e.Content)
			case "m.receipt":
				p.receipt[room] += string(e.Content)
			}
		}
	}
	for room, l := range r.Rooms.Leave {
		p.rooms[room] = "leave"
		p.events[room] = append(p.events[room], l.Timeline.Events...)
	}
	for room := range r.Rooms.Invite {
		p.rooms[room] = "invite"
	}
	for room := range r.Rooms.Knock {
		p.rooms[room] = "knock"
	}
	p.toMe = append(p.toMe, r.ToDevice.Events...)
	for _, e := range r.Presence.Events {
		p.present[e.Sender] = string(e.Content)
	}
	for _, u := range r.DeviceLists.Changed {
		p.devices[u]++
	}
	close(p.changed)
	p.changed = make(chan struct{})
	return nil
}

// until waits for a condition on what the client has been told.
func (p *person) until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for {
		p.mu.Lock()
		ok, changed := cond(), p.changed
		p.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("%s on %s: %s: not within %s", p.id, p.server.name, what, patience)
		}
	}
}

// sees waits for an event.
func (p *person) sees(t *testing.T, room, eventID string) mxclient.Event {
	t.Helper()
	var found mxclient.Event
	p.until(t, "event "+eventID, func() bool {
		for _, e := range p.events[room] {
			if e.EventID == eventID {
				found = e
				return true
			}
		}
		return false
	})
	return found
}

// is waits for a membership.
func (p *person) is(t *testing.T, room, membership string) {
	t.Helper()
	p.until(t, membership+" in "+room, func() bool { return p.rooms[room] == membership })
}

func (p *person) say(t *testing.T, room, text string) string {
	t.Helper()
	e, err := p.SendText(t.Context(), room, fmt.Sprintf("txn%d", everybody.Add(1)), text)
	if err != nil {
		t.Fatalf("%s says %q: %v", p.id, text, err)
	}
	return e
}

func (p *person) must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s on %s: %s: %v", p.id, p.server.name, what, err)
	}
}

// joins joins a room through the server of another.
func (p *person) joins(t *testing.T, room string, via *person) {
	t.Helper()
	_, err := p.Join(t.Context(), room, via.server.serverName)
	p.must(t, "join "+room, err)
	p.is(t, room, "join")
}

// members waits until both see the same joined members.
func sameMembers(t *testing.T, room string, want []string, ps ...*person) {
	t.Helper()
	for _, p := range ps {
		eventually(t, fmt.Sprintf("members on %s are %v", p.server.name, want), func() error {
			got, err := p.JoinedMembers(t.Context(), room)
			if err != nil {
				return err
			}
			if len(got) != len(want) {
				return fmt.Errorf("members %v", got)
			}
			for _, w := range want {
				if _, ok := got[w]; !ok {
					return fmt.Errorf("members %v", got)
				}
			}
			return nil
		})
	}
}

// stateOf returns the event ids of the room's state by key.
func (p *person) stateOf(ctx context.Context, room string) (map[string]string, error) {
	events, err := p.State(ctx, room)
	return idsByKey(events), err
}

func idsByKey(events []mxclient.Event) map[string]string {
	ids := make(map[string]string, len(events))
	for _, e := range events {
		ids[e.Type+"|"+*e.StateKey] = e.EventID
	}
	return ids
}

// differ says in what the states on two servers differ, event by event; nil if they are the same.
func differ(a, b server, x, y map[string]string) error {
	keys := maps.Clone(x)
	maps.Copy(keys, y)
	var diff []string
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		if x[k] != y[k] {
			diff = append(diff, fmt.Sprintf("%s: %s %s, %s %s", k, a.name, x[k], b.name, y[k]))
		}
	}
	if diff != nil {
		return errors.New("states differ:\n" + strings.Join(diff, "\n"))
	}
	return nil
}

// agree compares the states that two people see.
func agree(ctx context.Context, room string, a, b *person) error {
	x, err := a.stateOf(ctx, room)
	if err != nil {
		return err
	}
	y, err := b.stateOf(ctx, room)
	if err != nil {
		return err
	}
	return differ(a.server, b.server, x, y)
}

// sameState waits until both servers have the same state, event by event.
func sameState(t *testing.T, room string, a, b *person) {
	t.Helper()
	eventually(t, "same state on both", func() error { return agree(t.Context(), room, a, b) })
}

// eventually repeats a check until it passes.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	if err := within(patience, check); err != nil {
		t.Fatalf("%s: not within %s: %v", what, patience, err)
	}
}

// within repeats a check until it passes, for a time.
func within(patience time.Duration, check func() error) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		<-tick.C
	}
}

func content(t *testing.T, e mxclient.Event) map[string]any {
	t.Helper()
	var c map[string]any
	if err := json.Unmarshal(e.Content, &c); err != nil {
		t.Fatal(err)
	}
	return c
}
