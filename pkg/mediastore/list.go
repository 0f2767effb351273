package mediastore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"hanse/pkg/matrix/id"
)

const sqlOfUser = `
SELECT m.* FROM unnest($1::int[]) p, LATERAL (SELECT ` + columns + ` FROM media
    WHERE part = p AND user_id = $2 AND state = 3 ORDER BY %s LIMIT $3) m`

// OfUser lists what a user has uploaded, from the offset on. It reads as many rows of each partition as the offset has.
func (s *Store) OfUser(ctx context.Context, user id.User, o Order, offset, limit int) ([]*Media, error) {
	var all []*Media
	for pool, parts := range s.shards.Groups(s.allParts()) {
		rows, err := pool.Query(ctx, fmt.Sprintf(sqlOfUser, o.sql()), ints(parts), user, offset+limit)
		if err != nil {
			return nil, err
		}
		found, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (*Media, error) { return scan(r) })
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	slices.SortFunc(all, o.compare)
	return all[min(offset, len(all)):min(offset+limit, len(all))], nil
}

const (
	sqlAllOfUser = `SELECT origin, media_id FROM media WHERE part = ANY($1) AND user_id = $2 AND state < 4 LIMIT $3`
	// eraseStep is how many media of a user are read at a time, eraseWays how many are deleted at a time.
	eraseStep, eraseWays = 500, 8
)

// DeleteOfUser deletes all that a user has uploaded, what is being uploaded, too, and ids that were created ahead.
func (s *Store) DeleteOfUser(ctx context.Context, user id.User) (deleted int, err error) {
	for pool, parts := range s.shards.Groups(s.allParts()) {
		for {
			rows, err := pool.Query(ctx, sqlAllOfUser, ints(parts), user, eraseStep)
			if err != nil {
				return deleted, err
			}
			page, err := pgx.CollectRows(rows, pgx.RowToStructByPos[ID])
			if err != nil {
				return deleted, err
			}
			g, ctx := errgroup.WithContext(ctx)
			g.SetLimit(eraseWays)
			for _, i := range page {
				g.Go(func() error {
					if err := s.Delete(ctx, i); err != nil && !errors.Is(err, ErrNotFound) {
						return err
					}
					return nil
				})
			}
			if err := g.Wait(); err != nil {
				return deleted, err
			}
			if deleted += len(page); len(page) < eraseStep {
				break
			}
		}
	}
	return deleted, nil
}

// DeleteAll deletes several media.
func (s *Store) DeleteAll(ctx context.Context, all []*Media) (deleted int, err error) {
	for _, m := range all {
		if err := s.Delete(ctx, m.ID); err != nil && !errors.Is(err, ErrNotFound) {
			return deleted, err
		}
		deleted++
	}
	return deleted, nil
}

// Filter says which media are meant.
type Filter struct {
	Remote bool
	// Before is when they were used last, and created if ByAge.
	Before time.Time
	ByAge  bool
	// Larger is how many bytes they have more than.
	Larger int64
	// Nobodys are those that no user has uploaded.
	Nobodys bool
	// Origin is their server, if it is not empty.
	Origin id.Server
	// Keep says which of a page of media stay; nil: none.
	Keep func(ctx context.Context, page []*Media) (map[ID]bool, error)
}

const sqlMatching = `
SELECT ` + columns + ` FROM media
WHERE part = $1 AND (origin, media_id) > ($2, $3) AND state = 3 AND NOT protected AND quarantined_by IS NULL
    AND remote = $4 AND (CASE WHEN $5 THEN created_ts ELSE accessed_ts END) < $6 AND bytes > $7 AND ($8 = '' OR origin = $8) AND (NOT $9 OR user_id IS NULL)
ORDER BY origin, media_id LIMIT 200`

// DeleteMatching deletes the media of a filter in some partitions, but for protected and quarantined ones, and tells each of
// them.
func (s *Store) DeleteMatching(ctx context.Context, parts []uint32, f Filter, deleted func(*Media)) error {
	for _, part := range parts {
		after := ID{}
		for {
			rows, err := s.shards.For(part).Query(ctx, sqlMatching, part, after.Origin, after.Media, f.Remote, f.ByAge, f.Before.UnixMilli(), f.Larger, f.Origin, f.Nobodys)
			if err != nil {
				return err
			}
			page, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (*Media, error) { return scan(r) })
			if err != nil {
				return err
			}
			var keep map[ID]bool
			if f.Keep != nil && len(page) > 0 {
				if keep, err = f.Keep(ctx, page); err != nil {
					return err
				}
			}
			for _, m := range page {
				if keep[m.ID] {
					continue
				}
				if err := s.Delete(ctx, m.ID); err != nil && !errors.Is(err, ErrNotFound) {
					return err
				}
				deleted(m)
			}
			if len(page) < 200 {
				break
			}
			after = page[len(page)-1].ID
		}
	}
	return nil
}

// AllParts are all partitions.
func (s *Store) AllParts() []uint32 { return s.allParts() }

const sqlRemoteBytes = `SELECT coalesce(sum(bytes), 0)::bigint FROM media_usage WHERE part = ANY($1) AND who NOT LIKE '@%' AND NOT who = ANY($2)`

// RemoteBytes is what there is of other servers than ours.
func (s *Store) RemoteBytes(ctx context.Context, ours []id.Server) (all int64, err error) {
	for pool, parts := range s.shards.Groups(s.allParts()) {
		var n int64
		if err := pool.QueryRow(ctx, sqlRemoteBytes, ints(parts), ours).Scan(&n); err != nil {
			return 0, err
		}
		all += n
	}
	return all, nil
}

// Evict deletes media of other servers, those that were used least recently first, until at most so many bytes are left.
func (s *Store) Evict(ctx context.Context, ours []id.Server, budget int64) (evicted int, err error) {
	have, err := s.RemoteBytes(ctx, ours)
	for err == nil && have > budget {
		var page []*Media
		page, err = s.oldest(ctx, true, s.now(), 100)
		if err != nil || len(page) == 0 {
			return evicted, err
		}
		for _, m := range page {
			if have <= budget {
				break
			}
			if err := s.Delete(ctx, m.ID); err != nil && !errors.Is(err, ErrNotFound) {
				return evicted, err
			}
			have -= m.Bytes
			evicted++
		}
	}
	return evicted, err
}
