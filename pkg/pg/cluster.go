package pg

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// identity is the row `cluster` of a shard.
type identity struct {
	clusterID  string
	partitions uint32
	shard      int
	shards     int
}

// create writes the identity and the partition rows of shards that have none. Shard 0 comes first: it names the
// cluster.
func (s *Shards) create(ctx context.Context, cfg Config) error {
	clusterID := ""
	for i, pool := range s.pools {
		ident, err := readIdentity(ctx, pool)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			want := identity{clusterID: clusterID, partitions: cfg.Partitions, shard: i, shards: len(s.pools)}
			if i == 0 {
				want.clusterID = rand.Text()
			}
			if ident, err = createShard(ctx, pool, want); err != nil {
				return fmt.Errorf("shard %d: create: %w", i, err)
			}
		case err != nil:
			return fmt.Errorf("shard %d: %w", i, err)
		}
		if i == 0 {
			clusterID = ident.clusterID
		}
	}
	return nil
}

// ErrNoCluster is returned by Open for databases that are no cluster, if Config.MustExist is set.
var ErrNoCluster = errors.New("the database holds no Hanse cluster: start one with 'hanse run', or name the configuration of the one that is meant")

// exists returns ErrNoCluster unless the first shard, which is created first, belongs to a cluster.
func (s *Shards) exists(ctx context.Context) error {
	var exists bool
	if err := s.pools[0].QueryRow(ctx, `SELECT to_regclass('cluster') IS NOT NULL`).Scan(&exists); err != nil {
		return err
	}
	if !exists {
		return ErrNoCluster
	}
	_, err := readIdentity(ctx, s.pools[0])
	if errors.Is(err, pgx.ErrNoRows) {
		return ErrNoCluster
	}
	return err
}

// createShard makes an empty shard part of the cluster. Of several that try at once the first wins; what is
// returned is what holds.
func createShard(ctx context.Context, pool *pgxpool.Pool, want identity) (identity, error) {
	err := InTx(ctx, pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			INSERT INTO cluster (cluster_id, partitions, shard, shards) VALUES ($1, $2, $3, $4)
			ON CONFLICT DO NOTHING`,
			want.clusterID, int32(want.partitions), int32(want.shard), int32(want.shards))
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		_, err = tx.Exec(ctx, `
			INSERT INTO partition (part)
			SELECT p FROM generate_series(0, $1::int - 1) AS p WHERE p % $2::int = $3::int`,
			int32(want.partitions), int32(want.shards), int32(want.shard))
		return err
	})
	if err != nil {
		return identity{}, err
	}
	return readIdentity(ctx, pool)
}

func readIdentity(ctx context.Context, pool *pgxpool.Pool) (identity, error) {
	var ident identity
	err := pool.QueryRow(ctx, `SELECT cluster_id, partitions, shard, shards FROM cluster`).
		Scan(&ident.clusterID, &ident.partitions, &ident.shard, &ident.shards)
	if err != nil {
		return identity{}, fmt.Errorf("read cluster row: %w", err)
	}
	return ident, nil
}

// load reads the map from partition to shard and refuses shards that do not form the configured cluster.
func (s *Shards) load(ctx context.Context, cfg Config) error {
	const nowhere = ^uint16(0)
	shardOf := make([]uint16, cfg.Partitions)
	for part := range shardOf {
		shardOf[part] = nowhere
	}
	for i, pool := range s.pools {
		ident, err := readIdentity(ctx, pool)
		if err != nil {
			return fmt.Errorf("shard %d: %w", i, err)
		}
		if i == 0 {
			s.clusterID = ident.clusterID
		}
		want := identity{clusterID: s.clusterID, partitions: cfg.Partitions, shard: i, shards: len(s.pools)}
		if ident != want {
			return mismatch(ident, want)
		}
		parts, err := readParts(ctx, pool)
		if err != nil {
			return fmt.Errorf("shard %d: %w", i, err)
		}
		for _, part := range parts {
			if part >= cfg.Partitions || shardOf[part] != nowhere {
				return fmt.Errorf("shard %d: partition %d does not belong here", i, part)
			}
			shardOf[part] = uint16(i)
		}
	}
	for part, shard := range shardOf {
		if shard == nowhere {
			return fmt.Errorf("partition %d is on no shard", part)
		}
	}
	s.shardOf = shardOf
	return nil
}

func mismatch(have, want identity) error {
	switch {
	case have.clusterID != want.clusterID:
		return fmt.Errorf("shard %d: its database belongs to another cluster than shard 0", want.shard)
	case have.partitions != want.partitions:
		return fmt.Errorf("shard %d: the cluster was created with %d partitions, configured are %d",
			want.shard, have.partitions, want.partitions)
	default:
		return fmt.Errorf("shard %d of %d: its database is shard %d of %d",
			want.shard, want.shards, have.shard, have.shards)
	}
}

func readParts(ctx context.Context, pool *pgxpool.Pool) ([]uint32, error) {
	rows, err := pool.Query(ctx, `SELECT part::bigint FROM partition ORDER BY part`)
	if err != nil {
		return nil, fmt.Errorf("read partitions: %w", err)
	}
	parts, err := pgx.CollectRows(rows, pgx.RowTo[uint32])
	if err != nil {
		return nil, fmt.Errorf("read partitions: %w", err)
	}
	return parts, nil
}
