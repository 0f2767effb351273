package scenario

import (
	"context"
	"fmt"
	"time"

	"hanse/tools/loadgen/report"
)

// Growth repeats deliver in rooms of growing size with the same few readers, to
// show what of a message's cost depends on the number of members.
type Growth struct {
	Members  []int         `default:"10,100,1000,10000" help:"Sizes of the rooms."`
	Pollers  int           `default:"10" help:"Members who poll."`
	Senders  int           `default:"4" help:"Concurrent senders."`
	Rate     float64       `default:"10" help:"Sends a second."`
	Duration time.Duration `default:"20s" help:"How long to send in each room."`
	Size     int           `default:"100" help:"Bytes of text in a message, at least."`
	Filter   string        `default:"${lazy}" help:"Filter of the polls, as JSON."`
}

// Run implements Scenario.
func (g *Growth) Run(ctx context.Context, env *Env) (*report.Report, error) {
	r := env.report("growth", "message", map[string]any{
		"members": g.Members, "pollers": g.Pollers, "senders": g.Senders, "rate": g.Rate,
	})
	for i, n := range g.Members {
		one := *env
		one.Label = fmt.Sprintf("%d members", n)
		one.Run = fmt.Sprintf("%sg%d", env.Run, i)
		env.progress("%s", one.Label)
		d := &Deliver{
			Rooms: 1, Members: n, Pollers: g.Pollers, Senders: g.Senders, Rate: g.Rate, Duration: g.Duration,
			Size: g.Size, Filter: g.Filter, PollTimeout: 30 * time.Second, Drain: 20 * time.Second, Shared: true,
		}
		run, err := d.Run(ctx, &one)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", one.Label, err)
		}
		r.Runs = append(r.Runs, run)
	}
	return r, nil
}

// Senders repeats send with more and more senders, to show what load does to the cost of a message and, with a ratio of
// the server's counters, to its batches.
type Senders struct {
	Senders  []int         `default:"1,8,64,256" help:"Numbers of concurrent senders."`
	Rooms    int           `default:"1" help:"Rooms, over which the senders are spread."`
	Members  int           `default:"50" help:"Members of each room."`
	Duration time.Duration `default:"10s" help:"How long to send with each number."`
	Size     int           `default:"100" help:"Bytes of text in a message, at least."`
}

// Run implements Scenario.
func (s *Senders) Run(ctx context.Context, env *Env) (*report.Report, error) {
	r := env.report("senders", "send", map[string]any{"senders": s.Senders, "rooms": s.Rooms, "members": s.Members, "size": s.Size})
	for i, n := range s.Senders {
		one := *env
		one.Label = fmt.Sprintf("%d senders", n)
		one.Run = fmt.Sprintf("%sn%d", env.Run, i)
		env.progress("%s", one.Label)
		send := &Send{Senders: n, Rooms: s.Rooms, Members: s.Members, Duration: s.Duration, Size: s.Size, Verify: true}
		run, err := send.Run(ctx, &one)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", one.Label, err)
		}
		r.Runs = append(r.Runs, run)
	}
	return r, nil
}
