package roomdb

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"
)

// Hole is a place in a timeline where events are missing: those that the event at Pos, or what was put before it since, names
// as its prev events.
type Hole struct {
	// Pos is the log position of the event before which the hole was found.
	Pos int64
	// Low is the place of the event right behind the hole, Floor that of the live event before it, Start if there is none. What
	// comes into the hole gets places between them, downwards.
	Low, Floor Place
	// NotifySeq is the room's number of notifying events before the hole.
	NotifySeq int64
}

// holeBefore selects the newest hole of a room at or before a position.
const holeBefore = `(SELECT max(hole) FROM missing_prev WHERE part = $1 AND room_nid = $2 AND hole <= %s)`

// HoleBefore returns the newest hole of a room that lies before a place and before the hole at position below; nil if there is
// none.
func (d *DB) HoleBefore(ctx context.Context, part uint32, roomNID int64, at Place, below int64) (*Hole, error) {
	return d.findHole(ctx, part, roomNID, `SELECT `+fmt.Sprintf(holeBefore, `least($4::bigint - 1, coalesce(
		(SELECT min(ord) FROM event WHERE part = $1 AND room_nid = $2 AND ord >= $3::bigint), $3))`), at.Region(), below)
}

// HoleBeforeEvent returns the hole right before an event; nil if there is none.
func (d *DB) HoleBeforeEvent(ctx context.Context, e *Event) (*Hole, error) {
	h, err := d.HoleBefore(ctx, e.Part, e.RoomNID, e.Place(), math.MaxInt64)
	if err != nil || h == nil || h.Low != e.Place() {
		return nil, err
	}
	return h, nil
}

// HoleBehind returns the oldest hole of a room that lies behind a place and behind the hole at position above; nil if there is
// none.
func (d *DB) HoleBehind(ctx context.Context, part uint32, roomNID int64, at Place, above int64) (*Hole, error) {
	return d.findHole(ctx, part, roomNID, `SELECT min(hole) FROM missing_prev WHERE part = $1 AND room_nid = $2 AND hole > greatest($4::bigint, coalesce(
		(SELECT min(ord) FROM event WHERE part = $1 AND room_nid = $2 AND ord >= $3::bigint), $3))`, at.Region(), above)
}

func (d *DB) findHole(ctx context.Context, part uint32, roomNID int64, sql string, args ...any) (*Hole, error) {
	var pos *int64
	err := d.shards.For(part).QueryRow(ctx, sql, append([]any{int32(part), roomNID}, args...)...).Scan(&pos)
	if err != nil {
		return nil, fmt.Errorf("look for a hole: %w", err)
	}
	if pos == nil {
		return nil, nil
	}
	return d.HoleAt(ctx, part, roomNID, *pos)
}

// HoleAt returns the place before a position, whether anything is missing there or not.
func (d *DB) HoleAt(ctx context.Context, part uint32, roomNID, pos int64) (*Hole, error) {
	var floor, low *int64
	h := &Hole{Pos: pos, Low: At(pos), Floor: Start}
	err := d.shards.For(part).QueryRow(ctx, `WITH floor AS (
			SELECT ord, notify_seq FROM event WHERE part = $1 AND room_nid = $2 AND ord < $3 AND ord > $4 ORDER BY ord DESC LIMIT 1)
		SELECT (SELECT ord FROM floor), coalesce((SELECT notify_seq FROM floor), 0),
			(SELECT min(ord) FROM event WHERE part = $1 AND room_nid = $2 AND ord < $5
				AND ord > $6::bigint + coalesce((SELECT ord << 20 FROM floor), $7::bigint))`,
		int32(part), roomNID, pos, int64(leastOrd), h.Low.LateOrd(), int64(lateOrd), int64(Start)).Scan(&floor, &h.NotifySeq, &low)
	if err != nil {
		return nil, fmt.Errorf("read a hole: %w", err)
	}
	if floor != nil {
		h.Floor = At(*floor)
	}
	if low != nil {
		h.Low = PlaceOf(*low)
	}
	return h, nil
}

// Holes returns the positions of the newest holes of rooms up to the ends of timelines, for those that have any, with one query
// for each shard.
func (d *DB) Holes(ctx context.Context, ends []TimelineEnd) (map[RoomKey]int64, error) {
	found := make(map[RoomKey]int64)
	parts := make([]uint32, len(ends))
	for i, e := range ends {
		parts[i] = e.Part
	}
	err := d.eachShard(parts, func(q querier, parts []int32, index []int) error {
		rooms, upTo := make([]int64, len(index)), make([]int64, len(index))
		for i, at := range index {
			rooms[i], upTo[i] = ends[at].NID, ends[at].UpTo
		}
		rows, err := q.Query(ctx, `SELECT m.part, m.room_nid, max(m.hole) FROM unnest($1::int[], $2::bigint[], $3::bigint[]) AS r (p, n, u)
			JOIN missing_prev m ON m.part = r.p AND m.room_nid = r.n AND m.hole <= r.u GROUP BY 1, 2`, parts, rooms, upTo)
		if err != nil {
			return fmt.Errorf("look for holes: %w", err)
		}
		var key RoomKey
		var pos int64
		_, err = pgx.ForEachRow(rows, []any{&key.Part, &key.NID, &pos}, func() error {
			found[key] = pos
			return nil
		})
		return err
	})
	if err != nil {
		return nil, errors.Join(errors.New("look for holes"), err)
	}
	return found, nil
}
