package userdb

import (
	"context"
	"errors"

	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/invitefilter"
	"hanse/pkg/partition"
	"hanse/pkg/userdb/db"
)

// AccountData is one entry of account data. Room is empty for global data.
type AccountData struct {
	Room    id.Room
	Type    string
	Content []byte
	Seq     int64
}

// PutAccountData stores an entry, in one statement, and announces it.
func (d *DB) PutAccountData(ctx context.Context, user id.User, room id.Room, typ string, content []byte) (int64, error) {
	q, part := d.At(user)
	seq, err := q.PutAccountData(ctx, db.PutAccountDataParams{
		Part: part, UserID: string(user), RoomID: string(room), Type: typ, Content: content,
	})
	if err != nil {
		return 0, err
	}
	d.announce(partition.Of(string(user)), user, seq)
	return seq, nil
}

// AccountData returns the content of an entry, or ErrNotFound.
func (d *DB) AccountData(ctx context.Context, user id.User, room id.Room, typ string) ([]byte, error) {
	q, part := d.At(user)
	content, err := q.AccountData(ctx, db.AccountDataParams{Part: part, UserID: string(user), RoomID: string(room), Type: typ})
	return content, notFound(err)
}

// InviteAction returns what a user wants done with invites by another one.
func (d *DB) InviteAction(ctx context.Context, user, inviter id.User) (invitefilter.Action, error) {
	contents, err := d.AccountDataOf(ctx, user, invitefilter.Types...)
	return invitefilter.Parse(contents).Of(inviter), err
}

// DeleteAccountData deletes an entry. It stays as an empty object for those who had been told of it (MSC3391).
func (d *DB) DeleteAccountData(ctx context.Context, user id.User, room id.Room, typ string) error {
	_, err := d.Change(ctx, user, func(tx *Tx) error {
		return tx.DeleteAccountData(ctx, db.DeleteAccountDataParams{Part: tx.Part, UserID: string(user), RoomID: string(room), Type: typ, Seq: tx.Seq})
	})
	return err
}

// AccountDataSince returns the entries whose last change lies in (after, upTo], by position. After 0 these are all; else those that
// were deleted are in it, as empty objects.
func (d *DB) AccountDataSince(ctx context.Context, user id.User, after, upTo int64) ([]AccountData, error) {
	q, part := d.At(user)
	rows, err := q.AccountDataSince(ctx, db.AccountDataSinceParams{Part: part, UserID: string(user), After: after, UpTo: upTo})
	if err != nil {
		return nil, err
	}
	out := make([]AccountData, 0, len(rows))
	for _, r := range rows {
		if !r.Deleted || after > 0 {
			out = append(out, AccountData{Room: id.Room(r.RoomID), Type: r.Type, Content: r.Content, Seq: r.Seq})
		}
	}
	return out, nil
}

// AccountDataOf returns the contents of global entries by their types, in one statement. What is not set is not in it.
func (d *DB) AccountDataOf(ctx context.Context, user id.User, types ...string) (map[string][]byte, error) {
	q, part := d.At(user)
	rows, err := q.AccountDataOf(ctx, part, string(user), types)
	if err != nil {
		return nil, err
	}
	out := make(map[string][]byte, len(rows))
	for _, r := range rows {
		out[r.Type] = r.Content
	}
	return out, nil
}

// UpdateAccountData changes an entry under the user's lock: fn gets the present content (nil if there is none) and
// returns the new one, or nil to leave it as it is.
func (d *DB) UpdateAccountData(ctx context.Context, user id.User, room id.Room, typ string, fn func(old []byte) ([]byte, error)) error {
	_, err := d.Change(ctx, user, func(tx *Tx) error {
		return tx.updateAccountData(ctx, user, room, typ, fn)
	})
	return err
}

func (tx *Tx) updateAccountData(ctx context.Context, user id.User, room id.Room, typ string, fn func(old []byte) ([]byte, error)) error {
	old, err := tx.AccountData(ctx, db.AccountDataParams{Part: tx.Part, UserID: string(user), RoomID: string(room), Type: typ})
	if err = notFound(err); err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	content, err := fn(old)
	if err != nil || content == nil {
		return err
	}
	return tx.SetAccountData(ctx, db.SetAccountDataParams{
		Part: tx.Part, UserID: string(user), RoomID: string(room), Type: typ, Content: content, Seq: tx.Seq,
	})
}
