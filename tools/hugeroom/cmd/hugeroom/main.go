// Command hugeroom makes a synthetic room and writes its events, or is all of its servers for homeservers that join it.
package main

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"hanse/pkg/matrix/id"
	"hanse/tools/cluster"
	"hanse/tools/hugeroom"
	"hanse/tools/hugeroom/peer"
)

// cli is the command line.
type cli struct {
	Version     string `default:"12" help:"Room version: 10, 11 or 12."`
	Members     int    `default:"323368" help:"Members. Without further flags the rest of the room is in proportion."`
	Servers     int    `help:"Servers of the members."`
	ACLs        int    `name:"acls" help:"Server ACL events."`
	PowerLevels int    `help:"Power level events."`
	JoinRules   int    `help:"Join rule events."`
	Left        int    `default:"30" help:"How many of a hundred members have left."`
	Seed        uint64 `default:"1" help:"Makes another room."`

	Pattern pattern `embed:""`

	Write writeCmd `cmd:"" help:"Write the events as lines of JSON."`
	Serve serveCmd `cmd:"" help:"Be the servers of the room until interrupted."`
}

// pattern is what happens after the room's history.
type pattern struct {
	Pattern string `default:"none" enum:"none,forks,creation,netsplit,levels,acls,irc" help:"What comes after the history: ${enum}."`
	Width   int    `default:"2" help:"Forks, sides of a netsplit, users of a bridge."`
	Depth   int    `default:"20" help:"Events of each fork, or in all."`
	Rounds  int    `default:"3" help:"How often a netsplit heals."`
	Calm    bool   `help:"Forks have no conflicts that decide about other events."`
	Back    int    `help:"Forks grow from so many events before the end of the history."`
}

func (p *pattern) grow(r *hugeroom.Room) error {
	from, mix := r.History()-p.Back, hugeroom.Fierce
	if p.Calm {
		mix = hugeroom.Calm
	}
	var err error
	switch p.Pattern {
	case "forks":
		_, err = r.Forks(from, p.Width, p.Depth, mix)
	case "creation":
		_, err = r.FromCreation(p.Width, p.Depth, mix)
	case "netsplit":
		_, err = r.Netsplit(from, p.Width, p.Depth, p.Rounds, mix)
	case "levels":
		_, err = r.PowerLevelChain(from, p.Depth)
	case "acls":
		_, err = r.ACLChurn(from, p.Depth)
	case "irc":
		_, err = r.JoinPart(from, p.Width, p.Depth)
	}
	if err != nil || p.Pattern == "none" {
		return err
	}
	_, err = r.Heal(r.Ends()...)
	return err
}

func (c *cli) room(names func(int) id.Server) (*hugeroom.Room, error) {
	cfg := hugeroom.Scaled(c.Members)
	for to, n := range map[*int]int{&cfg.Servers: c.Servers, &cfg.ACLs: c.ACLs, &cfg.PowerLevels: c.PowerLevels, &cfg.JoinRules: c.JoinRules} {
		if n != 0 {
			*to = n
		}
	}
	cfg.Version, cfg.Left, cfg.Seed, cfg.Names = c.Version, c.Left, c.Seed, names
	begin := time.Now()
	r, err := hugeroom.New(cfg)
	if err == nil {
		fmt.Fprintf(os.Stderr, "%s: %d events, %d members of %d servers, %s\n", r.ID, r.Len(), cfg.Members, cfg.Servers, time.Since(begin).Round(time.Millisecond))
	}
	return r, err
}

type writeCmd struct {
	Out string `arg:"" help:"File; -: standard output."`
}

func (w *writeCmd) run(c *cli) (err error) {
	r, err := c.room(nil)
	if err != nil {
		return err
	}
	if err := c.Pattern.grow(r); err != nil {
		return err
	}
	if w.Out == "-" {
		return r.Write(os.Stdout)
	}
	f, err := os.Create(w.Out)
	if err != nil {
		return err
	}
	if err := r.Write(f); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

type serveCmd struct {
	Dir   string  `default:"run" help:"Directory with the CA that the homeservers trust, as 'make run-cluster' makes it."`
	Port  int     `default:"8449" help:"Port of all servers' addresses."`
	Omit  bool    `default:"true" negatable:"" help:"Answer joins without members if asked to."`
	To    string  `help:"Homeserver to push the pattern to, once Enter is pressed."`
	Rate  float64 `default:"50" help:"Events pushed in a second; 0: as many as are taken."`
	Debug bool    `help:"Log requests."`
}

func (s *serveCmd) run(ctx context.Context, c *cli) error {
	ca, err := cluster.OpenCA(s.Dir)
	if err != nil {
		return err
	}
	l, err := peer.Listen(ctx, ca, s.Port)
	if err != nil {
		return err
	}
	room, err := c.room(hugeroom.LoopbackName(l.Port()))
	if err != nil {
		return err
	}
	level := slog.LevelInfo
	if s.Debug {
		level = slog.LevelDebug
	}
	p := peer.New(l, room, peer.Config{Roots: ca.Pool(), OmitMembers: s.Omit, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))})
	fmt.Printf("join %s via %s\n", room.ID, p.Resident())
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if s.To != "" {
		go s.push(ctx, stop, c, p)
	}
	return p.Serve(ctx)
}

// push waits for Enter, which comes when somebody has joined, and grows and sends the pattern.
func (s *serveCmd) push(ctx context.Context, stop func(), c *cli, p *peer.Peer) {
	fmt.Println("press Enter to push the pattern to", s.To)
	if !bufio.NewScanner(os.Stdin).Scan() {
		return
	}
	var numbers []int
	err := p.Room(func(r *hugeroom.Room) error {
		first := r.Len() + 1
		if err := c.Pattern.grow(r); err != nil {
			return err
		}
		for n := first; n <= r.Len(); n++ {
			numbers = append(numbers, n)
		}
		return nil
	})
	if err == nil {
		begin := time.Now()
		var out *peer.Pushed
		if out, err = p.Push(ctx, peer.Pushing{To: id.Server(s.To), Origin: p.Resident(), Rate: s.Rate}, numbers...); err == nil {
			fmt.Printf("%d events taken in %s, %d refused\n", len(out.Taken), time.Since(begin).Round(time.Millisecond), len(out.Refused))
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "hugeroom: push:", err)
		stop()
	}
}

func main() {
	var c cli
	k := kong.Parse(&c, kong.Name("hugeroom"), kong.Description("Large and hostile rooms."), kong.UsageOnError())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if k.Selected().Name == "write" {
		err = c.Write.run(&c)
	} else {
		err = c.Serve.run(ctx, &c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "hugeroom:", err)
		os.Exit(1)
	}
}
