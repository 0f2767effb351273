package userdb

import (
	"context"

	"hanse/pkg/matrix/id"
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
