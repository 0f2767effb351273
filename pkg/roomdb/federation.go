package roomdb

import (
	"context"
	"fmt"
	"slices"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb/eventsql"
)

// InRoom says whether a server has joined members in a room.
func (d *DB) InRoom(ctx context.Context, part uint32, roomNID int64, server id.Server) (bool, error) {
	var in bool
	err := d.shards.For(part).QueryRow(ctx, `SELECT EXISTS (SELECT FROM room_server WHERE part = $1 AND room_nid = $2 AND server = $3 AND joined > 0)`,
		int32(part), roomNID, string(server)).Scan(&in)
	if err != nil {
		return false, fmt.Errorf("read servers of a room: %w", err)
	}
	return in, nil
}

// SharedRooms returns the rooms that both a server and we are in, at most limit of each shard, with one query for each.
func (d *DB) SharedRooms(ctx context.Context, server id.Server, limit int) ([]*Room, error) {
	found := make(map[id.Room]*Room)
	err := d.eachShard(d.allParts(), func(q querier, parts []int32, _ []int) error {
		return d.scanRooms(ctx, q, found, `SELECT `+roomColumns+` FROM room r
			WHERE joined_local > 0 AND part = ANY($1) AND EXISTS (SELECT FROM room_server s
				WHERE s.part = r.part AND s.room_nid = r.room_nid AND s.server = $2 AND s.joined > 0) LIMIT $3`, parts, string(server), limit)
	})
	if err != nil {
		return nil, err
	}
	rooms := make([]*Room, 0, len(found))
	for _, r := range found {
		rooms = append(rooms, r)
	}
	return rooms, nil
}

func (d *DB) allParts() []uint32 {
	parts := make([]uint32, d.shards.P())
	for i := range parts {
		parts[i] = uint32(i)
	}
	return parts
}

// FindEvent returns an event of whose room the caller knows nothing, or ErrNotFound. It asks each shard once.
func (d *DB) FindEvent(ctx context.Context, eventID id.Event) (*Event, error) {
	var found []*Event
	err := d.eachShard(d.allParts(), func(q querier, parts []int32, _ []int) error {
		if len(found) > 0 {
			return nil
		}
		events, err := d.queryEventsAt(ctx, q, eventsql.OneInParts, parts, string(eventID))
		found = append(found, events...)
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("event %s: %w", eventID, ErrNotFound)
	}
	return found[0], nil
}

// EventIDs returns the ids of those of the events that exist.
func (d *DB) EventIDs(ctx context.Context, part uint32, nids []int64) (map[int64]id.Event, error) {
	rows, err := d.shards.For(part).Query(ctx, eventsql.IDs, int32(part), nids)
	if err != nil {
		return nil, fmt.Errorf("read event ids: %w", err)
	}
	defer rows.Close()
	ids := make(map[int64]id.Event, len(nids))
	for rows.Next() {
		var nid int64
		var eventID id.Event
		if err := rows.Scan(&nid, &eventID); err != nil {
			return nil, fmt.Errorf("read event ids: %w", err)
		}
		ids[nid] = eventID
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read event ids: %w", err)
	}
	return ids, nil
}

// nearby is how many neighbours in the timeline AroundTime returns on either side.
const nearby = 100

// AroundTime returns the visible events around the place where a time belongs in the timeline, in its order. It takes
// timestamps to grow with the timeline, give or take some neighbours, so that it can search by halves: senders choose
// timestamps as they like, and an index of them would cost every event.
func (d *DB) AroundTime(ctx context.Context, room *Room, ts int64, backwards bool) ([]*Event, error) {
	if backwards {
		ts++ // the place is behind all events of that time
	}
	first := func(after, upTo Place, live bool) (*Event, error) {
		events, err := d.Timeline(ctx, room.Part, room.NID, TimelineQuery{After: after, UpTo: upTo, Limit: 1, Live: live})
		if err != nil || len(events) == 0 {
			return nil, err
		}
		return events[0], nil
	}
	// Among what came live: up to position low all is older, behind position high nothing is.
	low, high := room.FirstOrd-1, room.LastPos
	for low < high {
		mid := low + (high-low)/2
		e, err := first(At(mid), At(high), true)
		switch {
		case err != nil:
			return nil, err
		case e != nil && e.OriginServerTS < ts:
			low = e.Ord
		default:
			high = mid
		}
	}
	// Then in the hole between the last that is older and the first that is not.
	from, to := At(low), End
	if low < room.FirstOrd {
		from = Start
	}
	if e, err := first(At(low), End, true); err != nil {
		return nil, err
	} else if e != nil {
		to = e.Place() - 1
	}
	for from < to {
		e, err := first(from, to, false)
		if err != nil {
			return nil, err
		}
		if e == nil || e.OriginServerTS >= ts { // so it is of all of them, at once for a hole in which there is nothing
			break
		}
		mid := from + (to-from)/2
		if e, err = first(mid, to, false); err != nil {
			return nil, err
		}
		if e != nil && e.OriginServerTS < ts {
			from = e.Place()
		} else {
			to = mid
		}
	}
	before, err := d.Timeline(ctx, room.Part, room.NID, TimelineQuery{After: Start, UpTo: from, Backwards: true, Limit: nearby})
	if err != nil {
		return nil, err
	}
	behind, err := d.Timeline(ctx, room.Part, room.NID, TimelineQuery{After: from, UpTo: End, Limit: nearby})
	slices.Reverse(before)
	return append(before, behind...), err
}

// ClosestTo returns the event of a timeline whose timestamp is nearest to ts, at or behind it in the direction of
// looking, and of several with the same time the one that is met first; nil if there is none.
func ClosestTo(events []*Event, ts int64, backwards bool) *Event {
	var best *Event
	for _, e := range events {
		switch {
		case backwards && e.OriginServerTS <= ts && (best == nil || e.OriginServerTS >= best.OriginServerTS),
			!backwards && e.OriginServerTS >= ts && (best == nil || e.OriginServerTS < best.OriginServerTS):
			best = e
		}
	}
	return best
}
