package roomdb

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"
)

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// eachShard calls f for each shard that holds some of the partitions, with these partitions and their indices.
// The calls are made one after the other: f may write to what it shares.
func (d *DB) eachShard(parts []uint32, f func(q querier, parts []int32, index []int) error) error {
	type group struct {
		parts []int32
		index []int
	}
	groups := make(map[*pgxpool.Pool]*group, 1)
	for i, part := range parts {
		pool := d.shards.For(part)
		g := groups[pool]
		if g == nil {
			g = new(group)
			groups[pool] = g
		}
		g.parts = append(g.parts, int32(part))
		g.index = append(g.index, i)
	}
	for pool, g := range groups {
		if err := f(pool, g.parts, g.index); err != nil {
			return err
		}
	}
	return nil
}

// Heads returns the position of the last log entry of every partition. With an error it returns those of the shards that answered.
func (d *DB) Heads(ctx context.Context) (map[uint32]int64, error) {
	heads := make(map[uint32]int64, d.shards.P())
	pools := d.shards.All()
	results := make([]map[uint32]int64, len(pools))
	var group errgroup.Group
	for i, pool := range pools {
		group.Go(func() error {
			rows, err := pool.Query(ctx, `SELECT part, head FROM partition`)
			if err != nil {
				return err
			}
			result := make(map[uint32]int64)
			var part uint32
			var head int64
			_, err = pgx.ForEachRow(rows, []any{&part, &head}, func() error { result[part] = head; return nil })
			if err == nil {
				results[i] = result
			}
			return err
		})
	}
	err := group.Wait()
	for i, r := range results {
		for part, head := range r {
			// A shard may hold rows of partitions that were moved away: its own word counts for its own only.
			if d.shards.For(part) == pools[i] {
				heads[part] = head
			}
		}
	}
	return heads, err
}
