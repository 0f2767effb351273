package roomdb

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/partition"
)

// Room is a room's row.
type Room struct {
	ID    id.Room
	Part  uint32
	NID   int64
	Rules *roomversion.Rules
	// SID is the snapshot of the current state.
	SID int64
	// Extremities are the forward extremities.
	Extremities []int64
	Depth       int64
	// FirstOrd is the log position of the oldest event that came live, or a negative number that history got once.
	FirstOrd int64
	// LastPos is the log position of the room's newest entry.
	LastPos   int64
	NotifySeq int64
	Published bool
	// Joined and Invited count members, JoinedLocal those on the cluster's servers.
	Joined, Invited, JoinedLocal int
	// FullPos is the log position from which on the room's state is whole: 0 if it always was, PartialState if it is not
	// yet, as the room was joined without its members (server-server API, PUT /v2/send_join, "omit_members").
	FullPos int64
	// Active is when the newest event came, Bumped the newest that Bumps: in milliseconds since 1970, by the owner's clock.
	Active, Bumped int64
}

// Bumps says whether events of a type move a room up in lists of rooms (MSC4186, bump_stamp).
func Bumps(typ string) bool {
	switch typ {
	case "m.room.create", "m.room.message", "m.room.encrypted", "m.sticker", "m.call.invite",
		"m.poll.start", "org.matrix.msc3381.poll.start", "m.beacon_info", "org.matrix.msc3672.beacon_info":
		return true
	}
	return false
}

// PartialState is the FullPos of a room whose members are still being fetched.
const PartialState = -1

// Partial says that members are missing from the room's state now.
func (r *Room) Partial() bool { return r.FullPos == PartialState }

const roomColumns = `part, room_nid, room_id, version, sid, extremities, depth, first_ord, last_pos, notify_seq, published, joined, invited, joined_local, full_pos, active_ts, bump_ts`

func scanRoom(row pgx.Row) (*Room, error) {
	r := new(Room)
	var version string
	err := row.Scan(&r.Part, &r.NID, &r.ID, &version, &r.SID, &r.Extremities, &r.Depth, &r.FirstOrd, &r.LastPos,
		&r.NotifySeq, &r.Published, &r.Joined, &r.Invited, &r.JoinedLocal, &r.FullPos, &r.Active, &r.Bumped)
	if err != nil {
		return nil, err
	}
	rules, ok := roomversion.Get(version)
	if !ok {
		return nil, fmt.Errorf("room %s has unknown version %q", r.ID, version)
	}
	r.Rules = rules
	return r, nil
}

// Room returns the room as it is now. A room that we only know by an invite has no row: ErrNotFound.
func (d *DB) Room(ctx context.Context, room id.Room) (*Room, error) {
	part := partition.Of(string(room))
	row := d.shards.For(part).QueryRow(ctx, `SELECT `+roomColumns+` FROM room WHERE part = $1 AND room_id = $2`, int32(part), string(room))
	r, err := scanRoom(row)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("room %s: %w", room, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("read room %s: %w", room, err)
	}
	d.remember(r)
	return r, nil
}

// Rooms returns those of the rooms that exist, with one query for each shard.
func (d *DB) Rooms(ctx context.Context, rooms []id.Room) (map[id.Room]*Room, error) {
	parts := make([]uint32, len(rooms))
	for i, room := range rooms {
		parts[i] = partition.Of(string(room))
	}
	found := make(map[id.Room]*Room, len(rooms))
	err := d.eachShard(parts, func(q querier, parts []int32, index []int) error {
		ids := make([]string, len(index))
		for i, at := range index {
			ids[i] = string(rooms[at])
		}
		return d.scanRooms(ctx, q, found, `SELECT `+roomColumns+` FROM room
			WHERE (part, room_id) IN (SELECT * FROM unnest($1::int[], $2::text[]))`, parts, ids)
	})
	return found, err
}

// RoomKey names a room by its numeric id.
type RoomKey struct {
	Part uint32
	NID  int64
}

// Key names the room.
func (r *Room) Key() RoomKey { return RoomKey{Part: r.Part, NID: r.NID} }

// RoomsByNID returns those of the rooms that exist, with one query for each shard.
func (d *DB) RoomsByNID(ctx context.Context, keys []RoomKey) (map[id.Room]*Room, error) {
	parts := make([]uint32, len(keys))
	for i, k := range keys {
		parts[i] = k.Part
	}
	found := make(map[id.Room]*Room, len(keys))
	err := d.eachShard(parts, func(q querier, parts []int32, index []int) error {
		nids := make([]int64, len(index))
		for i, at := range index {
			nids[i] = keys[at].NID
		}
		return d.scanRooms(ctx, q, found, `SELECT `+roomColumns+` FROM room
			WHERE (part, room_nid) IN (SELECT * FROM unnest($1::int[], $2::bigint[]))`, parts, nids)
	})
	return found, err
}

// roomsStep is how many rooms EachRooms reads at a time.
const roomsStep = 200

// EachRooms calls each with all rooms, some at a time.
func (d *DB) EachRooms(ctx context.Context, each func([]*Room) error) error {
	for _, part := range d.allParts() {
		for after := int64(0); ; {
			found := make(map[id.Room]*Room)
			err := d.scanRooms(ctx, d.shards.For(part), found, `SELECT `+roomColumns+` FROM room
				WHERE part = $1 AND room_nid > $2 ORDER BY room_nid LIMIT $3`, int32(part), after, roomsStep)
			if err != nil || len(found) == 0 {
				if err != nil {
					return err
				}
				break
			}
			rooms := slices.Collect(maps.Values(found))
			if err := each(rooms); err != nil {
				return err
			}
			for _, r := range rooms {
				after = max(after, r.NID)
			}
		}
	}
	return nil
}

// Published returns the rooms of the public directory, in no particular order.
func (d *DB) Published(ctx context.Context) ([]*Room, error) {
	found := make(map[id.Room]*Room)
	for _, pool := range d.shards.All() {
		if err := d.scanRooms(ctx, pool, found, `SELECT `+roomColumns+` FROM room WHERE published`); err != nil {
			return nil, err
		}
	}
	rooms := make([]*Room, 0, len(found))
	for _, r := range found {
		rooms = append(rooms, r)
	}
	return rooms, nil
}

// PublishedShared returns published rooms in which there are local members and of other servers, and no more than so
// many: at most limit of each shard.
func (d *DB) PublishedShared(ctx context.Context, members, limit int) (map[id.Room]*Room, error) {
	found := make(map[id.Room]*Room)
	for _, pool := range d.shards.All() {
		if err := d.scanRooms(ctx, pool, found, `SELECT `+roomColumns+` FROM room
			WHERE published AND joined_local > 0 AND joined > joined_local AND joined <= $1 LIMIT $2`, members, limit); err != nil {
			return nil, err
		}
	}
	return found, nil
}

func (d *DB) scanRooms(ctx context.Context, q querier, into map[id.Room]*Room, sql string, args ...any) error {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return fmt.Errorf("read rooms: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		r, err := scanRoom(rows)
		if err != nil {
			return fmt.Errorf("read rooms: %w", err)
		}
		d.remember(r)
		into[r.ID] = r
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read rooms: %w", err)
	}
	return nil
}

func (d *DB) remember(r *Room) {
	key := eventKey{r.Part, r.NID}
	if _, ok := d.metas.Get(key); !ok {
		d.metas.Add(key, &meta{id: r.ID, rules: r.Rules})
	}
}

// errUnreadableRoom says that a room is of a version that this program does not know.
var errUnreadableRoom = errors.New("unknown room version")

// metaOf returns what never changes of some rooms of a partition.
func (d *DB) metaOf(ctx context.Context, part uint32, nids []int64) (map[int64]*meta, error) {
	found := make(map[int64]*meta, 1)
	var missing []int64
	for _, nid := range nids {
		if _, ok := found[nid]; ok {
			continue
		}
		m, ok := d.metas.Get(eventKey{part, nid})
		if !ok {
			missing = append(missing, nid)
		}
		found[nid] = m
	}
	if len(missing) == 0 {
		return found, nil
	}
	rows, err := d.shards.For(part).Query(ctx, `SELECT room_nid, room_id, version FROM room WHERE part = $1 AND room_nid = ANY($2)`, int32(part), missing)
	if err != nil {
		return nil, fmt.Errorf("read rooms: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var nid int64
		var room, version string
		if err := rows.Scan(&nid, &room, &version); err != nil {
			return nil, fmt.Errorf("read rooms: %w", err)
		}
		rules, ok := roomversion.Get(version)
		if !ok {
			return nil, fmt.Errorf("%w: room %s has version %q", errUnreadableRoom, room, version)
		}
		m := &meta{id: id.Room(room), rules: rules}
		d.metas.Add(eventKey{part, nid}, m)
		found[nid] = m
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read rooms: %w", err)
	}
	for nid, m := range found {
		if m == nil {
			return nil, fmt.Errorf("room %d of partition %d: %w", nid, part, ErrNotFound)
		}
	}
	return found, nil
}

// Servers returns the servers with joined members.
func (d *DB) Servers(ctx context.Context, part uint32, roomNID int64) ([]id.Server, error) {
	return d.servers(ctx, part, `SELECT server FROM room_server WHERE part = $1 AND room_nid = $2 AND joined > 0`, roomNID)
}

// ServersIn returns those of some servers that have joined members in any of the rooms.
func (d *DB) ServersIn(ctx context.Context, rooms []RoomKey, servers []id.Server) (map[id.Server]struct{}, error) {
	found := make(map[id.Server]struct{})
	err := d.eachRoomShard(rooms, func(q querier, parts []int32, nids []int64) error {
		rows, err := q.Query(ctx, `SELECT c.server FROM unnest($3::text[]) AS c (server) WHERE EXISTS (
			SELECT FROM unnest($1::int[], $2::bigint[]) AS r (p, n) JOIN room_server s ON s.part = r.p AND s.room_nid = r.n
			WHERE s.server = c.server COLLATE "C" AND s.joined > 0)`, parts, nids, servers)
		if err != nil {
			return fmt.Errorf("read servers of rooms: %w", err)
		}
		var server id.Server
		_, err = pgx.ForEachRow(rows, []any{&server}, func() error {
			found[server] = struct{}{}
			return nil
		})
		if err != nil {
			return fmt.Errorf("read servers of rooms: %w", err)
		}
		return nil
	})
	return found, err
}

// ServersBefore returns the servers that had joined members before one of a server joined.
func (d *DB) ServersBefore(ctx context.Context, part uint32, roomNID int64, joined id.Server) ([]id.Server, error) {
	return d.servers(ctx, part, `SELECT server FROM room_server
		WHERE part = $1 AND room_nid = $2 AND joined > 0 AND NOT (server = $3 AND joined = 1)`, roomNID, string(joined))
}

// servers reads the servers of a query whose first parameter is the partition.
func (d *DB) servers(ctx context.Context, part uint32, sql string, args ...any) ([]id.Server, error) {
	rows, err := d.shards.For(part).Query(ctx, sql, append([]any{int32(part)}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("read servers of a room: %w", err)
	}
	servers, err := pgx.CollectRows(rows, pgx.RowTo[id.Server])
	if err != nil {
		return nil, fmt.Errorf("read servers of a room: %w", err)
	}
	return servers, nil
}

// Activity is when something last happened in a room: see Room.
type Activity struct{ Active, Bumped int64 }

// Activities returns the activity of those of the rooms that exist, with one query for each shard.
func (d *DB) Activities(ctx context.Context, rooms []RoomKey) (map[RoomKey]Activity, error) {
	found := make(map[RoomKey]Activity, len(rooms))
	err := d.eachRoomShard(rooms, func(q querier, parts []int32, nids []int64) error {
		rows, err := q.Query(ctx, `SELECT part, room_nid, active_ts, bump_ts FROM room
			WHERE (part, room_nid) IN (SELECT * FROM unnest($1::int[], $2::bigint[]))`, parts, nids)
		if err != nil {
			return fmt.Errorf("read activity of rooms: %w", err)
		}
		var key RoomKey
		var a Activity
		_, err = pgx.ForEachRow(rows, []any{&key.Part, &key.NID, &a.Active, &a.Bumped}, func() error {
			found[key] = a
			return nil
		})
		if err != nil {
			return fmt.Errorf("read activity of rooms: %w", err)
		}
		return nil
	})
	return found, err
}
