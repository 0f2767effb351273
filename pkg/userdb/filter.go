package userdb

import (
	"context"
	"crypto/sha256"

	"hanse/pkg/matrix/id"
	"hanse/pkg/pg"
	"hanse/pkg/userdb/db"
)

// AddFilter stores a filter and returns its number; the same content has the same number.
func (d *DB) AddFilter(ctx context.Context, user id.User, content []byte) (int64, error) {
	q, part := d.At(user)
	hash := sha256.Sum256(content)
	args := db.AddFilterParams{Part: part, UserID: string(user), Hash: hash[:], Content: content}
	n, err := q.AddFilter(ctx, args)
	for try := 0; pg.IsUnique(err, "") && try < 5; try++ { // somebody else took the number, or stored the same
		n, err = q.AddFilter(ctx, args)
	}
	return n, err
}

// Filter returns a stored filter, or ErrNotFound.
func (d *DB) Filter(ctx context.Context, user id.User, n int64) ([]byte, error) {
	q, part := d.At(user)
	content, err := q.Filter(ctx, part, string(user), n)
	return content, notFound(err)
}
