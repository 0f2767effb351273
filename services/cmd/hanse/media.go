package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"hanse/pkg/mediastore"
	"hanse/services/app"
)

type mediaCmd struct {
	Audit mediaAudit `cmd:"" help:"Compare the object store with the database, and repair both if asked."`
	Usage mediaUsage `cmd:"" help:"List the users, or the servers, whose files take most of the store."`
}

type mediaUsage struct {
	Servers bool `help:"Servers, ours and others, and not users."`
	Limit   int  `help:"How many to list." default:"20"`
}

func (c *mediaUsage) Run(ctx context.Context, g *globals) (err error) {
	cfg, _, err := g.load()
	if err != nil {
		return err
	}
	store, closeAll, err := app.OpenMedia(ctx, cfg, commandLog())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	found, total, err := store.Statistics(ctx, mediastore.Statistics{Servers: c.Servers, By: mediastore.ByBytes, Descending: true, Limit: c.Limit})
	if err != nil {
		return err
	}
	for _, s := range found {
		fmt.Printf("%15d bytes %9d files  %s\n", s.Bytes, s.Items, s.Who)
	}
	fmt.Printf("%d of %d\n", len(found), total)
	return nil
}

type mediaAudit struct {
	Repair bool          `help:"Delete objects that nobody knows of, and forget files whose bytes are lost."`
	Older  time.Duration `help:"Leave objects alone that are younger: they may belong to uploads under way." default:"3h"`
}

func (c *mediaAudit) Run(ctx context.Context, g *globals) (err error) {
	cfg, _, err := g.load()
	if err != nil {
		return err
	}
	store, closeAll, err := app.OpenMedia(ctx, cfg, commandLog())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	a, err := store.Audit(ctx, c.Repair, c.Older)
	if err != nil {
		return err
	}
	fmt.Printf("the store has %d objects of %d bytes, the database names %d of %d bytes\n", a.Objects, a.Bytes, a.Rows, a.RowBytes)
	printAudit("object that nobody knows of", a.Unknown)
	printAudit("object that is lost", a.Lost)
	printAudit("object of another size", a.Wrong)
	if c.Repair {
		fmt.Printf("repaired: %d\n", a.Repaired)
		return nil
	}
	if len(a.Unknown)+len(a.Lost)+len(a.Wrong) > 0 {
		return errors.New("the store and the database differ: --repair mends that")
	}
	return nil
}

func printAudit(what string, objects []string) {
	for _, o := range objects {
		fmt.Printf("%s: %s\n", what, o)
	}
	if len(objects) == mediastore.Shown {
		fmt.Println("and perhaps more")
	}
}
