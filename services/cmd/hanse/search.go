package main

import (
	"context"
	"fmt"

	"hanse/services/admin"
)

type searchCmd struct {
	Rebuild searchRebuild `cmd:"" help:"Make the index of words anew from the stored events, while everything runs."`
}

type searchRebuild struct {
	From uint32 `help:"Number of the partition to begin with: where an earlier run ended."`
}

func (c *searchRebuild) Run(ctx context.Context, g *globals) error {
	return g.admin(ctx, func(a *admin.Admin) error {
		return a.RebuildSearch(ctx, c.From, func(part, of uint32) { fmt.Printf("partition %d of %d is done\n", part, of) })
	})
}
