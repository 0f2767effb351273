package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"hanse/tools/cluster"
	"hanse/tools/cluster/clustertest"
	"hanse/tools/loadgen/scenario"
	"hanse/tools/mxclient"
)

// People of two clusters talk while the workers between them are killed in turn, and the buses lose their data: both
// histories come to have every message once, and what one device sends to another arrives once.
func TestFederationKilled(t *testing.T) {
	other, guests := neighbour(t)
	begin := time.Now()
	here, there := withRetry(people[:3], stubborn), withRetry(guests, stubborn)
	room := sharedRoom(t, here, there)
	one := startTraffic(t, scenario.TrafficConfig{Rooms: []scenario.Room{{ID: room, Users: here}}, Senders: 3, Rate: 20})
	two := startTraffic(t, scenario.TrafficConfig{Rooms: []scenario.Room{{ID: room, Users: there}}, Senders: 3, Rate: 20})
	posts := []*post{newPost(t, here[1], there[1]), newPost(t, there[1], here[1])}
	goOn := func(what string) {
		for _, p := range posts {
			p.send(t, what)
		}
		more(t, one, 10)
		more(t, two, 10)
	}
	goOn("before")
	for _, role := range []string{"fedout", "fedin", "room", "client"} {
		for i := range shared.Replicas(role) {
			for side, c := range []*cluster.Cluster{shared, other} {
				if err := c.Kill(role, i); err != nil {
					t.Fatal(err)
				}
				goOn(fmt.Sprintf("%s-%d of cluster %d killed", role, i, side))
				if err := c.Launch(t.Context(), role, i); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for side, c := range []*cluster.Cluster{shared, other} {
		if err := c.WipeNATS(); err != nil {
			t.Fatal(err)
		}
		goOn(fmt.Sprintf("NATS of cluster %d wiped", side))
		if err := c.StartNATS(t.Context()); err != nil {
			t.Fatal(err)
		}
		goOn(fmt.Sprintf("NATS of cluster %d back", side))
	}
	quiet := time.Now()
	settle(t, one)
	settle(t, two)
	until(t, "all messages on both sides", func() error { return sameMessages(t, room, here[0], there[0]) })
	until(t, "the same state on both sides", func() error { return sameState(t, room, here[0], there[0]) })
	for _, p := range posts {
		p.settle(t)
	}
	t.Logf("complete after %s; in all %s", time.Since(quiet).Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
}

// post is to-device messages from somebody to a device of somebody else, counted where they arrive.
type post struct {
	from, to *mxclient.Client
	sent     []string
	stop     context.CancelFunc
	ended    chan error

	mu   sync.Mutex
	came map[string]int
}

// newPost logs the receiver in once more and lets the new device sync.
func newPost(t *testing.T, from, to *mxclient.Client) *post {
	t.Helper()
	device, err := to.Login(t.Context(), to.UserID, clustertest.Password, "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	p := &post{from: from, to: device, stop: stop, ended: make(chan error, 1), came: make(map[string]int)}
	syncer := mxclient.Syncer{Client: device, Request: mxclient.SyncRequest{Timeout: 5 * time.Second},
		OnSync:  p.take,
		OnError: func(error) error { return nil }, // asked again: it is what clients do while a server is hurt
	}
	go func() { p.ended <- syncer.Run(ctx) }()
	t.Cleanup(stop)
	return p
}

func (p *post) take(_ context.Context, resp *mxclient.SyncResponse) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range resp.ToDevice.Events {
		var content struct{ What string }
		if err := json.Unmarshal(e.Content, &content); err != nil {
			return err
		}
		p.came[content.What]++
	}
	return nil
}

func (p *post) send(t *testing.T, what string) {
	t.Helper()
	p.sent = append(p.sent, what)
	messages := map[string]map[string]any{p.to.UserID: {p.to.DeviceID: map[string]string{"what": what}}}
	if err := p.from.SendToDevice(t.Context(), "org.example.post", "txn"+strconv.Itoa(len(p.sent)), messages); err != nil {
		t.Fatal(err)
	}
}

// settle demands that each message arrived once.
func (p *post) settle(t *testing.T) {
	t.Helper()
	until(t, "to-device messages", func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, what := range p.sent {
			if p.came[what] == 0 {
				return fmt.Errorf("%q did not come to %s", what, p.to.UserID)
			}
		}
		return nil
	})
	p.stop()
	if err := <-p.ended; err != nil {
		t.Error(err)
	}
	for what, n := range p.came {
		if n != 1 {
			t.Errorf("%q came to %s %d times", what, p.to.UserID, n)
		}
	}
}
