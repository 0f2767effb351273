package mediastore

import (
	"context"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/id"
)

const (
	sqlQuarantine = `
UPDATE media SET quarantined_by = $4::text WHERE part = $1 AND origin = $2 AND media_id = $3 AND state = 3 AND ($4::text IS NULL OR NOT protected)`
	sqlProtect   = `UPDATE media SET protected = $4 WHERE part = $1 AND origin = $2 AND media_id = $3 AND state = 3`
	sqlSameBytes = `SELECT origin, media_id FROM media_blob_ref WHERE part = $1 AND hash = $2`
)

// Quarantine hides a media, and all others that have the same bytes, but for protected ones. It returns how many it hid.
func (s *Store) Quarantine(ctx context.Context, i ID, by id.User) (int, error) {
	m, err := s.Get(ctx, i)
	if err != nil {
		return 0, err
	}
	same := []ID{i}
	if m.Hash != nil {
		part := blobPart(m.Hash)
		rows, err := s.shards.For(part).Query(ctx, sqlSameBytes, part, m.Hash)
		if err != nil {
			return 0, err
		}
		if same, err = pgx.CollectRows(rows, pgx.RowToStructByPos[ID]); err != nil {
			return 0, err
		}
	}
	n := 0
	for _, i := range same {
		tag, err := s.shards.For(i.Part()).Exec(ctx, sqlQuarantine, i.Part(), i.Origin, i.Media, &by)
		if err != nil {
			return n, err
		}
		n += int(tag.RowsAffected())
	}
	return n, nil
}

// Unquarantine shows a media again.
func (s *Store) Unquarantine(ctx context.Context, i ID) error {
	tag, err := s.shards.For(i.Part()).Exec(ctx, sqlQuarantine, i.Part(), i.Origin, i.Media, nil)
	if err == nil && tag.RowsAffected() == 0 {
		err = ErrNotFound
	}
	return err
}

// Protect keeps a media from being quarantined with others, and from retention; or ends that.
func (s *Store) Protect(ctx context.Context, i ID, protected bool) error {
	tag, err := s.shards.For(i.Part()).Exec(ctx, sqlProtect, i.Part(), i.Origin, i.Media, protected)
	if err == nil && tag.RowsAffected() == 0 {
		err = ErrNotFound
	}
	return err
}
