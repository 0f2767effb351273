package scenario

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"hanse/tools/loadgen/account"
	"hanse/tools/loadgen/measure"
	"hanse/tools/loadgen/report"
	"hanse/tools/mxclient"
)

// Send measures the sending of messages: nobody reads along.
type Send struct {
	Senders  int           `default:"8" help:"Concurrent senders."`
	Rooms    int           `default:"1" help:"Rooms, over which the senders are spread."`
	Members  int           `default:"50" help:"Members of each room."`
	Rate     float64       `help:"Sends a second in all; 0: each sender sends as soon as its last send is answered."`
	Duration time.Duration `default:"20s" help:"How long to send."`
	Count    int           `help:"Stop after so many sends; 0: no limit."`
	Size     int           `default:"100" help:"Bytes of text in a message, at least."`
	Shared   bool          `name:"shared-members" help:"The same members in each room."`
	Verify   bool          `default:"true" negatable:"" help:"Check at the end that each acknowledged event is in the room's history."`
}

// Run implements Scenario.
func (s *Send) Run(ctx context.Context, env *Env) (*report.Report, error) {
	rooms, err := env.cast(ctx, s.Rooms, s.Members, s.Shared)
	if err != nil {
		return nil, err
	}
	c, err := newChat(ctx, env, rooms, s.Senders, s.Size)
	if err != nil {
		return nil, err
	}
	r := env.report("send", "send", map[string]any{
		"senders": s.Senders, "rooms": s.Rooms, "members": s.Members, "rate": s.Rate, "size": s.Size,
	})
	env.progress("sending")
	limited := env.Client.RateLimited()
	span, err := env.Meter.Start(ctx)
	if err != nil {
		return nil, err
	}
	took := pace{workers: s.Senders, count: s.Count, duration: s.Duration, rate: s.Rate}.drive(ctx, c.send)
	if err := env.finish(ctx, span, r, &c.errs, limited); err != nil {
		return nil, err
	}
	_, r.Ops, _ = c.books.Counts()
	r.Seconds = took.Seconds()
	r.Latencies = []measure.Latency{c.sent.Summary("send")}
	if s.Verify {
		if err := c.readHistory(ctx); err != nil {
			return nil, err
		}
	}
	r.Verdict = c.books.Verdict()
	return r, nil
}

// chat is people who write in rooms, with the books about it.
type chat struct {
	env   *Env
	rooms []castRoom
	first map[string]string // room → event before the measured ones
	seq   []int64           // by sender
	pad   string
	books *account.Ledger
	sent  measure.Recorder
	errs  Tally
	txn   atomic.Int64
}

// newChat sends a first message from each sender, which warms connections and
// the server's caches and marks in each room where the measured part begins.
func newChat(ctx context.Context, env *Env, rooms []castRoom, senders, size int) (*chat, error) {
	c := &chat{env: env, rooms: rooms, first: map[string]string{}, seq: make([]int64, senders), books: account.New()}
	if n := size - 60; n > 0 {
		c.pad = strings.Repeat("lorem ipsum ", n/12+1)[:n]
	}
	for w := range senders {
		rm, user := c.place(w)
		id, err := user.SendText(ctx, rm.id, "warm-"+env.Run+"-"+strconv.Itoa(w), "warming up")
		if err != nil {
			return nil, fmt.Errorf("first message: %w", err)
		}
		if _, ok := c.first[rm.id]; !ok {
			c.first[rm.id] = id
		}
	}
	for _, rm := range rooms { // more rooms than senders
		if _, ok := c.first[rm.id]; ok {
			continue
		}
		id, err := rm.users[0].SendText(ctx, rm.id, "warm-"+env.Run, "warming up")
		if err != nil {
			return nil, fmt.Errorf("first message: %w", err)
		}
		c.first[rm.id] = id
	}
	return c, nil
}

// place is where a sender writes, and as whom.
func (c *chat) place(sender int) (castRoom, *mxclient.Client) {
	rm := c.rooms[sender%len(c.rooms)]
	return rm, rm.users[(sender/len(c.rooms))%len(rm.users)]
}

// send writes one message. Each sender is one goroutine, so its messages are in
// sequence.
func (c *chat) send(ctx context.Context, sender int, due time.Time) {
	rm, user := c.place(sender)
	c.seq[sender]++
	k := account.Key{Sender: "s" + strconv.Itoa(sender), Seq: c.seq[sender]}
	mark := account.Mark{Run: c.env.Run, Key: k, At: nanos(due)}
	// Neither mark nor pad has anything that JSON escapes.
	body := []byte(`{"msgtype":"m.text","body":"` + mark.String() + `","pad":"` + c.pad + `"}`)
	c.books.Attempt(rm.id, k)
	id, err := user.Send(ctx, rm.id, "m.room.message", "t"+c.env.Run+"-"+strconv.FormatInt(c.txn.Add(1), 10), body)
	if err != nil {
		if !isDone(ctx, err) {
			c.errs.Add("send", err)
		}
		return
	}
	c.sent.Add(time.Since(due))
	c.books.Acked(rm.id, k, id)
}

// readHistory enters what the rooms' histories hold into the books.
func (c *chat) readHistory(ctx context.Context) error {
	for _, rm := range c.rooms {
		events, err := rm.users[0].History(ctx, rm.id, "", func(e *mxclient.Event) bool { return e.EventID == c.first[rm.id] })
		if err != nil {
			return fmt.Errorf("history of %s: %w", rm.id, err)
		}
		c.books.StoredNone(rm.id)
		for i := range events {
			if m, ok := markOf(&events[i]); ok && m.Run == c.env.Run {
				c.books.Stored(rm.id, events[i].EventID, m.Key)
			}
		}
	}
	return nil
}
