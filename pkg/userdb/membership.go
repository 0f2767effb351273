package userdb

import (
	"context"
	"encoding/json"

	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	"hanse/pkg/userdb/db"
)

// Membership is a row of the membership index: what a local user is to a room.
type Membership struct {
	User        id.User
	Room        id.Room
	RoomPart    uint32
	RoomNID     int64
	RoomVersion string
	Membership  string // join, invite, leave, ban, knock
	EventNID    int64
	EventID     id.Event
	Sender      id.User
	// Pos is the log position of the event in the room's partition, JoinPos that at which the present join began.
	Pos, JoinPos int64
	// Stripped is the JSON array of stripped state, for invites and knocks in rooms that no local user is in.
	Stripped json.RawMessage
	// Event is the membership event in a room that no local user is in, where EventNID is 0. What it says of the room is not proven.
	Event     json.RawMessage
	Forgotten bool
	// Seq is the position in the user's stream, JoinSeq that of the beginning of the present join.
	Seq, JoinSeq int64
}

// JoinedRoom is a room that a user is joined to.
type JoinedRoom struct {
	Room    id.Room
	Part    uint32
	NID     int64
	Version string
}

// Memberships returns all rows of a user, those of forgotten rooms too.
func (d *DB) Memberships(ctx context.Context, user id.User) ([]Membership, error) {
	q, part := d.At(user)
	rows, err := q.Memberships(ctx, part, string(user))
	return memberships(rows), err
}

// MembershipsSince returns the rows that changed after a position of the user's stream.
func (d *DB) MembershipsSince(ctx context.Context, user id.User, after int64) ([]Membership, error) {
	q, part := d.At(user)
	rows, err := q.MembershipsSince(ctx, part, string(user), after)
	return memberships(rows), err
}

// Membership returns what a user is to a room, or ErrNotFound if there never was anything.
func (d *DB) Membership(ctx context.Context, user id.User, room id.Room) (Membership, error) {
	q, part := d.At(user)
	row, err := q.Membership(ctx, part, string(user), string(room))
	return membership(row), notFound(err)
}

// JoinedRooms returns the rooms that a user is joined to, by partition.
func (d *DB) JoinedRooms(ctx context.Context, user id.User) ([]JoinedRoom, error) {
	q, part := d.At(user)
	rows, err := q.JoinedRooms(ctx, part, string(user))
	if err != nil {
		return nil, err
	}
	out := make([]JoinedRoom, len(rows))
	for i, r := range rows {
		out[i] = JoinedRoom{Room: id.Room(r.RoomID), Part: uint32(r.RoomPart), NID: r.RoomNid, Version: r.RoomVersion}
	}
	return out, nil
}

// RoomsJoinedBefore returns the other rooms that a user is joined to, but for those that were joined after the one that is named.
func (d *DB) RoomsJoinedBefore(ctx context.Context, user id.User, roomPart uint32, roomNID int64) ([]JoinedRoom, error) {
	q, part := d.At(user)
	rows, err := q.RoomsJoinedBefore(ctx, db.RoomsJoinedBeforeParams{Part: part, UserID: string(user), RoomPart: int32(roomPart), RoomNid: roomNID})
	if err != nil {
		return nil, err
	}
	out := make([]JoinedRoom, len(rows))
	for i, r := range rows {
		out[i] = JoinedRoom{Room: id.Room(r.RoomID), Part: uint32(r.RoomPart), NID: r.RoomNid}
	}
	return out, nil
}

// JoinedRoomsOf returns the joined rooms of several of local users, with one query for each shard.
func (d *DB) JoinedRoomsOf(ctx context.Context, users []id.User) (map[id.User][]JoinedRoom, error) {
	out := make(map[id.User][]JoinedRoom, len(users))
	for _, g := range d.groups(users) {
		rows, err := db.New(g.pool).JoinedRoomsOf(ctx, g.parts, g.users)
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			u := id.User(r.UserID)
			out[u] = append(out[u], JoinedRoom{Room: id.Room(r.RoomID), Part: uint32(r.RoomPart), NID: r.RoomNid})
		}
	}
	return out, nil
}

// Forget marks a room as forgotten. It returns ErrNotFound if the user is not out of the room.
func (d *DB) Forget(ctx context.Context, user id.User, room id.Room) error {
	q, part := d.At(user)
	seq, err := q.Forget(ctx, part, string(user), string(room))
	if err != nil {
		return notFound(err)
	}
	d.announce(partition.Of(string(user)), user, seq)
	return nil
}

func memberships(rows []db.Membership) []Membership {
	out := make([]Membership, len(rows))
	for i, r := range rows {
		out[i] = membership(r)
	}
	return out
}

func membership(r db.Membership) Membership {
	return Membership{
		User: id.User(r.UserID), Room: id.Room(r.RoomID), RoomPart: uint32(r.RoomPart), RoomNID: r.RoomNid,
		RoomVersion: r.RoomVersion, Membership: r.Membership, EventNID: r.EventNid, EventID: id.Event(r.EventID),
		Sender: id.User(r.Sender), Pos: r.Pos, JoinPos: r.JoinPos, Stripped: r.Stripped, Event: r.Event, Forgotten: r.Forgotten, Seq: r.Seq, JoinSeq: r.JoinSeq,
	}
}
