package mediastore

import (
	"context"
	"errors"
	"io"

	"github.com/jackc/pgx/v5"
	"gocloud.dev/blob"

	"hanse/pkg/pg"
)

// Delete removes a media, its thumbnails and, if no other media has the same bytes, its object. When it returns nil all of
// them are gone from the store; an error may mean that the object goes later, but nobody sees the media any more unless the
// error is of the first step.
func (s *Store) Delete(ctx context.Context, i ID) error {
	part := i.Part()
	err := pg.InTx(ctx, s.shards.For(part), func(tx pgx.Tx) error { return s.hide(ctx, tx, i) })
	if err != nil {
		return err
	}
	if err := s.step("hidden"); err != nil {
		return err
	}
	return s.finish(ctx, i)
}

// hide makes a media gone: nobody sees it from now on.
func (s *Store) hide(ctx context.Context, tx pgx.Tx, i ID) error {
	part := i.Part()
	m, err := scan(tx.QueryRow(ctx, sqlGet+" FOR UPDATE", part, i.Origin, i.Media))
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, sqlGone, part, i.Origin, i.Media, s.now().UnixMilli()); err != nil {
		return err
	}
	if m.State == Ready {
		if err := count(ctx, tx, m, -1); err != nil {
			return err
		}
	}
	_, err = tx.Exec(ctx, sqlThumbsGone, part, i.Origin, i.Media)
	return err
}

// finish removes what is left of a media that is gone. All its steps can be repeated.
func (s *Store) finish(ctx context.Context, i ID) error {
	part := i.Part()
	pool := s.shards.For(part)
	m, err := scan(pool.QueryRow(ctx, sqlGet, part, i.Origin, i.Media))
	switch {
	case errors.Is(err, ErrNotFound):
		return s.collect(ctx, part)
	case err != nil:
		return err
	case m.State != Gone:
		return nil
	}
	if m.Hash != nil {
		if err := s.unshare(ctx, m); err != nil {
			return err
		}
		if err := s.step("unshared"); err != nil {
			return err
		}
	}
	err = pg.InTx(ctx, pool, func(tx pgx.Tx) error {
		if m.Hash == nil && m.Object != "" {
			if _, err := tx.Exec(ctx, sqlGarbage, part, m.Object); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, sqlDelete, part, i.Origin, i.Media)
		return err
	})
	if err != nil {
		return err
	}
	if m.Hash != nil && blobPart(m.Hash) != part {
		if err := s.collect(ctx, blobPart(m.Hash)); err != nil {
			return err
		}
	}
	return s.collect(ctx, part)
}

// unshare takes back that a media uses an object. What nobody uses becomes garbage.
func (s *Store) unshare(ctx context.Context, m *Media) error {
	part := blobPart(m.Hash)
	return pg.InTx(ctx, s.shards.For(part), func(tx pgx.Tx) error {
		var shared string
		err := tx.QueryRow(ctx, sqlLockBlob, part, m.Hash).Scan(&shared)
		if err != nil && !pg.IsNoRows(err) {
			return err
		}
		if _, err := tx.Exec(ctx, sqlUnref, part, m.Hash, m.Origin, m.Media); err != nil {
			return err
		}
		var unused string
		if err := tx.QueryRow(ctx, sqlDropBlob, part, m.Hash).Scan(&unused); err != nil && !pg.IsNoRows(err) {
			return err
		}
		for _, object := range []string{unused, m.Object} {
			if object == "" || object == shared && object != unused {
				continue
			}
			if _, err := tx.Exec(ctx, sqlGarbage, part, object); err != nil {
				return err
			}
		}
		return nil
	})
}

const (
	sqlGarbageOf   = `SELECT object FROM media_garbage WHERE part = $1 AND due_ts <= $2 LIMIT 100`
	sqlGarbageGone = `DELETE FROM media_garbage WHERE part = $1 AND object = ANY($2)`
)

// collect deletes the objects that a partition's rows say nobody uses.
func (s *Store) collect(ctx context.Context, part uint32) error {
	pool := s.shards.For(part)
	for {
		rows, err := pool.Query(ctx, sqlGarbageOf, part, s.now().UnixMilli())
		if err != nil {
			return err
		}
		objects, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil || len(objects) == 0 {
			return err
		}
		for _, object := range objects {
			if err := s.remove(ctx, object); err != nil {
				return err
			}
		}
		if _, err := pool.Exec(ctx, sqlGarbageGone, part, objects); err != nil {
			return err
		}
		if len(objects) < 100 {
			return nil
		}
	}
}

// remove deletes an object. In a directory there may also be a file beside its place, of a worker that was killed while it wrote.
func (s *Store) remove(ctx context.Context, object string) error {
	if err := s.bucket.Delete(ctx, object); err != nil && !notThere(err) {
		return err
	}
	if s.s3 != nil {
		return nil
	}
	for it := s.bucket.List(&blob.ListOptions{Prefix: object + "."}); ; {
		o, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.bucket.Delete(ctx, o.Key); err != nil && !notThere(err) {
			return err
		}
	}
}

// collectSoon does so without keeping the caller waiting.
func (s *Store) collectSoon(ctx context.Context, part uint32) {
	ctx = context.WithoutCancel(ctx)
	go func() {
		ctx, cancel := context.WithTimeout(ctx, undoTime)
		defer cancel()
		if err := s.collect(ctx, part); err != nil {
			s.log.WarnContext(ctx, "objects that nobody uses were not deleted yet", "err", err)
		}
	}()
}
