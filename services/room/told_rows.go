package room

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/id"
)

const (
	sqlInsertTold = `
INSERT INTO told_event (part, room_nid, event_nid, told, pos, asks, via)
SELECT part, room_nid, event_nid, true, pos, asks, via
FROM unnest($1::int[], $2::bigint[], $3::bigint[], $4::bigint[], $5::int[], $6::text[]) AS b(part, room_nid, event_nid, pos, asks, via)
ON CONFLICT (part, room_nid, event_nid) DO UPDATE SET told = true, pos = excluded.pos, asks = excluded.asks, via = excluded.via`

	sqlInsertRefused = `
INSERT INTO told_event (part, room_nid, event_nid, told, pos)
SELECT part, room_nid, event_nid, false, pos FROM unnest($1::int[], $2::bigint[], $3::bigint[], $4::bigint[]) AS b(part, room_nid, event_nid, pos)
WHERE EXISTS (SELECT 1 FROM told_event t WHERE t.part = b.part AND t.room_nid = b.room_nid AND t.told)
ON CONFLICT DO NOTHING`

	sqlDeleteTold = `
DELETE FROM told_event t USING unnest($1::int[], $2::bigint[], $3::bigint[]) AS b(part, room_nid, event_nid)
WHERE t.part = b.part AND t.room_nid = b.room_nid AND t.event_nid = b.event_nid`

	sqlForgetRefused = `
DELETE FROM told_event t USING unnest($1::int[], $2::bigint[]) AS b(part, room_nid)
WHERE t.part = b.part AND t.room_nid = b.room_nid AND NOT t.told
	AND NOT EXISTS (SELECT 1 FROM told_event o WHERE o.part = b.part AND o.room_nid = b.room_nid AND o.told)`

	// sqlToldReady finds the event to be judged again first: one whose prev events are all here. Of a join others are asked instead.
	sqlToldReady = `
SELECT t.event_nid, t.pos FROM told_event t
WHERE t.part = $1 AND t.room_nid = $2 AND t.told AND t.asks = 0
	AND NOT EXISTS (SELECT 1 FROM missing_prev m WHERE m.part = t.part AND m.room_nid = t.room_nid AND m.child = t.event_nid)
ORDER BY t.pos, t.event_nid LIMIT 1`

	sqlToldRooms = `
SELECT DISTINCT r.room_id FROM told_event t JOIN room r USING (part, room_nid)
WHERE t.part = $1 AND t.told AND t.asks = 0
	AND NOT EXISTS (SELECT 1 FROM missing_prev m WHERE m.part = t.part AND m.room_nid = t.room_nid AND m.child = t.event_nid)`

	// sqlToldJoin finds the join of a room about which others are still to be asked; there is one for each stay.
	sqlToldJoin = `
SELECT event_nid, pos, asks, via FROM told_event WHERE part = $1 AND room_nid = $2 AND asks > 0 ORDER BY event_nid LIMIT 1`

	sqlToldJoinRooms = `
SELECT DISTINCT r.room_id FROM told_event t JOIN room r USING (part, room_nid) WHERE t.part = $1 AND t.asks > 0`

	sqlToldOf = `SELECT event_nid, told, pos FROM told_event WHERE part = $1 AND room_nid = $2`

	// sqlSpan reads which events of the timeline may follow one: those in holes above a place, and what came live behind a
	// position.
	sqlSpan = `
(SELECT event_nid FROM event WHERE part = $1 AND room_nid = $2 AND ord > $3 AND ord < $4 ORDER BY ord LIMIT $6)
UNION ALL
(SELECT event_nid FROM event WHERE part = $1 AND room_nid = $2 AND ord > $5 ORDER BY ord LIMIT $6)`
)

// toldEvent is an event before which other servers told the state.
type toldEvent struct {
	nid, pos int64
	telling
}

// telling is how the state came with a join.
type telling struct {
	// asks is how often others are asked at most about a state that came with a join; 0: it is judged again when the prev events
	// are here. via is the server that told it.
	asks int32
	via  id.Server
}

// queueTold writes which events stand upon what was told, and which of these were judged again.
func (b *batch) queueTold(q *pgx.Batch) {
	var refused, judged keyed
	var refusedPos []int64
	var told toldRows
	for _, c := range b.changes {
		for _, e := range c.events {
			switch {
			case e.told:
				told.add(c.room, toldEvent{nid: e.nid, pos: e.toldPos(c.last)})
			case e.nid == c.joined.nid:
				told.add(c.room, toldEvent{nid: e.nid, pos: e.toldPos(c.last), telling: c.joined.telling})
			case e.flags&(flagRejected|flagSoftFailed) != 0 && e.flags&flagOutlier == 0:
				refused.add(c.room)
				refused.num, refusedPos = append(refused.num, e.nid), append(refusedPos, e.hole)
			}
		}
		for _, t := range c.upon {
			told.add(c.room, t)
		}
		if c.judgedAgain != 0 {
			judged.add(c.room)
			judged.num = append(judged.num, c.judgedAgain)
		}
	}
	if len(told.part) > 0 {
		q.Queue(sqlInsertTold, told.part, told.room, told.num, told.pos, told.asks, told.via)
	}
	if len(refused.part) > 0 {
		q.Queue(sqlInsertRefused, refused.part, refused.room, refused.num, refusedPos)
	}
	if len(judged.part) > 0 {
		q.Queue(sqlDeleteTold, judged.part, judged.room, judged.num)
		q.Queue(sqlForgetRefused, judged.part, judged.room)
	}
}

// toldRows holds rows of told_event column by column, as unnest takes them.
type toldRows struct {
	keyed
	pos  []int64
	asks []int32
	via  []string
}

func (r *toldRows) add(room *room, t toldEvent) {
	r.keyed.add(room)
	r.num, r.pos = append(r.num, t.nid), append(r.pos, t.pos)
	r.asks, r.via = append(r.asks, t.asks), append(r.via, string(t.via))
}

// toldPos returns the log position behind which the events lie that came live and may follow the event. last is that of the
// partition.
func (e *newEvent) toldPos(last int64) int64 {
	switch {
	case e.hole != 0:
		return e.hole - 1
	case e.ord > 0:
		return e.ord
	}
	return last
}

// toldReady returns the event that is to be judged again next, or nil.
func (r *room) toldReady(ctx context.Context) (*toldEvent, error) {
	t := new(toldEvent)
	err := r.s.shards.For(r.p.part).QueryRow(ctx, sqlToldReady, int32(r.p.part), r.nid).Scan(&t.nid, &t.pos)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("events to be judged again: %w", err)
	}
	return t, nil
}

// toldJoin returns the join about which others are to be asked, or nil.
func (r *room) toldJoin(ctx context.Context) (*toldEvent, error) {
	t := new(toldEvent)
	err := r.s.shards.For(r.p.part).QueryRow(ctx, sqlToldJoin, int32(r.p.part), r.nid).Scan(&t.nid, &t.pos, &t.asks, &t.via)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("joins to be compared: %w", err)
	}
	return t, nil
}

// roomsOf returns the rooms of a partition that a query finds.
func (s *Service) roomsOf(ctx context.Context, p *lease, sql string) ([]id.Room, error) {
	rows, err := s.shards.For(p.part).Query(ctx, sql, int32(p.part))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[id.Room])
}
