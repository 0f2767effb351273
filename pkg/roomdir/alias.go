package roomdir

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
)

var (
	// ErrNotFound is returned for an alias that does not exist.
	ErrNotFound = errors.New("alias not found")
	// ErrTaken is returned for an alias that exists already.
	ErrTaken = errors.New("alias is taken")
)

// reservation is how long an alias without a room is kept for whoever reserved it.
const reservation = 2 * time.Minute

// Alias is an alias of a local server.
type Alias struct {
	Alias   id.Alias
	Room    id.Room
	Creator id.User
}

// Alias returns a local alias, or ErrNotFound.
func (d *DB) Alias(ctx context.Context, alias id.Alias) (Alias, error) {
	part := partition.Of(string(alias))
	a := Alias{Alias: alias}
	err := d.shards.For(part).QueryRow(ctx, `SELECT room_id, creator FROM room_alias WHERE part = $1 AND alias = $2 AND room_id <> ''`,
		int32(part), string(alias)).Scan(&a.Room, &a.Creator)
	if pg.IsNoRows(err) {
		return a, ErrNotFound
	}
	if err != nil {
		return a, fmt.Errorf("read alias: %w", err)
	}
	return a, nil
}

// Add creates an alias: ErrTaken if there is one of that name.
func (d *DB) Add(ctx context.Context, a Alias) error {
	part, now := partition.Of(string(a.Alias)), time.Now().UnixMilli()
	tag, err := d.shards.For(part).Exec(ctx, `INSERT INTO room_alias AS a (part, alias, room_id, creator, created_ts)
		VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (part, alias) DO UPDATE SET room_id = excluded.room_id, creator = excluded.creator, created_ts = excluded.created_ts
		WHERE a.room_id = '' AND a.created_ts < $6`,
		int32(part), string(a.Alias), string(a.Room), string(a.Creator), now, now-reservation.Milliseconds())
	if err != nil {
		return fmt.Errorf("add alias: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return ErrTaken
	}
	d.changed(a.Room)
	return nil
}

// Reserve creates an alias for a room that is about to be made: ErrTaken if there is one of that name.
func (d *DB) Reserve(ctx context.Context, alias id.Alias, creator id.User) error {
	return d.Add(ctx, Alias{Alias: alias, Creator: creator})
}

// Point makes a reserved alias name its room: ErrTaken if somebody else has it by now.
func (d *DB) Point(ctx context.Context, a Alias) error {
	part := partition.Of(string(a.Alias))
	tag, err := d.shards.For(part).Exec(ctx, `UPDATE room_alias SET room_id = $3
		WHERE part = $1 AND alias = $2 AND creator = $4 AND room_id IN ('', $3)`, int32(part), string(a.Alias), string(a.Room), string(a.Creator))
	if err != nil {
		return fmt.Errorf("point alias: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return ErrTaken
	}
	d.changed(a.Room)
	return nil
}

// Release gives a reservation up.
func (d *DB) Release(ctx context.Context, alias id.Alias, creator id.User) error {
	part := partition.Of(string(alias))
	_, err := d.shards.For(part).Exec(ctx, `DELETE FROM room_alias WHERE part = $1 AND alias = $2 AND creator = $3 AND room_id = ''`,
		int32(part), string(alias), string(creator))
	if err != nil {
		return fmt.Errorf("release alias: %w", err)
	}
	return nil
}

// Delete removes an alias of a room; ErrNotFound if it does not name that room.
func (d *DB) Delete(ctx context.Context, alias id.Alias, room id.Room) error {
	part := partition.Of(string(alias))
	tag, err := d.shards.For(part).Exec(ctx, `DELETE FROM room_alias WHERE part = $1 AND alias = $2 AND room_id = $3`,
		int32(part), string(alias), string(room))
	if err != nil {
		return fmt.Errorf("delete alias: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return ErrNotFound
	}
	d.changed(room)
	return nil
}

// Announce has fn called after each change of a room's aliases by this process, in place of one that was named before.
func (d *DB) Announce(fn func(id.Room)) { d.announce = fn }

func (d *DB) changed(room id.Room) {
	if d.announce != nil && room != "" {
		d.announce(room)
	}
}

// AliasesOf returns our aliases of a room, in order. They may lie in any partition.
func (d *DB) AliasesOf(ctx context.Context, room id.Room) ([]id.Alias, error) {
	var all []id.Alias
	for _, pool := range d.shards.All() {
		rows, err := pool.Query(ctx, `SELECT alias FROM room_alias WHERE room_id = $1 ORDER BY alias`, string(room))
		if err != nil {
			return nil, fmt.Errorf("read aliases of a room: %w", err)
		}
		aliases, err := pgx.CollectRows(rows, pgx.RowTo[id.Alias])
		if err != nil {
			return nil, fmt.Errorf("read aliases of a room: %w", err)
		}
		all = append(all, aliases...)
	}
	return all, nil
}

// Move makes our aliases of one room name another one (client-server API, "Room Upgrades").
func (d *DB) Move(ctx context.Context, from, to id.Room) error {
	for _, pool := range d.shards.All() {
		if _, err := pool.Exec(ctx, `UPDATE room_alias SET room_id = $2 WHERE room_id = $1`, string(from), string(to)); err != nil {
			return fmt.Errorf("move aliases: %w", err)
		}
	}
	return nil
}
