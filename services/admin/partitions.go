package admin

import (
	"context"
	"slices"

	"hanse/pkg/partition"
)

// Partitions lists the partitions with the shard that each lies on.
func (a *Admin) Partitions(ctx context.Context) ([]partition.Row, []int, error) {
	rows, err := partition.NewRows(a.shards).List(ctx)
	if err != nil {
		return nil, nil, err
	}
	slices.SortFunc(rows, func(x, y partition.Row) int { return int(x.Part) - int(y.Part) })
	shards := make([]int, len(rows))
	for i, row := range rows {
		shards[i] = slices.Index(a.shards.All(), a.shards.For(row.Part))
	}
	return rows, shards, nil
}

// MoveOwner asks for a worker as the owner of a partition; "" leaves the choice to the workers again.
func (a *Admin) MoveOwner(ctx context.Context, part uint32, worker string) error {
	if part >= a.shards.P() {
		return partition.ErrNoPartition
	}
	return partition.NewRows(a.shards).Pin(ctx, part, worker)
}
