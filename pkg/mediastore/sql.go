package mediastore

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/id"
	"hanse/pkg/pg"
)

const columns = `origin, media_id, state, remote, coalesce(user_id, ''), object, hash, bytes, type, name, created_ts, touched_ts, accessed_ts,
    coalesce(quarantined_by, ''), protected`

const (
	sqlGet    = `SELECT ` + columns + ` FROM media WHERE part = $1 AND origin = $2 AND media_id = $3`
	sqlInsert = `
INSERT INTO media (part, origin, media_id, state, remote, user_id, object, type, name, created_ts, touched_ts, accessed_ts)
VALUES ($1, $2, $3, $4, $5, nullif($6, ''), $7, $8, $9, $10, $10, $10) ON CONFLICT DO NOTHING`
	sqlBegin = `
UPDATE media SET state = 1, object = $4, type = $5, name = $6, touched_ts = $7
WHERE part = $1 AND origin = $2 AND media_id = $3 AND state = 0 AND touched_ts > $8`
	sqlBack = `
UPDATE media SET state = 0, object = '', touched_ts = created_ts
WHERE part = $1 AND origin = $2 AND media_id = $3 AND state = 1 AND object = $4`
	sqlStored = `
UPDATE media SET state = 2, hash = $5, bytes = $6, touched_ts = $7
WHERE part = $1 AND origin = $2 AND media_id = $3 AND state = 1 AND object = $4`
	sqlReady = `
UPDATE media SET state = 3, object = $5, touched_ts = $6, accessed_ts = $6
WHERE part = $1 AND origin = $2 AND media_id = $3 AND state = 2 AND object = $4`
	sqlUsage = `
INSERT INTO media_usage AS u (part, who, items, bytes) VALUES ($1, $2, $3, $4)
ON CONFLICT (part, who) DO UPDATE SET items = u.items + $3, bytes = u.bytes + $4`
	sqlBlob = `
INSERT INTO media_blob AS b (part, hash, object, bytes) VALUES ($1, $2, $3, $4)
ON CONFLICT (part, hash) DO UPDATE SET bytes = b.bytes RETURNING object`
	sqlRef        = `INSERT INTO media_blob_ref (part, hash, origin, media_id) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`
	sqlLockBlob   = `SELECT object FROM media_blob WHERE part = $1 AND hash = $2 FOR UPDATE`
	sqlUnref      = `DELETE FROM media_blob_ref WHERE part = $1 AND hash = $2 AND origin = $3 AND media_id = $4`
	sqlDropBlob   = `DELETE FROM media_blob b WHERE part = $1 AND hash = $2 AND NOT EXISTS (SELECT FROM media_blob_ref r WHERE r.part = b.part AND r.hash = b.hash) RETURNING object`
	sqlGarbage    = `INSERT INTO media_garbage (part, object) VALUES ($1, $2) ON CONFLICT DO NOTHING`
	sqlLate       = `INSERT INTO media_garbage (part, object, due_ts) VALUES ($1, $2, $3) ON CONFLICT (part, object) DO UPDATE SET due_ts = excluded.due_ts`
	sqlGone       = `UPDATE media SET state = 4, touched_ts = $4 WHERE part = $1 AND origin = $2 AND media_id = $3 AND state < 4`
	sqlDelete     = `DELETE FROM media WHERE part = $1 AND origin = $2 AND media_id = $3 AND state = 4`
	sqlThumbsGone = `
WITH gone AS (DELETE FROM media_thumbnail WHERE part = $1 AND origin = $2 AND media_id = $3 RETURNING object)
INSERT INTO media_garbage (part, object) SELECT $1, object FROM gone ON CONFLICT DO NOTHING`
)

func scan(row pgx.Row) (*Media, error) {
	m := new(Media)
	var created, touched, accessed int64
	err := row.Scan(&m.Origin, &m.Media, &m.State, &m.Remote, &m.User, &m.Object, &m.Hash, &m.Bytes, &m.Type, &m.Name,
		&created, &touched, &accessed, &m.QuarantinedBy, &m.Protected)
	if pg.IsNoRows(err) {
		return nil, ErrNotFound
	}
	m.Created, m.Touched, m.Accessed = time.UnixMilli(created), time.UnixMilli(touched), time.UnixMilli(accessed)
	return m, err
}

// Get returns a media in any state but Gone.
func (s *Store) Get(ctx context.Context, i ID) (*Media, error) {
	m, err := scan(s.shards.For(i.Part()).QueryRow(ctx, sqlGet, i.Part(), i.Origin, i.Media))
	if err == nil && m.State == Gone {
		return nil, ErrNotFound
	}
	return m, err
}

// count changes what a media's user and server have.
func count(ctx context.Context, tx pgx.Tx, m *Media, items int64) error {
	for _, who := range []string{string(m.User), string(m.Origin)} {
		if who == "" {
			continue
		}
		if _, err := tx.Exec(ctx, sqlUsage, m.Part(), who, items, items*m.Bytes); err != nil {
			return err
		}
	}
	return nil
}

// Usage is what a user or a server has.
type Usage struct{ Items, Bytes int64 }

const sqlUsageOf = `SELECT coalesce(sum(items), 0)::bigint, coalesce(sum(bytes), 0)::bigint FROM media_usage WHERE part = ANY($1) AND who = $2`

// UserUsage returns what a user has uploaded, as far as it is there.
func (s *Store) UserUsage(ctx context.Context, user id.User) (Usage, error) {
	return s.usageOf(ctx, string(user))
}

// ServerUsage returns what there is of a server: one of ours, or another.
func (s *Store) ServerUsage(ctx context.Context, server id.Server) (Usage, error) {
	return s.usageOf(ctx, string(server))
}

func (s *Store) usageOf(ctx context.Context, who string) (all Usage, err error) {
	for pool, parts := range s.shards.Groups(s.allParts()) {
		var u Usage
		if err := pool.QueryRow(ctx, sqlUsageOf, ints(parts), who).Scan(&u.Items, &u.Bytes); err != nil {
			return Usage{}, err
		}
		all.Items += u.Items
		all.Bytes += u.Bytes
	}
	return all, nil
}
