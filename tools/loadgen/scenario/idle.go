package scenario

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"hanse/tools/loadgen/report"
	"hanse/tools/mxclient"
)

// IdlePoll measures what open long polls cost while nothing happens.
type IdlePoll struct {
	Users       int           `default:"1000" help:"Accounts, each with one poll."`
	Rooms       int           `help:"Rooms that each account is in, shared by all of them."`
	Hold        time.Duration `default:"10s" help:"How long to watch the server with all polls open."`
	PollTimeout time.Duration `default:"5m" help:"How long the server may hold a poll; it must outlast opening all of them and --hold."`
	Filter      string        `default:"${lazy}" help:"Filter of the polls, as JSON."`
}

// Run implements Scenario.
func (p *IdlePoll) Run(ctx context.Context, env *Env) (*report.Report, error) {
	// Accounts of their own: those of other scenarios are in rooms.
	users, err := env.Stage.Users(ctx, "idle", p.Users)
	if err != nil {
		return nil, err
	}
	for i := range p.Rooms {
		if _, err := env.Stage.Room(ctx, fmt.Sprintf("idle-%d-%d", p.Users, i), users); err != nil {
			return nil, err
		}
	}
	r := env.report("idle-poll", "poll", map[string]any{"users": p.Users, "rooms": p.Rooms, "hold": p.Hold.String()})
	limited := env.Client.RateLimited()
	span, err := env.Meter.Start(ctx)
	if err != nil {
		return nil, err
	}
	env.progress("opening %d polls", p.Users)
	began := time.Now()
	w, err := p.open(ctx, env.Run, users)
	if err != nil {
		return nil, err
	}
	defer w.close()
	r.Seconds = time.Since(began).Seconds()
	if err := env.finish(ctx, span, r, &w.errs, limited); err != nil {
		return nil, err
	}
	still, err := env.Meter.Start(ctx)
	if err != nil {
		return nil, err
	}
	watched := time.Now()
	if !waitUntil(ctx, watched.Add(p.Hold)) {
		return nil, ctx.Err()
	}
	idle, err := still.Stop(ctx)
	if err != nil {
		return nil, err
	}
	r.Errors = w.errs.Counts()
	r.Ops = w.open.Load()
	if r.Ops == 0 {
		return r, errNoPolls
	}
	if u := r.Usage; u.Watched {
		n := float64(r.Ops)
		r.Add("memory per poll with its first sync, RSS", float64(u.After.RSS-u.Before.RSS)/n/1024, "KiB")
		r.Add("memory per poll with its first sync, PSS", float64(u.After.PSS-u.Before.PSS)/n/1024, "KiB")
		r.Add("CPU per 1,000 idle polls", idle.CPU/time.Since(watched).Seconds()/n*1000, "cores")
	}
	r.Add("polls answered early", float64(w.early.Load()), "")
	return r, nil
}

var errNoPolls = errors.New("no poll is open")

// waiting is the polls that are open.
type waiting struct {
	open, early atomic.Int64
	errs        Tally
	stop        context.CancelFunc
	wg          sync.WaitGroup
}

// open makes each account's first sync and its poll, and returns when all polls
// are under way.
func (p *IdlePoll) open(ctx context.Context, run string, users []*mxclient.Client) (*waiting, error) {
	filter, err := unique(p.Filter, run)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	w := &waiting{stop: stop}
	err = each(ctx, setupWorkers, len(users), func(i int) error {
		first, err := users[i].Sync(ctx, mxclient.SyncRequest{Filter: filter, SetPresence: "offline"})
		if err != nil {
			return fmt.Errorf("first sync of %s: %w", users[i].UserID, err)
		}
		w.open.Add(1)
		w.wg.Go(func() { w.hold(ctx, users[i], first.NextBatch, p) })
		return nil
	})
	if err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// hold keeps a poll open; one that the server answers is opened again.
func (w *waiting) hold(ctx context.Context, u *mxclient.Client, since string, p *IdlePoll) {
	defer w.open.Add(-1)
	for {
		resp, err := u.Sync(ctx, mxclient.SyncRequest{Since: since, Filter: p.Filter, Timeout: p.PollTimeout, SetPresence: "offline"})
		switch {
		case isDone(ctx, err):
			return
		case err != nil:
			w.errs.Add("poll", err)
			return
		}
		w.early.Add(1)
		since = resp.NextBatch
	}
}

func (w *waiting) close() {
	w.stop()
	w.wg.Wait()
}
