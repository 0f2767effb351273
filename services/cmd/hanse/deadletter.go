package main

import (
	"context"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"hanse/services/admin"
)

type deadLetterCmd struct {
	List   deadLetterList   `cmd:"" help:"Show the entries that were passed over: by whom, where, when and why."`
	Replay deadLetterReplay `cmd:"" help:"Have an entry processed, if it can be read by now."`
}

type deadLetterList struct{}

func (deadLetterList) Run(ctx context.Context, g *globals) error {
	return g.admin(ctx, func(a *admin.Admin) error {
		letters, err := a.DeadLetters(ctx)
		if err != nil {
			return err
		}
		w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
		fmt.Fprintln(w, "CONSUMER\tPARTITION\tPOSITION\tSINCE\tERROR")
		for _, l := range letters {
			fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%q\n", l.Consumer, l.Part, l.Pos, l.Created.UTC().Format(time.RFC3339), l.Error)
		}
		return w.Flush()
	})
}

type deadLetterReplay struct {
	Consumer  string `arg:"" help:"Who passed it over: sync, client, fedout, or fedout: with the name of a server that refused it."`
	Partition uint32 `arg:"" help:"Number of the partition."`
	Position  int64  `arg:"" help:"Position in the partition's log."`
}

func (c *deadLetterReplay) Run(ctx context.Context, g *globals) error {
	return g.admin(ctx, func(a *admin.Admin) error {
		done, err := a.ReplayDeadLetter(ctx, c.Consumer, c.Partition, c.Position)
		if err != nil {
			return err
		}
		for _, server := range done.Again {
			fmt.Println("sent again from there on:", server)
		}
		if len(done.Busy) > 0 {
			return fmt.Errorf("the dead letter stays: try again when these servers have caught up: %v", done.Busy)
		}
		fmt.Println("the dead letter is removed")
		return nil
	})
}
