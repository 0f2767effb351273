package userdb

import (
	"context"
	"slices"

	"hanse/pkg/matrix/id"
	"hanse/pkg/userdb/db"
)

// maxMutedTimes is how many muted times are kept for a user. When there are more, the two oldest become one.
const maxMutedTimes = 8

// MutedTime is a time in which a user had muted everything (push rule .m.rule.master). Since and Until are positions in the
// logs of the rooms' partitions, by the partition's number. Until is nil while the mute lasts.
type MutedTime struct{ Since, Until []int64 }

// Equal says whether two are the same time.
func (m MutedTime) Equal(o MutedTime) bool {
	return slices.Equal(m.Since, o.Since) && (m.Until == nil) == (o.Until == nil) && slices.Equal(m.Until, o.Until)
}

// MutedTimes returns a user's muted times, the oldest first. There are at most 9.
func (d *DB) MutedTimes(ctx context.Context, user id.User) ([]MutedTime, error) {
	q, part := d.At(user)
	rows, err := q.MutedTimes(ctx, part, string(user))
	if err != nil {
		return nil, err
	}
	times := make([]MutedTime, len(rows))
	for i, r := range rows {
		times[i] = MutedTime{Since: r.Since, Until: r.Until}
	}
	return times, nil
}

// ChangePushRules changes the entry typ of the global account data as [DB.UpdateAccountData] does. If fn says that the
// change mutes everything (muted goes from false to true), or ends that, the muted time begins or ends at the given heads of
// the partitions, in the same transaction.
func (d *DB) ChangePushRules(ctx context.Context, user id.User, typ string, heads []int64, fn func(old []byte) (content []byte, was, muted bool, err error)) error {
	_, err := d.Change(ctx, user, func(tx *Tx) error {
		var was, muted bool
		err := tx.updateAccountData(ctx, user, "", typ, func(old []byte) (content []byte, err error) {
			content, was, muted, err = fn(old)
			return content, err
		})
		if err != nil || was == muted {
			return err
		}
		if muted {
			return tx.BeginMute(ctx, db.BeginMuteParams{Part: tx.Part, UserID: string(user), Seq: tx.Seq, Since: heads})
		}
		return tx.endMute(ctx, user, heads)
	})
	return err
}

func (tx *Tx) endMute(ctx context.Context, user id.User, heads []int64) error {
	if err := tx.EndMute(ctx, tx.Part, string(user), heads); err != nil {
		return err
	}
	rows, err := tx.MutedTimes(ctx, tx.Part, string(user))
	if err != nil || len(rows) <= maxMutedTimes {
		return err
	}
	first, second := rows[0], rows[1]
	if err := tx.DeleteMutedTimes(ctx, tx.Part, string(user), second.Seq); err != nil {
		return err
	}
	err = tx.BeginMute(ctx, db.BeginMuteParams{Part: tx.Part, UserID: string(user), Seq: second.Seq, Since: first.Since})
	if err != nil {
		return err
	}
	return tx.EndMute(ctx, tx.Part, string(user), second.Until)
}
