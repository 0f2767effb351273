package hugerooms

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"hanse/pkg/matrix/id"
	"hanse/tools/mxclient"
)

// reader polls one room and notes when each event came, and how often.
type reader struct {
	room  string
	who   *mxclient.Client
	stop  context.CancelFunc
	ended chan error

	mu    sync.Mutex
	came  map[id.Event]time.Time
	said  map[id.Event]id.User // who sent a message
	twice map[id.Event]int
	sync  time.Duration // of the first sync
}

// everything that happens in the room, and nothing else, as far as one answer may have it.
const readerFilter = `{"room":{"timeline":{"limit":100},"state":{"types":[]},"ephemeral":{"types":[]},"account_data":{"types":[]}},"presence":{"types":[]},"account_data":{"types":[]}}`

// read starts polling; the first sync is done when it returns.
func read(t *testing.T, who *mxclient.Client, room string) *reader {
	t.Helper()
	begin := time.Now()
	first, err := who.Sync(t.Context(), mxclient.SyncRequest{Filter: readerFilter})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	r := &reader{room: room, who: who, stop: stop, ended: make(chan error, 1), came: make(map[id.Event]time.Time),
		said: make(map[id.Event]id.User), twice: make(map[id.Event]int), sync: time.Since(begin)}
	if j := first.Rooms.Join[room]; j != nil {
		r.note(j.Timeline.Events)
	}
	syncer := mxclient.Syncer{Client: who, Request: mxclient.SyncRequest{Since: first.NextBatch, Filter: readerFilter, Timeout: 20 * time.Second},
		OnSync: r.take, OnError: func(error) error { return nil }} // asked again
	go func() { r.ended <- syncer.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-r.ended; err != nil {
			t.Error(err)
		}
	})
	return r
}

// take notes what is new; what did not fit into the answer is read from the history.
func (r *reader) take(ctx context.Context, resp *mxclient.SyncResponse) error {
	j := resp.Rooms.Join[r.room]
	if j == nil {
		return nil
	}
	r.note(j.Timeline.Events)
	if !j.Timeline.Limited {
		return nil
	}
	older, err := r.who.History(ctx, r.room, j.Timeline.PrevBatch, func(e *mxclient.Event) bool { return r.has(id.Event(e.EventID)) })
	if err != nil {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the test is over
		}
		return err
	}
	r.note(older)
	return nil
}

func (r *reader) note(events []mxclient.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range events {
		eventID := id.Event(e.EventID)
		if _, known := r.came[eventID]; known {
			r.twice[eventID]++
			continue
		}
		r.came[eventID] = time.Now()
		if e.Type == "m.room.message" {
			r.said[eventID] = id.User(e.Sender)
		}
	}
}

func (r *reader) has(e id.Event) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.came[e]
	return ok
}

// heard are the messages of some people.
func (r *reader) heard(of []*mxclient.Client) map[id.Event]id.User {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := maps.Clone(r.said)
	maps.DeleteFunc(out, func(_ id.Event, who id.User) bool {
		return !slices.ContainsFunc(of, func(p *mxclient.Client) bool { return p.UserID == string(who) })
	})
	return out
}

// lacks says which of the events have not come.
func (r *reader) lacks(events []id.Event) error {
	n := 0
	for _, e := range events {
		if !r.has(e) {
			n++
		}
	}
	if n > 0 {
		return fmt.Errorf("%d of %d events have not come", n, len(events))
	}
	return nil
}

// delays are the times from the moment that events were sent to that in which they came.
func (r *reader) delays(sent map[id.Event]time.Time) []time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []time.Duration
	for e, at := range sent {
		if came, ok := r.came[e]; ok {
			out = append(out, came.Sub(at))
		}
	}
	return out
}

func quantiles(d []time.Duration) string {
	if len(d) == 0 {
		return "none"
	}
	d = slices.Sorted(slices.Values(d))
	at := func(q float64) time.Duration { return d[int(q*float64(len(d)-1))].Round(time.Millisecond) }
	return fmt.Sprintf("p50 %s, p90 %s, p99 %s, max %s (%d)", at(.5), at(.9), at(.99), at(1), len(d))
}

// exact demands that nothing came twice.
func (r *reader) exact(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.twice) > 0 {
		t.Errorf("%d events came more than once", len(r.twice))
	}
}
