package mediastore

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/pg"
)

// Thumbnail is one that was made and kept.
type Thumbnail struct {
	Object string
	Bytes  int64
	Type   string
}

const (
	sqlThumb     = `SELECT object, bytes, type FROM media_thumbnail WHERE part = $1 AND origin = $2 AND media_id = $3 AND spec = $4`
	sqlThumbHold = `SELECT FROM media WHERE part = $1 AND origin = $2 AND media_id = $3 AND state = 3 FOR SHARE`
	sqlThumbPut  = `
INSERT INTO media_thumbnail (part, origin, media_id, spec, object, bytes, type) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (part, origin, media_id, spec) DO UPDATE SET bytes = $6, type = $7 RETURNING object`
)

// Thumbnail returns a thumbnail that is kept, or ErrNotFound.
func (s *Store) Thumbnail(ctx context.Context, i ID, spec string) (*Thumbnail, error) {
	t := new(Thumbnail)
	err := s.shards.For(i.Part()).QueryRow(ctx, sqlThumb, i.Part(), i.Origin, i.Media, spec).Scan(&t.Object, &t.Bytes, &t.Type)
	if pg.IsNoRows(err) {
		return nil, ErrNotFound
	}
	return t, err
}

// KeepThumbnail keeps a thumbnail of a media that is there. The row comes first: an object without a row would never go.
func (s *Store) KeepThumbnail(ctx context.Context, i ID, spec, typ string, content []byte) error {
	part, object := i.Part(), newObject("t")
	err := pg.InTx(ctx, s.shards.For(part), func(tx pgx.Tx) error {
		// Whoever deletes the media waits for this, and finds the row.
		if err := tx.QueryRow(ctx, sqlThumbHold, part, i.Origin, i.Media).Scan(); err != nil {
			if pg.IsNoRows(err) {
				return ErrNotFound
			}
			return err
		}
		return tx.QueryRow(ctx, sqlThumbPut, part, i.Origin, i.Media, spec, object, len(content), typ).Scan(&object)
	})
	if err != nil {
		return err
	}
	if err := s.bucket.WriteAll(ctx, object, content, nil); err != nil {
		return fmt.Errorf("keep thumbnail: %w", err)
	}
	// The media may have been deleted since, and the object with it before it was written.
	if _, err := s.Thumbnail(ctx, i, spec); err == nil {
		return nil
	}
	if err := s.bucket.Delete(ctx, object); err != nil && !notThere(err) {
		return err
	}
	return ErrNotFound
}
