package main

import (
	"context"
	"fmt"
	"os"
	"text/tabwriter"

	"hanse/services/admin"
)

type partitionCmd struct {
	List      partitionList `cmd:"" help:"Show each partition: its shard, owner, epoch and head."`
	MoveOwner partitionMove `cmd:"" help:"Give a partition to a worker as long as that is there, or to nobody in particular."`
}

type partitionList struct{}

func (partitionList) Run(ctx context.Context, g *globals) error {
	return g.admin(ctx, func(a *admin.Admin) error {
		rows, shards, err := a.Partitions(ctx)
		if err != nil {
			return err
		}
		w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
		fmt.Fprintln(w, "PARTITION\tSHARD\tOWNER\tADDRESS\tEPOCH\tHEAD\tPROJECTED\tPINNED")
		for i, r := range rows {
			fmt.Fprintf(w, "%d\t%d\t%s\t%s\t%d\t%d\t%d\t%s\n", r.Part, shards[i], r.Owner, r.OwnerAddr, r.Epoch, r.Head, r.Projected, r.Pinned)
		}
		return w.Flush()
	})
}

type partitionMove struct {
	Partition uint32 `arg:"" help:"Number of the partition."`
	Worker    string `arg:"" optional:"" help:"Id of a worker with the role room; none: let the workers decide."`
}

func (c *partitionMove) Run(ctx context.Context, g *globals) error {
	return g.admin(ctx, func(a *admin.Admin) error { return a.MoveOwner(ctx, c.Partition, c.Worker) })
}
