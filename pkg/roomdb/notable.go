package roomdb

import (
	"context"
	"fmt"

	"hanse/pkg/matrix/id"
)

// Notable is an event that may have notified a user.
type Notable struct {
	Room     RoomKey
	NID, Ord int64
	// TS is when its server says that it was sent, in milliseconds since 1970, at the latest the Latest of its span.
	TS int64
}

// NotableSpan asks for such events of a room.
type NotableSpan struct {
	RoomKey
	After  int64 // log position: what came later
	Latest int64 // for TS
	// Of what: Every event, those with Mentions of the user only, or else those with mentions and those that notify by the default
	// rules.
	Every, Mentions bool
}

// maxNotable is how many events of a room are looked at, the newest.
const maxNotable = 2000

// Notables returns, for each of some rooms, the newest events that may have notified a user: those before a place in the list, which
// is the order of time, and at most limit of each room. Redacted events and those of the user and of ignored users are left out.
func (d *DB) Notables(ctx context.Context, user id.User, ignored []id.User, spans []NotableSpan, before Notable, limit int) ([]Notable, error) {
	var found []Notable
	var mentions, others []NotableSpan
	for _, s := range spans {
		if s.Mentions {
			mentions = append(mentions, s)
		} else {
			others = append(others, s)
		}
	}
	silent := silentUsers(user, ignored)
	for _, of := range []struct {
		spans []NotableSpan
		from  string
	}{{mentions, notableMentions}, {others, notableEvents}} {
		parts := make([]uint32, len(of.spans))
		for i, s := range of.spans {
			parts[i] = s.Part
		}
		err := d.eachShard(parts, func(q querier, parts []int32, index []int) error {
			nids, after, latest, every := make([]int64, len(index)), make([]int64, len(index)), make([]int64, len(index)), make([]bool, len(index))
			for i, at := range index {
				s := &of.spans[at]
				nids[i], after[i], latest[i], every[i] = s.NID, s.After, s.Latest, s.Every
			}
			rows, err := q.Query(ctx, `SELECT r.p, r.n, e.event_nid, e.ord, e.ts
				FROM unnest($1::int[], $2::bigint[], $3::bigint[], $4::bigint[], $5::boolean[]) AS r (p, n, a, latest, every)
				CROSS JOIN LATERAL (
					SELECT event_nid, ord, least(origin_ts, r.latest) AS ts FROM (`+of.from+`) looked
					WHERE notable AND sender <> ALL($7) AND redacted_by IS NULL
						AND (least(origin_ts, r.latest), r.p, r.n, ord) < ($8::bigint, $9::int, $10::bigint, $11::bigint)
					ORDER BY ord DESC LIMIT $13) e`,
				parts, nids, after, latest, every, string(user), silent, before.TS, int32(before.Room.Part), before.Room.NID, before.Ord, maxNotable, limit)
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				var n Notable
				if err := rows.Scan(&n.Room.Part, &n.Room.NID, &n.NID, &n.Ord, &n.TS); err != nil {
					return err
				}
				found = append(found, n)
			}
			return rows.Err()
		})
		if err != nil {
			return nil, fmt.Errorf("read events that notify: %w", err)
		}
	}
	return found, nil
}

const (
	// notableEvents are the newest events of a room, and whether they may notify.
	notableEvents = `SELECT x.event_nid, x.ord, x.origin_ts, x.sender, x.redacted_by, r.every
			OR x.notify_seq > coalesce(lead(x.notify_seq) OVER (ORDER BY x.ord DESC), (SELECT b.notify_seq FROM event b
				WHERE b.part = r.p AND b.room_nid = r.n AND b.ord < x.ord ORDER BY b.ord DESC LIMIT 1), 0)
			OR EXISTS (SELECT FROM mention m WHERE m.part = r.p AND m.room_nid = r.n AND m.user_id IN ($6, '') AND m.ord = x.ord) AS notable
		FROM (SELECT event_nid, ord, origin_ts, sender, redacted_by, notify_seq FROM event
			WHERE part = r.p AND room_nid = r.n AND ord > r.a ORDER BY ord DESC LIMIT $12) x`
	// notableMentions are the newest events of a room that mention the user, or everybody in it.
	notableMentions = `SELECT DISTINCT e.event_nid, e.ord, e.origin_ts, e.sender, e.redacted_by, true AS notable
		FROM (VALUES ($6), ('')) AS u (id)
		CROSS JOIN LATERAL (SELECT ord FROM mention WHERE part = r.p AND room_nid = r.n AND user_id = u.id AND ord > r.a
			ORDER BY ord DESC LIMIT $12) m
		JOIN event e ON e.part = r.p AND e.room_nid = r.n AND e.ord = m.ord`
)
