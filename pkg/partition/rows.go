package partition

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Shards says which database a partition lives in (pg.Shards).
type Shards interface {
	For(part uint32) *pgxpool.Pool
	All() []*pgxpool.Pool
}

// Lease is the right to write a partition until somebody raises the epoch, and where its counters
// stood when it was given out.
type Lease struct {
	Epoch int64
	// Head is the position of the last log entry.
	Head int64
	// NID is the highest numeric id that was given out.
	NID int64
	// Projected is the position up to which the membership index is written.
	Projected int64
}

// Row is the state of a partition in PostgreSQL.
type Row struct {
	Part uint32
	Lease
	Owner, OwnerAddr string
	// Pinned is the worker that an operator wants to own the partition, empty for none.
	Pinned string
}

// Rows reads and writes table partition.
type Rows struct{ shards Shards }

// NewRows returns the rows of a cluster.
func NewRows(shards Shards) *Rows { return &Rows{shards} }

// ErrNoPartition is returned for a partition that no shard has.
var ErrNoPartition = errors.New("no such partition")

// lockPatience is how long a takeover waits for the row before it ends the transaction that holds it.
const lockPatience = time.Second

// Acquire raises the epoch of a partition and makes worker its owner.
func (r *Rows) Acquire(ctx context.Context, part uint32, worker, addr string) (Lease, error) {
	if part >= Count() {
		return Lease{}, fmt.Errorf("partition %d: %w", part, ErrNoPartition)
	}
	pool := r.shards.For(part)
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return Lease{}, fmt.Errorf("acquire partition %d: %w", part, err)
	}
	defer conn.Release()
	// A transaction left open by an owner that stands still holds the row's lock for as long as its
	// connection lives; it is fenced the moment that ours commits, so it may as well end now.
	stuck := time.AfterFunc(lockPatience, func() { endBlockers(ctx, pool, conn.Conn().PgConn().PID()) })
	defer stuck.Stop()
	var l Lease
	err = conn.QueryRow(ctx, `
		UPDATE partition SET epoch = epoch + 1, owner = $1, owner_addr = $2 WHERE part = $3
		RETURNING epoch, head, nid, projected`, worker, addr, int32(part)).
		Scan(&l.Epoch, &l.Head, &l.NID, &l.Projected)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNoPartition
	}
	if err != nil {
		return Lease{}, fmt.Errorf("acquire partition %d: %w", part, err)
	}
	return l, nil
}

// endBlockers ends the transactions that block a backend and whose clients say nothing, or that
// have been open for long. Errors show as the takeover's own failure, which is retried.
func endBlockers(ctx context.Context, pool *pgxpool.Pool, pid uint32) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, _ = pool.Exec(ctx, `
		SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE pid = ANY(pg_blocking_pids($1))
		  AND (state LIKE 'idle in transaction%' OR xact_start < now() - interval '10 seconds')`, int32(pid))
}

// Release forgets the owner, if the epoch is still the given one. It is a courtesy to those that
// look for the owner; it has no part in the fence.
func (r *Rows) Release(ctx context.Context, part uint32, epoch int64) error {
	_, err := r.shards.For(part).Exec(ctx,
		`UPDATE partition SET owner = '', owner_addr = '' WHERE part = $1 AND epoch = $2`, int32(part), epoch)
	if err != nil {
		return fmt.Errorf("release partition %d: %w", part, err)
	}
	return nil
}

// Get reads one partition's row.
func (r *Rows) Get(ctx context.Context, part uint32) (Row, error) {
	if part >= Count() {
		return Row{}, fmt.Errorf("partition %d: %w", part, ErrNoPartition)
	}
	rows, err := query(ctx, r.shards.For(part), `WHERE part = $1`, int32(part))
	if err != nil {
		return Row{}, fmt.Errorf("read partition %d: %w", part, err)
	}
	if len(rows) == 0 {
		return Row{}, fmt.Errorf("read partition %d: %w", part, ErrNoPartition)
	}
	return rows[0], nil
}

// List reads all partitions' rows, ordered by partition within each shard.
func (r *Rows) List(ctx context.Context) ([]Row, error) {
	var all []Row
	for _, pool := range r.shards.All() {
		rows, err := query(ctx, pool, `ORDER BY part`)
		if err != nil {
			return nil, fmt.Errorf("list partitions: %w", err)
		}
		all = append(all, rows...)
	}
	return all, nil
}

// Heads returns the position of the last log entry of each partition (bus.ReaderConfig.Heads).
func (r *Rows) Heads(ctx context.Context) (map[uint32]int64, error) {
	rows, err := r.List(ctx)
	if err != nil {
		return nil, err
	}
	heads := make(map[uint32]int64, len(rows))
	for _, row := range rows {
		heads[row.Part] = row.Head
	}
	return heads, nil
}

// Pin makes a worker the wanted owner of a partition whatever rendezvous hashing says, as long as
// it is ready; an empty worker ends that. Owners see it within PinInterval.
func (r *Rows) Pin(ctx context.Context, part uint32, worker string) error {
	if part >= Count() {
		return fmt.Errorf("partition %d: %w", part, ErrNoPartition)
	}
	tag, err := r.shards.For(part).Exec(ctx,
		`UPDATE partition SET pinned_owner = $2 WHERE part = $1`, int32(part), worker)
	if err == nil && tag.RowsAffected() == 0 {
		err = ErrNoPartition
	}
	if err != nil {
		return fmt.Errorf("pin partition %d: %w", part, err)
	}
	return nil
}

func query(ctx context.Context, pool *pgxpool.Pool, where string, args ...any) ([]Row, error) {
	rows, err := pool.Query(ctx,
		`SELECT part::bigint, epoch, head, nid, projected, owner, owner_addr, pinned_owner FROM partition `+where, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (r Row, err error) {
		err = row.Scan(&r.Part, &r.Epoch, &r.Head, &r.NID, &r.Projected, &r.Owner, &r.OwnerAddr, &r.Pinned)
		return r, err
	})
}
