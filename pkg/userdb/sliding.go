package userdb

import (
	"context"
	"time"

	"hanse/pkg/matrix/id"
	"hanse/pkg/userdb/db"
)

const (
	// SlidingIdle is after how long a connection of sliding sync is forgotten that nobody uses.
	SlidingIdle = 7 * 24 * time.Hour
	// slidingConns is how many a device has; the one that was not used for longest makes room.
	slidingConns = 16
)

// SlidingConn names a connection of sliding sync (MSC4186, conn_id).
type SlidingConn struct {
	User   id.User
	Device id.Device
	ID     string
}

// SlidingRow is what is stored of a connection.
type SlidingRow = db.SlidingConnectionRow

// SlidingConnection returns a connection, or ErrNotFound.
func (d *DB) SlidingConnection(ctx context.Context, c SlidingConn) (SlidingRow, error) {
	q, part := d.At(c.User)
	row, err := q.SlidingConnection(ctx, db.SlidingConnectionParams{Part: part, UserID: string(c.User), DeviceID: string(c.Device), ConnID: c.ID})
	return row, notFound(err)
}

// PutSlidingConnection stores a connection that begins, or begins anew.
func (d *DB) PutSlidingConnection(ctx context.Context, c SlidingConn, generation, n int64, state []byte, now time.Time) error {
	q, part := d.At(c.User)
	return q.PutSlidingConnection(ctx, db.PutSlidingConnectionParams{
		Part: part, UserID: string(c.User), DeviceID: string(c.Device), ConnID: c.ID, Keep: slidingConns - 1,
		Generation: generation, N: n, Base: state, UsedTs: Millis(now),
	})
}

// MoveSlidingConnection stores what an answer made of a connection, with a base of nil if that stays. It says whether the connection
// still stood where the answer began: if not, it has gone on elsewhere, or begun anew.
func (d *DB) MoveSlidingConnection(ctx context.Context, c SlidingConn, r SlidingRow) (moved bool, err error) {
	q, part := d.At(c.User)
	n, err := q.MoveSlidingConnection(ctx, db.MoveSlidingConnectionParams{
		Part: part, UserID: string(c.User), DeviceID: string(c.Device), ConnID: c.ID,
		Generation: r.Generation, N: r.N, Base: r.Base, Delta: r.Delta, NextN: r.NextN, Next: r.Next, UsedTs: r.UsedTs,
	})
	return n > 0, err
}

// TouchSlidingConnection notes that a connection is used.
func (d *DB) TouchSlidingConnection(ctx context.Context, c SlidingConn, generation int64, now time.Time) error {
	q, part := d.At(c.User)
	return q.TouchSlidingConnection(ctx, db.TouchSlidingConnectionParams{
		Part: part, UserID: string(c.User), DeviceID: string(c.Device), ConnID: c.ID, Generation: generation, UsedTs: Millis(now),
	})
}

// AccountDataOfRooms returns all account data of some rooms.
func (d *DB) AccountDataOfRooms(ctx context.Context, user id.User, rooms []id.Room) ([]AccountData, error) {
	q, part := d.At(user)
	ids := make([]string, len(rooms))
	for i, r := range rooms {
		ids[i] = string(r)
	}
	rows, err := q.AccountDataOfRooms(ctx, part, string(user), ids)
	if err != nil {
		return nil, err
	}
	out := make([]AccountData, len(rows))
	for i, r := range rows {
		out[i] = AccountData{Room: id.Room(r.RoomID), Type: r.Type, Content: r.Content, Seq: r.Seq}
	}
	return out, nil
}

// AccountDataOfType returns the account data of one type of all rooms that have it.
func (d *DB) AccountDataOfType(ctx context.Context, user id.User, typ string) ([]AccountData, error) {
	q, part := d.At(user)
	rows, err := q.AccountDataOfType(ctx, part, string(user), typ)
	if err != nil {
		return nil, err
	}
	out := make([]AccountData, len(rows))
	for i, r := range rows {
		out[i] = AccountData{Room: id.Room(r.RoomID), Type: r.Type, Content: r.Content, Seq: r.Seq}
	}
	return out, nil
}
