package push

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/follow"
	"hanse/pkg/matrix/id"
	"hanse/pkg/notify"
)

const (
	// countEvery is how often a badge is counted anew although nothing was read: counts fall by redactions and changed rules, too.
	countEvery = time.Minute
	// lateAfter is the age from which on a notification is looked at: the user may have read the event meanwhile.
	lateAfter = 10 * time.Second
	// maxChecked bounds the users of a partition of whom that is remembered.
	maxChecked = 10_000
)

// unreadRoom is a room that may have something unread.
type unreadRoom struct {
	notify.Joined
	pos        int64 // of the newest event of which the user was notified
	membership string
}

// badge returns how many rooms have something unread that notifies the user, invites among them, and whether the item is read
// already, as far as that was looked at.
func (b *box) badge(ctx context.Context, p *pusher, it *item) (n int64, read bool, err error) {
	late := !it.badge() && time.Since(time.UnixMilli(it.created)) > lateAfter
	if p.countsItself() && !late {
		return p.badge, false, nil
	}
	rooms, err := b.unreadRooms(ctx, p.user)
	if err != nil {
		return 0, false, err
	}
	counts := func(*unreadRoom) bool { return true }
	if it.badge() || late || b.isTime(p.user) {
		if counts, err = b.count(ctx, p.user, rooms); err != nil {
			return 0, false, err
		}
	}
	var gone []*unreadRoom
	read = late
	for i := range rooms {
		r := &rooms[i]
		if r.membership == "invite" || r.membership == "join" && counts(r) {
			n++
			read = read && string(r.Room) != it.room
		} else {
			gone = append(gone, r)
		}
	}
	return n, read, b.forget(ctx, p.user, gone)
}

func (b *box) unreadRooms(ctx context.Context, user id.User) ([]unreadRoom, error) {
	rows, err := b.s.shards.For(b.N).Query(ctx, sqlUnread, int32(b.N), user)
	if err != nil {
		return nil, fmt.Errorf("read unread rooms: %w", err)
	}
	rooms, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r unreadRoom, err error) {
		err = row.Scan(&r.Part, &r.NID, &r.Room, &r.pos, &r.membership, &r.JoinPos)
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("read unread rooms: %w", err)
	}
	return rooms, nil
}

// isTime says whether the badge of a user was not counted for a while.
func (b *box) isTime(user id.User) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Since(b.checked[user]) > countEvery
}

// count finds out which of the rooms that the user is in have something unread.
func (b *box) count(ctx context.Context, user id.User, rooms []unreadRoom) (func(*unreadRoom) bool, error) {
	var joined []notify.Joined
	for _, r := range rooms {
		if r.membership == "join" {
			joined = append(joined, r.Joined)
		}
	}
	rules, err := b.s.audience.rulesOf(ctx, []id.User{user})
	if err != nil {
		return nil, err
	}
	muted, err := b.s.users.MutedTimes(ctx, user)
	if err != nil {
		return nil, fmt.Errorf("count unread: %w", err)
	}
	counts, err := notify.Unread(ctx, b.s.rooms, rules[user], muted, joined)
	if err != nil {
		return nil, fmt.Errorf("count unread: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.checked) >= maxChecked {
		clear(b.checked)
	}
	b.checked[user] = time.Now()
	return func(r *unreadRoom) bool { return counts[r.RoomKey].Notifications > 0 }, nil
}

// forget drops rooms in which nothing is unread.
func (b *box) forget(ctx context.Context, user id.User, gone []*unreadRoom) error {
	if len(gone) == 0 {
		return nil
	}
	parts, nids, positions := make([]int32, len(gone)), make([]int64, len(gone)), make([]int64, len(gone))
	for i, r := range gone {
		parts[i], nids[i], positions[i] = int32(r.Part), r.NID, r.pos
	}
	var q pgx.Batch
	q.Queue(sqlRead, int32(b.N), user, parts, nids, positions)
	if err := b.Store(ctx, &q); err != nil {
		return fmt.Errorf("forget what is read: %w", err)
	}
	return nil
}

var _ follow.Keeper = (*box)(nil)
