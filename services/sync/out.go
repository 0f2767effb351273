package sync

import (
	"cmp"
	"slices"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/token"
	"hanse/pkg/userdb"
)

// The log may tell that a user is out of a room sooner than the user's stream does: word of that takes another way, can
// be lost, and the membership index is written after the log. A poll that meets the end of the membership in the log tells
// the room up to there (see delta), and its token lies behind it. What follows is not the user's to see, so the end is
// remembered until the index has it, and that is asked before each answer, whether there is word of a change or not.

// leavers are the users who are out of the room with an entry.
func (e *entry) leavers(yield func(id.User) bool) {
	if e.log == nil {
		return
	}
	if m := e.log.Membership; m != "" && m != "join" && !e.log.Overruled && e.event.StateKey != nil && !yield(id.User(*e.event.StateKey)) {
		return
	}
	for _, m := range e.log.Moved {
		if m.Membership != "join" && !yield(id.User(m.UserId)) {
			return
		}
	}
}

// left is told of each end of a membership in the log, before any poll is answered from there.
func (us *users) left(key roomdb.RoomKey, who id.User, pos int64) {
	us.mu.Lock()
	u := us.byID[who]
	us.mu.Unlock()
	if u == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if r := u.membership(key); r != nil && r.Pos < pos {
		u.out[key] = max(u.out[key], pos)
	}
}

// membership returns that of a room that the user is in. The user is locked.
func (u *user) membership(key roomdb.RoomKey) *userdb.Membership {
	i, ok := slices.BinarySearchFunc(u.joined, key, func(r *userdb.Membership, key roomdb.RoomKey) int {
		return cmp.Or(cmp.Compare(r.RoomPart, key.Part), cmp.Compare(r.RoomNID, key.NID))
	})
	if !ok {
		return nil
	}
	return u.joined[i]
}

// withoutLeft takes out the rooms that have nothing more to tell to the user, who is out of them up to the token already.
func (u *user) withoutLeft(rooms []*userdb.Membership, since *token.Sync) []*userdb.Membership {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.out) == 0 {
		return rooms
	}
	return slices.DeleteFunc(rooms, func(r *userdb.Membership) bool {
		after, _ := since.At(r.RoomPart)
		out := u.out[roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID}]
		return out > r.Pos && after >= out
	})
}
