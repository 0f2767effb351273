package mediastore

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/id"
)

const sqlOfUser = `
SELECT m.* FROM unnest($1::int[]) p, LATERAL (SELECT ` + columns + ` FROM media
    WHERE part = p AND user_id = $2 AND state = 3 ORDER BY created_ts DESC, media_id LIMIT $3) m`

// OfUser lists what a user has uploaded, the newest first, from the offset on. It reads as many rows as the offset has.
func (s *Store) OfUser(ctx context.Context, user id.User, offset, limit int) ([]*Media, error) {
	var all []*Media
	for pool, parts := range s.shards.Groups(s.allParts()) {
		rows, err := pool.Query(ctx, sqlOfUser, ints(parts), user, offset+limit)
		if err != nil {
			return nil, err
		}
		found, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (*Media, error) { return scan(r) })
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	slices.SortFunc(all, func(a, b *Media) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.Media, b.Media))
	})
	return all[min(offset, len(all)):min(offset+limit, len(all))], nil
}

// DeleteOfUser deletes all that a user has uploaded.
func (s *Store) DeleteOfUser(ctx context.Context, user id.User) (deleted int, err error) {
	for {
		page, err := s.OfUser(ctx, user, 0, 100)
		if err != nil || len(page) == 0 {
			return deleted, err
		}
		n, err := s.DeleteAll(ctx, page)
		if deleted += n; err != nil {
			return deleted, err
		}
	}
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
			for _, m := range page {
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
