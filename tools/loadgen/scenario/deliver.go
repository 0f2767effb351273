package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"hanse/tools/loadgen/account"
	"hanse/tools/loadgen/measure"
	"hanse/tools/loadgen/report"
	"hanse/tools/mxclient"
)

// Deliver measures the way of a message to those who read along with long polls,
// and keeps exact books of loss, doubles and order.
type Deliver struct {
	Rooms       int           `default:"1" help:"Rooms."`
	Members     int           `default:"50" help:"Members of each room."`
	Pollers     int           `help:"Members of each room who poll; 0: all."`
	Senders     int           `default:"8" help:"Concurrent senders."`
	Rate        float64       `default:"20" help:"Sends a second in all; 0: each sender sends as soon as its last send is answered."`
	Duration    time.Duration `default:"20s" help:"How long to send."`
	Count       int           `help:"Stop after so many sends; 0: no limit."`
	Size        int           `default:"100" help:"Bytes of text in a message, at least."`
	Filter      string        `default:"${lazy}" help:"Filter of the polls, as JSON."`
	PollTimeout time.Duration `default:"30s" help:"How long the server may hold a poll."`
	Drain       time.Duration `default:"20s" help:"How long to wait for the last deliveries."`
	Sliding     bool          `help:"Poll by sliding sync, with all rooms in the window."`
	Shared      bool          `name:"shared-members" help:"The same members in each room."`
	First       float64       `help:"First syncs between the polls: so many for each poll (0.5: half as many), each followed by a poll with its token."`
}

// LazyFilter is what common clients sync with.
const LazyFilter = `{"room":{"timeline":{"limit":50},"state":{"lazy_load_members":true}}}`

// startFilter asks for as little as gives a token.
const startFilter = `{"room":{"timeline":{"limit":1},"state":{"types":[]},"ephemeral":{"types":[]},"account_data":{"types":[]}},"presence":{"types":[]},"account_data":{"types":[]}}`

// unique returns a filter that means the same and was not used before: Synapse
// answers a first sync that it has seen with the same filter from a cache, and
// the token in it is minutes old.
func unique(filter, run string) (string, error) {
	if filter == "" {
		filter = "{}"
	}
	var f map[string]any
	if err := json.Unmarshal([]byte(filter), &f); err != nil {
		return "", fmt.Errorf("filter is not a JSON object: %w", err)
	}
	into := f
	for _, key := range []string{"room", "timeline"} {
		sub, ok := into[key].(map[string]any)
		if !ok {
			sub = map[string]any{}
			into[key] = sub
		}
		into = sub
	}
	not, _ := into["not_types"].([]any)
	into["not_types"] = append(not, "loadgen."+run)
	out, err := json.Marshal(f)
	return string(out), err
}

// Run implements Scenario.
func (d *Deliver) Run(ctx context.Context, env *Env) (*report.Report, error) {
	if d.Pollers == 0 || d.Pollers > d.Members {
		d.Pollers = d.Members
	}
	rooms, err := env.cast(ctx, d.Rooms, d.Members, d.Shared)
	if err != nil {
		return nil, err
	}
	c, err := newChat(ctx, env, rooms, d.Senders, d.Size)
	if err != nil {
		return nil, err
	}
	r := env.report("deliver", "message", map[string]any{
		"rooms": d.Rooms, "members": d.Members, "pollers": d.Pollers, "senders": d.Senders, "rate": d.Rate, "size": d.Size, "sliding": d.Sliding,
	})
	audience, err := d.open(ctx, c)
	if err != nil {
		return nil, err
	}
	defer audience.close()
	env.progress("sending to %d pollers", len(audience.readers))
	limited := env.Client.RateLimited()
	span, err := env.Meter.Start(ctx)
	if err != nil {
		return nil, err
	}
	audience.polls.Store(0)
	took := pace{workers: d.Senders, count: d.Count, duration: d.Duration, rate: d.Rate}.drive(ctx, c.send)
	audience.drain(ctx, d.Drain)
	if err := env.finish(ctx, span, r, &c.errs, limited); err != nil {
		return nil, err
	}
	if err := audience.close(); err != nil {
		return nil, err
	}
	if err := c.readHistory(ctx); err != nil {
		return nil, err
	}
	d.sum(r, c, audience, took)
	return r, nil
}

func (d *Deliver) sum(r *report.Report, c *chat, a *audience, took time.Duration) {
	r.Verdict = c.books.Verdict()
	r.Ops, r.Seconds = r.Verdict.Acked, took.Seconds()
	r.Latencies = []measure.Latency{c.sent.Summary("send"), a.latency.Summary("delivery")}
	n := float64(r.Verdict.Deliveries)
	r.Add("deliveries", n, "")
	r.Add("deliveries per second", n/took.Seconds(), "1/s")
	r.Add("polls answered", float64(a.polls.Load()), "")
	if a.firsts.Load() > 0 {
		r.Add("first syncs checked against the next answer", float64(a.firsts.Load()), "")
	}
	if a.gaps.Load() > 0 {
		r.Add("limited timelines filled from history", float64(a.gaps.Load()), "")
	}
	if u := r.Usage; u.Watched && n > 0 {
		r.Add("CPU until quiet per 1,000 deliveries", u.CPU/n*1000, "s")
	}
}

// audience is the accounts that poll.
type audience struct {
	chat    *chat
	readers []*reader
	latency measure.Recorder
	polls   atomic.Int64
	gaps    atomic.Int64
	firsts  atomic.Int64
	stop    context.CancelFunc
	wg      sync.WaitGroup
	mu      sync.Mutex
	failed  error
}

type reader struct {
	user  *mxclient.Client
	since string
	rooms map[string]bool
}

// open takes a token for each poller and starts polling.
func (d *Deliver) open(ctx context.Context, c *chat) (*audience, error) {
	a := &audience{chat: c}
	byUser := map[string]*reader{}
	for _, rm := range c.rooms {
		for _, u := range rm.users[:min(d.Pollers, len(rm.users))] {
			rd := byUser[u.UserID]
			if rd == nil {
				rd = &reader{user: u, rooms: map[string]bool{}}
				byUser[u.UserID] = rd
				a.readers = append(a.readers, rd)
			}
			rd.rooms[rm.id] = true
		}
	}
	c.env.progress("opening %d polls", len(a.readers))
	filter, err := unique(startFilter, c.env.Run)
	if err != nil {
		return nil, err
	}
	err = each(ctx, setupWorkers, len(a.readers), func(i int) error {
		rd := a.readers[i]
		if err := d.begin(ctx, rd, filter); err != nil {
			return fmt.Errorf("first sync of %s: %w", rd.user.UserID, err)
		}
		for room := range rd.rooms {
			c.books.Receiver(room, rd.user.UserID)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	pollCtx, stop := context.WithCancel(ctx)
	a.stop = stop
	for _, rd := range a.readers {
		a.wg.Go(func() { a.read(pollCtx, rd, d) })
	}
	return a, nil
}

// window is what readers ask for by sliding sync.
func (d *Deliver) window(pos string, timeout time.Duration) mxclient.SlideRequest {
	return mxclient.SlideRequest{Pos: pos, Last: 9999, Limit: 50, State: [][2]string{{"m.room.member", "$LAZY"}}, Timeout: timeout, SetPresence: "offline"}
}

// begin takes a token. A connection of sliding sync begins when all rooms were told: some at a time, if they are many.
func (d *Deliver) begin(ctx context.Context, rd *reader, filter string) error {
	if !d.Sliding {
		first, err := rd.user.Sync(ctx, mxclient.SyncRequest{Filter: filter, SetPresence: "offline"})
		if err == nil {
			rd.since = first.NextBatch
		}
		return err
	}
	for {
		raw, err := rd.user.SlideRaw(ctx, d.window(rd.since, 0))
		if err != nil {
			return err
		}
		rooms := 0
		if rd.since, err = mxclient.ScanSlide(raw, func(*mxclient.ScannedRoom) error { rooms++; return nil }); err != nil || rooms == 0 {
			return err
		}
	}
}

// poll asks for news.
func (d *Deliver) poll(ctx context.Context, rd *reader) ([]byte, error) {
	if d.Sliding {
		return rd.user.SlideRaw(ctx, d.window(rd.since, d.PollTimeout))
	}
	return rd.user.SyncRaw(ctx, mxclient.SyncRequest{Since: rd.since, Filter: d.Filter, Timeout: d.PollTimeout, SetPresence: "offline"})
}

// scan reads an answer.
func (d *Deliver) scan(raw []byte, onRoom func(*mxclient.ScannedRoom) error) (next string, err error) {
	if d.Sliding {
		return mxclient.ScanSlide(raw, onRoom)
	}
	return mxclient.ScanSync(raw, onRoom)
}

// read polls until the end. An answer is entered into the books as a whole, and
// the token moves on only then.
func (a *audience) read(ctx context.Context, rd *reader, d *Deliver) {
	for due := 0.0; ctx.Err() == nil; {
		for due += d.First; due >= 1; due-- {
			if err := a.first(ctx, rd, d.Filter); err != nil {
				a.again(ctx, "first sync", err)
			}
		}
		raw, err := d.poll(ctx, rd)
		if err != nil {
			a.again(ctx, "sync", err)
			continue
		}
		got := time.Now()
		a.polls.Add(1)
		var gaps []gap
		var shown []delivery
		next, err := d.scan(raw, func(r *mxclient.ScannedRoom) error {
			if !rd.rooms[r.Room] {
				return nil
			}
			if r.Limited {
				gaps = append(gaps, gap{r.Room, r.PrevBatch})
			}
			for i := range r.Events {
				e := &r.Events[i]
				if m, ok := account.ParseMark(e.Body); ok && e.Type == "m.room.message" {
					shown = append(shown, delivery{r.Room, e.ID, m})
				}
			}
			return nil
		})
		if err != nil {
			a.fail(fmt.Errorf("sync of %s: %w", rd.user.UserID, err))
			return
		}
		before, err := a.fill(ctx, rd, gaps)
		if err != nil {
			a.again(ctx, "messages", err)
			continue // with the same token: nothing is in the books yet
		}
		a.enter(rd, before, time.Now())
		a.enter(rd, shown, got)
		rd.since = next
	}
}

// first makes a first sync and a poll with its token, which must go on exactly
// where the first one ended.
func (a *audience) first(ctx context.Context, rd *reader, filter string) error {
	shown := map[string][]account.Shown{}
	var since string
	for range 2 {
		raw, err := rd.user.SyncRaw(ctx, mxclient.SyncRequest{Since: since, Filter: filter, SetPresence: "offline"})
		if err != nil {
			return err
		}
		follows := since != ""
		since, err = mxclient.ScanSync(raw, func(r *mxclient.ScannedRoom) error {
			if follows && r.Limited { // nothing can be said of what was left out
				delete(shown, r.Room)
				return nil
			}
			for i := range r.Events {
				e := &r.Events[i]
				if m, ok := account.ParseMark(e.Body); ok && e.Type == "m.room.message" && m.Run == a.chat.env.Run {
					shown[r.Room] = append(shown[r.Room], account.Shown{EventID: e.ID, Key: m.Key})
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for room, events := range shown {
		if rd.rooms[room] {
			a.chat.books.Chain(room, rd.user.UserID, events)
		}
	}
	a.firsts.Add(1)
	return nil
}

// again counts an error and pauses, unless it is the end.
func (a *audience) again(ctx context.Context, what string, err error) {
	if isDone(ctx, err) {
		return
	}
	a.chat.errs.Add(what, err)
	waitUntil(ctx, time.Now().Add(100*time.Millisecond))
}

// gap is where a limited timeline begins.
type gap struct{ room, prevBatch string }

type delivery struct {
	room, event string
	mark        account.Mark
}

// fill reads what limited timelines left out.
func (a *audience) fill(ctx context.Context, rd *reader, gaps []gap) ([]delivery, error) {
	c := a.chat
	var out []delivery
	for _, g := range gaps {
		a.gaps.Add(1)
		events, err := rd.user.History(ctx, g.room, g.prevBatch, func(e *mxclient.Event) bool {
			return e.EventID == c.first[g.room] || c.books.Has(g.room, rd.user.UserID, e.EventID)
		})
		if err != nil {
			return nil, err
		}
		for i := range events {
			if m, ok := markOf(&events[i]); ok {
				out = append(out, delivery{g.room, events[i].EventID, m})
			}
		}
	}
	return out, nil
}

func (a *audience) enter(rd *reader, list []delivery, at time.Time) {
	for _, d := range list {
		if d.mark.Run != a.chat.env.Run {
			continue
		}
		a.latency.Add(time.Duration(nanos(at) - d.mark.At))
		a.chat.books.Delivered(d.room, rd.user.UserID, d.event, d.mark.Key)
	}
}

func (a *audience) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failed = errors.Join(a.failed, err)
}

// drain waits until nothing is owed any more.
func (a *audience) drain(ctx context.Context, limit time.Duration) {
	deadline := time.Now().Add(limit)
	for pause := 20 * time.Millisecond; a.chat.books.Owed() > 0 && time.Now().Before(deadline); pause = min(2*pause, 500*time.Millisecond) {
		if !waitUntil(ctx, time.Now().Add(pause)) {
			return
		}
	}
}

// close ends the polls and returns what went wrong in them.
func (a *audience) close() error {
	a.stop()
	a.wg.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.failed
}

func markOf(e *mxclient.Event) (account.Mark, bool) {
	if e.Type != "m.room.message" {
		return account.Mark{}, false
	}
	var c struct {
		Body string `json:"body"`
	}
	if json.Unmarshal(e.Content, &c) != nil { // a body that is no string is not ours
		return account.Mark{}, false
	}
	return account.ParseMark(c.Body)
}
