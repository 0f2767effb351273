package scenario

import (
	"context"
	"errors"
	"time"

	"hanse/tools/loadgen/account"
	"hanse/tools/loadgen/measure"
	"hanse/tools/mxclient"
)

// Room is a room whose members all read along while some of them write. All of
// Users must have joined.
type Room struct {
	ID    string
	Users []*mxclient.Client
}

// TrafficConfig describes a Traffic.
type TrafficConfig struct {
	Rooms       []Room
	Senders     int           // spread over the rooms and their members; 0: 1
	Rate        float64       // sends a second in all; 0: as fast as answers come
	PollTimeout time.Duration // 0: 30 s
	Run         string        // marks this traffic's messages; must be new
}

// Traffic is people who write and read along in the background, with exact books:
// start it, do harm to the server, stop it, read the verdict. How failed requests
// are repeated is a matter of the clients' Retry; what still fails is counted in
// Outcome.Errors, and such a send may then be there once or not at all.
type Traffic struct {
	chat     *chat
	audience *audience
	stop     context.CancelFunc
	done     chan struct{}
}

// Outcome is what a Traffic came to.
type Outcome struct {
	Verdict   *account.Verdict
	Errors    map[string]int // failed requests by kind, after repetition
	Latencies []measure.Latency
	Sends     *measure.Recorder // what the first of Latencies sums up
}

// StartTraffic returns when all members poll and the senders have begun.
func StartTraffic(ctx context.Context, conf TrafficConfig) (*Traffic, error) {
	if conf.PollTimeout == 0 {
		conf.PollTimeout = 30 * time.Second
	}
	if conf.Run == "" || len(conf.Rooms) == 0 {
		return nil, errors.New("traffic needs rooms and a run of its own")
	}
	senders := max(conf.Senders, 1)
	rooms := make([]castRoom, len(conf.Rooms))
	most := 0
	for i, r := range conf.Rooms {
		rooms[i] = castRoom{id: r.ID, users: r.Users}
		most = max(most, len(r.Users))
	}
	c, err := newChat(ctx, &Env{Run: conf.Run}, rooms, senders, 0)
	if err != nil {
		return nil, err
	}
	d := &Deliver{Pollers: most, Filter: LazyFilter, PollTimeout: conf.PollTimeout}
	a, err := d.open(ctx, c)
	if err != nil {
		return nil, err
	}
	sending, stop := context.WithCancel(ctx)
	t := &Traffic{chat: c, audience: a, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(t.done)
		pace{workers: senders, rate: conf.Rate}.drive(sending, func(_ context.Context, w int, due time.Time) {
			c.send(ctx, w, due) // a send that has begun is finished
		})
	}()
	return t, nil
}

// Counts returns the sends that were attempted and acknowledged, and the
// deliveries, so far: what a test waits on.
func (t *Traffic) Counts() (sent, acked, delivered int64) { return t.chat.books.Counts() }

// Silence ends the sending; all go on reading.
func (t *Traffic) Silence() {
	t.stop()
	<-t.done
}

// Stop ends the sending, waits up to drain for what is still owed to readers,
// reads the rooms' histories and returns the verdict.
func (t *Traffic) Stop(ctx context.Context, drain time.Duration) (*Outcome, error) {
	t.Silence()
	t.audience.drain(ctx, drain)
	if err := t.audience.close(); err != nil {
		return nil, err
	}
	if err := t.chat.readHistory(ctx); err != nil {
		return nil, err
	}
	return &Outcome{
		Verdict:   t.chat.books.Verdict(),
		Errors:    t.chat.errs.Counts(),
		Latencies: []measure.Latency{t.chat.sent.Summary("send"), t.audience.latency.Summary("delivery")},
		Sends:     &t.chat.sent,
	}, nil
}
