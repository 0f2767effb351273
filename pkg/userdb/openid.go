package userdb

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"time"

	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	"hanse/pkg/userdb/db"
)

// AddOpenIDToken stores a token that proves who somebody is. It lies in the partition of the token's own text, where
// whoever is shown the token finds it.
func (d *DB) AddOpenIDToken(ctx context.Context, token string, user id.User, expires time.Time) error {
	part, hash := openIDToken(token)
	return db.New(d.shards.For(uint32(part))).AddOpenIDToken(ctx, db.AddOpenIDTokenParams{Part: part, Hash: hash, UserID: string(user), ExpiresTs: Millis(expires)})
}

// OpenIDTokenOwner returns whom a token belongs to, or ErrNotFound (server-server API, "OpenID").
func (d *DB) OpenIDTokenOwner(ctx context.Context, token string) (id.User, error) {
	part, hash := openIDToken(token)
	user, err := db.New(d.shards.For(uint32(part))).OpenIDTokenOwner(ctx, part, hash, Millis(time.Now()))
	return id.User(user), notFound(err)
}

func openIDToken(token string) (part int32, hash []byte) {
	sum := sha256.Sum256([]byte(token))
	return int32(partition.Of(base64.RawStdEncoding.EncodeToString(sum[:]))), sum[:]
}
