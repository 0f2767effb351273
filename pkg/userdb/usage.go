package userdb

import (
	"context"
	"fmt"

	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
)

// MaxInvites and MaxInviteBytes bound the invites that wait for one user's answer, which a first sync brings all, and what
// came with them; InvitesRetryMS is when somebody who would exceed that may try again, in milliseconds.
const (
	MaxInvites     = 1000
	MaxInviteBytes = 8 << 20
	InvitesRetryMS = 10 * 60_000
)

// Usage is how much a user has stored of a kind.
type Usage struct{ Items, Bytes int64 }

// Stored is a kind of thing that users store.
type Stored string

// What users store without being in a room.
const (
	StoredFilters Stored = "filters"
	StoredDevices Stored = "devices"
	StoredPushers Stored = "pushers"
	StoredBackups Stored = "backups"
)

const (
	sqlUsageAccountData = `SELECT count(*), coalesce(sum(octet_length(content)), 0)::bigint FROM account_data
WHERE part = $1 AND user_id = $2 AND (room_id, type) <> ($3, $4)`
	sqlUsageInvites = `SELECT count(*), coalesce(sum(octet_length(stripped)), 0)::bigint FROM membership
WHERE part = $1 AND user_id = $2 AND membership = 'invite' AND room_id <> $3`
)

var sqlUsage = map[Stored]string{
	StoredFilters: `SELECT count(*), coalesce(sum(octet_length(content)), 0)::bigint FROM filter WHERE part = $1 AND user_id = $2`,
	StoredDevices: `SELECT count(*), 0::bigint FROM device WHERE part = $1 AND user_id = $2`,
	StoredPushers: `SELECT count(*), coalesce(sum(octet_length(data)), 0)::bigint FROM pusher WHERE part = $1 AND user_id = $2`,
	StoredBackups: `SELECT count(*), coalesce(sum(octet_length(auth_data)), 0)::bigint FROM key_backup WHERE part = $1 AND user_id = $2 AND NOT deleted`,
}

// Usage returns how much a user has stored of a kind.
func (d *DB) Usage(ctx context.Context, user id.User, what Stored) (Usage, error) {
	return d.usage(ctx, user, sqlUsage[what])
}

// AccountDataUsage returns how much account data a user has, but for one entry, which is to be replaced. What was deleted counts too,
// as it stays in the table.
func (d *DB) AccountDataUsage(ctx context.Context, user id.User, room id.Room, typ string) (Usage, error) {
	return d.usage(ctx, user, sqlUsageAccountData, string(room), typ)
}

// PendingInvites returns how many invites wait for a user's answer, but for those to a room, and the bytes of what came with
// them.
func (d *DB) PendingInvites(ctx context.Context, user id.User, but id.Room) (Usage, error) {
	return d.usage(ctx, user, sqlUsageInvites, string(but))
}

// InvitesFull says whether a user has as many pending invites as there may be, those to a room apart.
func (d *DB) InvitesFull(ctx context.Context, user id.User, but id.Room) (bool, error) {
	pending, err := d.PendingInvites(ctx, user, but)
	return pending.Items >= MaxInvites || pending.Bytes >= MaxInviteBytes, err
}

func (d *DB) usage(ctx context.Context, user id.User, sql string, more ...any) (u Usage, err error) {
	part := partition.Of(string(user))
	args := append([]any{int32(part), string(user)}, more...)
	if err = d.shards.For(part).QueryRow(ctx, sql, args...).Scan(&u.Items, &u.Bytes); err != nil {
		err = fmt.Errorf("what %s has stored: %w", user, err)
	}
	return u, err
}
