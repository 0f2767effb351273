package userdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
	"hanse/pkg/userdb/db"
	logv1 "hanse/proto/log/v1"
)

// ErrNotFound is returned for an account, device, key or the like that does not exist.
var ErrNotFound = errors.New("not found")

// Bus is what this package tells others: that users' streams moved, that tokens died, that rows wait for fedout.
type Bus interface {
	PublishUsers(part uint32, users ...*logv1.UserSeq) error
	PublishAuth(*logv1.AuthInvalidation) error
	WakeFedout(part uint32) error
}

// DB is the user data of a cluster. It is safe for concurrent use.
type DB struct {
	shards *pg.Shards
	bus    Bus
}

// New returns the user data that lies on the shards. Changes are announced on the bus.
func New(shards *pg.Shards, bus Bus) *DB { return &DB{shards: shards, bus: bus} }

// At returns the partition of a user, and the queries of its shard, outside a transaction.
func (d *DB) At(user id.User) (*db.Queries, int32) {
	part := partition.Of(string(user))
	return db.New(d.shards.For(part)), int32(part)
}

// Shards returns the databases.
func (d *DB) Shards() *pg.Shards { return d.shards }

// Tx is a transaction in a user's partition.
type Tx struct {
	pgx.Tx
	*db.Queries
	// Part is the user's partition.
	Part int32
	User id.User
	// Seq is the position that the transaction raised the user's stream to; 0 in transactions that do not.
	Seq int64
}

// Change runs fn in a transaction that first raises the user's stream, and announces the new position after the
// commit.
func (d *DB) Change(ctx context.Context, user id.User, fn func(tx *Tx) error) (seq int64, err error) {
	part := partition.Of(string(user))
	err = pg.InTx(ctx, d.shards.For(part), func(ptx pgx.Tx) error {
		tx := &Tx{Tx: ptx, Queries: db.New(ptx), Part: int32(part), User: user}
		if seq, err = tx.Raise(ctx, tx.Part, string(user)); err != nil {
			return fmt.Errorf("raise user stream: %w", err)
		}
		tx.Seq = seq
		return fn(tx)
	})
	if err != nil {
		return 0, err
	}
	d.announce(part, user, seq)
	return seq, nil
}

// Within runs fn in a transaction in the user's partition, without touching the stream: for what /sync does not show.
func (d *DB) Within(ctx context.Context, user id.User, fn func(tx *Tx) error) error {
	part := partition.Of(string(user))
	return pg.InTx(ctx, d.shards.For(part), func(ptx pgx.Tx) error {
		return fn(&Tx{Tx: ptx, Queries: db.New(ptx), Part: int32(part), User: user})
	})
}

// Touch raises a user's stream for a change that lies elsewhere, such as a one-time key that somebody claimed.
func (d *DB) Touch(ctx context.Context, user id.User) error {
	_, err := d.Change(ctx, user, func(*Tx) error { return nil })
	return err
}

// announce tells the bus where a user's stream stands. A loss is counted by the bus and costs only time.
func (d *DB) announce(part uint32, user id.User, seq int64) {
	_ = d.bus.PublishUsers(part, &logv1.UserSeq{UserId: string(user), Seq: seq})
}

// Seq returns the position of a user's stream; 0 if nothing happened yet.
func (d *DB) Seq(ctx context.Context, user id.User) (int64, error) {
	q, part := d.At(user)
	return q.Seq(ctx, part, string(user))
}

// group is the users of one shard, with their partitions beside them.
type group struct {
	pool  *pgxpool.Pool
	parts []int32
	users []string
}

// groups sorts users by shard. Pairs are kept aligned, but queries by (part = ANY, user_id = ANY) may use them as sets:
// a user id determines its partition.
func (d *DB) groups(users []id.User) []*group {
	byPool := make(map[*pgxpool.Pool]*group)
	var all []*group
	for _, u := range users {
		part := partition.Of(string(u))
		pool := d.shards.For(part)
		g := byPool[pool]
		if g == nil {
			g = &group{pool: pool}
			byPool[pool] = g
			all = append(all, g)
		}
		g.parts = append(g.parts, int32(part))
		g.users = append(g.users, string(u))
	}
	return all
}

// eachShard calls fn for each shard with all the partitions that lie there.
func (d *DB) eachShard(fn func(q *db.Queries, parts []int32) error) error {
	all := make([]uint32, d.shards.P())
	for i := range all {
		all[i] = uint32(i)
	}
	for pool, parts := range d.shards.Groups(all) {
		ps := make([]int32, len(parts))
		for i, p := range parts {
			ps[i] = int32(p)
		}
		if err := fn(db.New(pool), ps); err != nil {
			return err
		}
	}
	return nil
}

// notFound turns the database's word for "no row" into ErrNotFound.
func notFound(err error) error {
	if pg.IsNoRows(err) {
		return ErrNotFound
	}
	return err
}

// Millis is a time as Matrix writes it: milliseconds since 1970.
func Millis(t time.Time) int64 { return t.UnixMilli() }

// Seqs returns the positions of several users' streams, with one query for each shard.
func (d *DB) Seqs(ctx context.Context, users []id.User) (map[id.User]int64, error) {
	out := make(map[id.User]int64, len(users))
	for _, g := range d.groups(users) {
		rows, err := db.New(g.pool).Seqs(ctx, g.parts, g.users)
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			out[id.User(r.UserID)] = r.Seq
		}
	}
	return out, nil
}
