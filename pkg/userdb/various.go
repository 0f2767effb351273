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

// Pushers returns the pushers of a user.
func (d *DB) Pushers(ctx context.Context, user id.User) ([]db.Pusher, error) {
	q, part := d.At(user)
	return q.Pushers(ctx, part, string(user))
}

// PutPusher stores a pusher. Without alone its pushkey may belong to others too; otherwise it is taken from them.
func (d *DB) PutPusher(ctx context.Context, p db.PutPusherParams, alone bool) error {
	q, part := d.At(id.User(p.UserID))
	p.Part = part
	if err := q.PutPusher(ctx, p); err != nil || !alone {
		return err
	}
	return d.eachShard(func(q *db.Queries, parts []int32) error {
		return q.DeletePusherOfOthers(ctx, db.DeletePusherOfOthersParams{AppID: p.AppID, Pushkey: p.Pushkey, UserID: p.UserID, Parts: parts})
	})
}

// DeletePusher deletes a pusher if it exists.
func (d *DB) DeletePusher(ctx context.Context, user id.User, appID, pushkey string) error {
	q, part := d.At(user)
	return q.DeletePusher(ctx, db.DeletePusherParams{Part: part, UserID: string(user), AppID: appID, Pushkey: pushkey})
}

// AddReport stores a report for the operator.
func (d *DB) AddReport(ctx context.Context, by id.User, kind string, room id.Room, event id.Event, target id.User, reason string) error {
	q, part := d.At(by)
	return q.AddReport(ctx, db.AddReportParams{
		Part: part, UserID: string(by), Kind: kind, RoomID: string(room), EventID: string(event), Target: string(target),
		Reason: reason, CreatedTs: Millis(time.Now()),
	})
}

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
