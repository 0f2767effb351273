package room

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/id"
	"hanse/pkg/pg"
	"hanse/pkg/roomdb/eventsql"
)

// partialRoom is what the owner remembers of a room that was joined without its members: the row of partial_room.
type partialRoom struct {
	joinNID int64 // our join
	via     id.Server
	sinceTS int64
}

// partialRows is what a change writes of rooms that were joined without their members.
type partialRows struct {
	// begin marks the room. end takes the mark off, abandon leaves the events as they are, which were never judged by a
	// whole state. anew forgets the servers that were counted in an earlier stay without members.
	begin              *partialRoom
	end, abandon, anew bool
	// unsure are events that were judged by the partial state, redone those that were judged anew.
	unsure []unsureEvent
	redone []redoneEvent
	// restored are events that a redaction had redacted which is refused now.
	restored []redaction
}

// unsureEvent is a row of partial_event.
type unsureEvent struct {
	n, nid  int64
	history bool
}

// redoneEvent is a new verdict about a stored event, and its new state.
type redoneEvent struct {
	nid, sid, replaces int64
	flags              int32
	prev               []int64
}

const (
	// What an earlier stay in the room left is forgotten when it is joined again.
	sqlForgetServers = `
DELETE FROM room_server s USING unnest($1::int[], $2::bigint[]) AS b(part, room_nid)
WHERE s.part = b.part AND s.room_nid = b.room_nid`

	sqlForgetUnsure = `
DELETE FROM partial_event e USING unnest($1::int[], $2::bigint[]) AS b(part, room_nid)
WHERE e.part = b.part AND e.room_nid = b.room_nid`

	sqlEndPartial = `
DELETE FROM partial_room r USING unnest($1::int[], $2::bigint[]) AS b(part, room_nid)
WHERE r.part = b.part AND r.room_nid = b.room_nid`

	sqlBeginPartial = `
INSERT INTO partial_room (part, room_nid, join_nid, via, since_ts)
SELECT * FROM unnest($1::int[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[])
ON CONFLICT (part, room_nid) DO UPDATE SET join_nid = excluded.join_nid, via = excluded.via, since_ts = excluded.since_ts`

	sqlInsertUnsure = `
INSERT INTO partial_event (part, room_nid, n, event_nid, history)
SELECT * FROM unnest($1::int[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bool[])`

	sqlPartialRoom  = `SELECT join_nid, via, since_ts FROM partial_room WHERE part = $1 AND room_nid = $2`
	sqlPartialRooms = `
SELECT r.room_id FROM partial_room p JOIN room r ON r.part = p.part AND r.room_nid = p.room_nid
WHERE p.part = $1 ORDER BY p.since_ts`
	sqlUnsure = `
SELECT n, event_nid, history FROM partial_event WHERE part = $1 AND room_nid = $2 AND n > $3 ORDER BY n LIMIT $4`
	sqlRoomServers = `SELECT server, joined FROM room_server WHERE part = $1 AND room_nid = $2`
)

// queuePartial writes what concerns rooms whose members are being fetched.
func (b *batch) queuePartial(q *pgx.Batch) {
	var begin, end, abandon, anew, unsure, redone, restored keyed
	var since, events, sids, replaces, by []int64
	for _, c := range b.changes {
		p := &c.partial
		if p.begin != nil {
			begin.add(c.room)
			begin.num, begin.text = append(begin.num, p.begin.joinNID), append(begin.text, string(p.begin.via))
			since = append(since, p.begin.sinceTS)
		}
		if p.end {
			end.add(c.room)
		}
		if p.abandon {
			abandon.add(c.room)
		}
		if p.anew {
			anew.add(c.room)
		}
		for _, u := range p.unsure {
			unsure.add(c.room)
			unsure.num, unsure.flag = append(unsure.num, u.n), append(unsure.flag, u.history)
			events = append(events, u.nid)
		}
		for _, e := range p.redone {
			redone.add(c.room)
			redone.num, redone.small = append(redone.num, e.nid), append(redone.small, e.flags)
			sids, replaces = append(sids, e.sid), append(replaces, e.replaces)
			redone.text = append(redone.text, int64Array(e.prev))
		}
		for _, e := range p.restored {
			restored.add(c.room)
			restored.num, by = append(restored.num, e.target), append(by, e.by)
		}
	}
	// Before a beginning and an end all earlier changes of the room are committed: within a batch they come in this order.
	if len(anew.part) > 0 {
		q.Queue(sqlForgetServers, anew.part, anew.room)
	}
	if len(begin.part) > 0 {
		q.Queue(sqlBeginPartial, begin.part, begin.room, begin.num, begin.text, since)
	}
	if len(unsure.part) > 0 {
		q.Queue(sqlInsertUnsure, unsure.part, unsure.room, unsure.num, events, unsure.flag)
	}
	if len(redone.part) > 0 {
		q.Queue(eventsql.Judge, redone.part, redone.num, sids, redone.small, replaces, redone.text)
	}
	if len(restored.part) > 0 {
		q.Queue(eventsql.Restore, restored.part, restored.num, by)
	}
	if len(abandon.part) > 0 {
		q.Queue(sqlEndPartial, abandon.part, abandon.room)
	}
	if len(end.part) > 0 {
		q.Queue(sqlForgetUnsure, end.part, end.room)
		q.Queue(sqlEndPartial, end.part, end.room)
	}
}

// loadPartial reads the mark of the room, if there is one: a room that we left before its members were known has none.
func (r *room) loadPartial(ctx context.Context) error {
	p := new(partialRoom)
	err := r.s.shards.For(r.p.part).QueryRow(ctx, sqlPartialRoom, int32(r.p.part), r.nid).Scan(&p.joinNID, &p.via, &p.sinceTS)
	if pg.IsNoRows(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("load room %s: %w", r.id, err)
	}
	r.partial = p
	return nil
}
