package mediastore

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	sqlUnfinished = `
SELECT origin, media_id FROM media
WHERE part = ANY($1) AND state <> 3 AND (state = 0 AND touched_ts < $2 OR state IN (1, 2) AND touched_ts < $3 OR state = 4 AND touched_ts < $4)
LIMIT 500`
	sqlGarbageParts = `SELECT DISTINCT part FROM media_garbage WHERE part = ANY($1) AND due_ts <= $2`
	// goneFor is how long whoever deletes a media has to finish it before others do.
	goneFor = time.Minute
)

// Sweep finishes, in some partitions, what workers that died have left: uploads that do not go on, reservations that were
// not used, deletions that were begun. It returns how many media it removed.
func (s *Store) Sweep(ctx context.Context, parts []uint32) (removed int, err error) {
	return s.sweep(ctx, parts, s.cfg.Stale, goneFor)
}

func (s *Store) sweep(ctx context.Context, parts []uint32, stale, gone time.Duration) (removed int, err error) {
	var errs []error
	for pool, parts := range s.shards.Groups(parts) {
		ids, err := s.unfinished(ctx, pool, parts, stale, gone)
		if err != nil {
			return removed, err
		}
		for _, i := range ids {
			if err := s.Delete(ctx, i); err != nil && !errors.Is(err, ErrNotFound) {
				errs = append(errs, err)
				continue
			}
			removed++
		}
		rows, err := pool.Query(ctx, sqlGarbageParts, ints(parts), s.now().UnixMilli())
		if err != nil {
			return removed, err
		}
		dirty, err := pgx.CollectRows(rows, pgx.RowTo[uint32])
		if err != nil {
			return removed, err
		}
		for _, part := range dirty {
			errs = append(errs, s.collect(ctx, part))
		}
	}
	return removed, errors.Join(errs...)
}

func (s *Store) unfinished(ctx context.Context, pool *pgxpool.Pool, parts []uint32, stale, gone time.Duration) ([]ID, error) {
	now := s.now()
	rows, err := pool.Query(ctx, sqlUnfinished, ints(parts), now.Add(-s.cfg.Reserve).UnixMilli(), now.Add(-stale).UnixMilli(), now.Add(-gone).UnixMilli())
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[ID])
}

const sqlAccessed = `UPDATE media SET accessed_ts = $4 WHERE part = $1 AND origin = $2 AND media_id = $3 AND accessed_ts < $5`

// accessedEvery is how exactly the last use of a media is known.
const accessedEvery = time.Hour

// Used notes that a media was used, if that was not noted a short while ago.
func (s *Store) Used(ctx context.Context, m *Media) error {
	now := s.now()
	if now.Sub(m.Accessed) < accessedEvery {
		return nil
	}
	_, err := s.shards.For(m.Part()).Exec(ctx, sqlAccessed, m.Part(), m.Origin, m.Media, now.UnixMilli(), now.Add(-accessedEvery).UnixMilli())
	return err
}

const sqlOldest = `
SELECT m.* FROM unnest($1::int[]) p, LATERAL (SELECT ` + columns + ` FROM media
    WHERE part = p AND remote = $2 AND state = 3 AND accessed_ts < $3 AND NOT protected ORDER BY accessed_ts LIMIT $4) m
ORDER BY accessed_ts LIMIT $4`

// oldest returns media that were not used since a time, those that were used least recently first.
func (s *Store) oldest(ctx context.Context, remote bool, before time.Time, n int) (all []*Media, err error) {
	for pool, parts := range s.shards.Groups(s.allParts()) {
		rows, err := pool.Query(ctx, sqlOldest, ints(parts), remote, before.UnixMilli(), n)
		if err != nil {
			return nil, err
		}
		found, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (*Media, error) { return scan(r) })
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	slices.SortFunc(all, func(a, b *Media) int { return a.Accessed.Compare(b.Accessed) })
	return all[:min(n, len(all))], nil
}
