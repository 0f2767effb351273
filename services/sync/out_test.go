package sync

import (
	"slices"
	"testing"

	"hanse/pkg/bus/bustest"
	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	"hanse/pkg/pg/pgtest"
	"hanse/pkg/roomdb"
	"hanse/pkg/session"
	"hanse/pkg/token"
	"hanse/pkg/userdb"
	logv1 "hanse/proto/log/v1"
)

// putMembership writes a row of the membership index of room 1 of partition 0, as the room's owner does, and returns its
// position in the user's stream.
func putMembership(t *testing.T, db *userdb.DB, who id.User, membership string, pos int64) int64 {
	t.Helper()
	seq, err := db.Change(t.Context(), who, func(tx *userdb.Tx) error {
		_, err := tx.Exec(t.Context(), `INSERT INTO membership (part, user_id, room_id, room_part, room_nid, membership, event_nid, event_id, sender, pos, join_pos, join_seq, seq)
			VALUES ($1, $2, '!r:a', 0, 1, $3, $4, '$e', $2, $4, 1, $5, $5)
			ON CONFLICT (part, user_id, room_id) DO UPDATE SET membership = excluded.membership, pos = excluded.pos, seq = excluded.seq`,
			int32(partition.Of(string(who))), string(who), membership, pos, tx.Seq)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

// leave is a log entry by which somebody is out of room 1.
func leave(t *testing.T, pos int64, who id.User) *logv1.Entry {
	t.Helper()
	e := message(t, pos, 1, "out", "")
	l := e.GetEvent()
	l.Moved = append(l.Moved, &logv1.MovedMember{UserId: string(who), Membership: "leave", PrevMembership: "join"})
	return e
}

// Client-server API, "Syncing", rooms.leave: nothing is told of what happened after the user had left, though the word of
// the change of the user's stream is lost, and though the log tells of it before the membership index does.
func TestLogIsAheadOfTheIndex(t *testing.T) {
	const bert, room = id.User("@bert:a"), int64(1)
	key := roomdb.RoomKey{Part: 0, NID: room}
	shards := pgtest.New(t)
	db := userdb.New(shards, bustest.New(t).Open("writer")) // nobody listens
	var us *users
	tl := newTail(shards.P(), 1<<20, nil, func(uint32, []int64) {}, func(key roomdb.RoomKey, who id.User, pos int64) { us.left(key, who, pos) })
	us = newUsers(db, tl)
	putMembership(t, db, bert, "join", 1)
	p := &asker{who: &session.Identity{User: bert}}
	if err := us.get(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	u := p.user
	tells := func(since int64) bool {
		t.Helper()
		if err := us.refresh(t.Context(), u); err != nil {
			t.Fatal(err)
		}
		rooms := u.withoutLeft(slices.Clone(u.joinedRooms()), &token.Sync{Pos: []token.PartPos{{Part: 0, Pos: since}}})
		return len(rooms) == 1
	}
	deliver(t, tl, message(t, 2, room, "before", ""))
	if !tells(1) {
		t.Error("a member is not told of the room")
	}
	deliver(t, tl, leave(t, 3, "@carl:a"), leave(t, 4, bert), message(t, 5, room, "after", ""))
	if !tells(3) {
		t.Error("the room is not told up to the end of the membership")
	}
	if tells(4) || tells(5) {
		t.Error("the room is told beyond the end of the membership")
	}
	putMembership(t, db, bert, "leave", 4)
	if tells(3) || u.inAny(map[roomdb.RoomKey]struct{}{key: {}}) {
		t.Error("the index was not asked again")
	}
	us.changed(bert, putMembership(t, db, bert, "join", 6))
	if !tells(5) {
		t.Error("who is back is not told of the room")
	}
	deliver(t, tl, message(t, 6, room, "back", ""))
	if !tells(6) {
		t.Error("who is back is not told of the room any more")
	}
}
