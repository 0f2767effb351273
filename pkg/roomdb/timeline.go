package roomdb

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb/eventsql"
)

// TimelineQuery asks for visible events with After < place <= UpTo.
type TimelineQuery struct {
	After, UpTo Place
	// Backwards returns the newest first.
	Backwards bool
	// Live leaves out what came later than its place.
	Live   bool
	Limit  int
	Filter Filter
}

// Filter is the part of a client's event filter (RoomEventFilter of the client-server API, section Filtering) that
// concerns the event itself. Nil slices do not restrict, empty ones match nothing.
type Filter struct {
	Types, NotTypes     []string // * stands for any characters
	Senders, NotSenders []id.User
	// ContainsURL asks that content.url be present (true) or absent (false).
	ContainsURL *bool
	// What the event relates to another one by, and what others relate to it by: the types of relations, and the senders.
	RelTypes, NotRelTypes []string
	RelatedByTypes        []string
	RelatedBySenders      []id.User
}

// Timeline returns visible events of a room in timeline order.
func (d *DB) Timeline(ctx context.Context, part uint32, roomNID int64, q TimelineQuery) ([]*Event, error) {
	sql, args := timelineSQL(part, roomNID, q)
	return d.queryEvents(ctx, part, sql, args...)
}

// TimelineEnd names the newest events of a room up to a position.
type TimelineEnd struct {
	RoomKey
	UpTo int64
}

// Ending is the newest events of a timeline.
type Ending struct {
	Events []*Event // the newest first
	// Hole is the position of the hole at which they end, if there is one.
	Hole *int64
}

// TimelineEnds returns the newest visible events of many rooms, at most limit of each and those behind the newest hole only,
// with one query for each shard.
func (d *DB) TimelineEnds(ctx context.Context, ends []TimelineEnd, limit int) (map[RoomKey]Ending, error) {
	parts := make([]uint32, len(ends))
	for i, e := range ends {
		parts[i] = e.Part
	}
	var places []place
	empty := make(map[RoomKey]Ending, len(ends))
	want := make(map[uint32][]int64)
	err := d.eachShard(parts, func(q querier, parts []int32, index []int) error {
		rooms, upTo := make([]int64, len(index)), make([]int64, len(index))
		for i, at := range index {
			rooms[i], upTo[i] = ends[at].NID, ends[at].UpTo
		}
		rows, err := q.Query(ctx, `SELECT r.p, r.n, h.pos, coalesce(e.event_nid, 0), coalesce(e.ord, 0), coalesce(e.redacted_by, 0)
			FROM unnest($1::int[], $2::bigint[], $3::bigint[]) AS r (p, n, u)
			CROSS JOIN LATERAL (SELECT max(hole) AS pos FROM missing_prev WHERE part = r.p AND room_nid = r.n AND hole <= r.u) h
			LEFT JOIN LATERAL (
				SELECT * FROM (
					(SELECT event_nid, ord, redacted_by, ord << 20 AS place FROM event
						WHERE part = r.p AND room_nid = r.n AND ord >= coalesce(h.pos, $5) AND ord <= r.u ORDER BY ord DESC LIMIT $4)
					UNION ALL
					(SELECT event_nid, ord, redacted_by, ord - $6::bigint AS place FROM event
						WHERE part = r.p AND room_nid = r.n AND ord >= coalesce(h.pos << 20, $7) + $6 AND ord <= (r.u << 20) + $6
						ORDER BY ord DESC LIMIT $4)) e
				ORDER BY place DESC LIMIT $4) e ON true`, parts, rooms, upTo, limit, int64(leastOrd), int64(lateOrd), int64(Start))
		if err != nil {
			return fmt.Errorf("read ends of timelines: %w", err)
		}
		defer rows.Close()
		for rows.Next() {
			var p place
			if err := rows.Scan(&p.room.Part, &p.room.NID, &p.hole, &p.nid, &p.ord, &p.redactedBy); err != nil {
				return fmt.Errorf("read ends of timelines: %w", err)
			}
			if p.nid == 0 {
				empty[p.room] = Ending{Hole: p.hole}
				continue
			}
			d.forgetOld(p)
			places = append(places, p)
			want[p.room.Part] = append(want[p.room.Part], p.nid)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, err
	}
	events, err := d.EventsIn(ctx, want)
	if err != nil {
		return nil, err
	}
	found := empty
	for _, p := range places {
		if e := events[p.room.Part][p.nid]; e != nil {
			found[p.room] = Ending{append(found[p.room].Events, e), p.hole}
		}
	}
	return found, nil
}

// place is an event's place in a timeline, and what may have changed of it since it was cached.
type place struct {
	room                 RoomKey
	nid, ord, redactedBy int64
	hole                 *int64
}

// forgetOld makes an event be read anew that was redacted, or got its place, after it was cached.
func (d *DB) forgetOld(p place) {
	key := eventKey{p.room.Part, p.nid}
	if e, ok := d.events.Get(key); ok && (e.Ord != p.ord || e.RedactedBy != p.redactedBy) {
		d.events.Remove(key)
	}
}

func timelineSQL(part uint32, roomNID int64, q TimelineQuery) (string, []any) {
	after, upTo := max(q.After, Start), min(q.UpTo, End)
	args := []any{int32(part), roomNID, after.Pos(), upTo.Pos(), q.Limit}
	bind := func(v any) string {
		args = append(args, v)
		return "$" + strconv.Itoa(len(args))
	}
	var where strings.Builder
	f := q.Filter
	if f.Types != nil {
		where.WriteString(` AND type LIKE ANY(` + bind(patterns(f.Types)) + `)`)
	}
	if len(f.NotTypes) > 0 {
		where.WriteString(` AND NOT type LIKE ANY(` + bind(patterns(f.NotTypes)) + `)`)
	}
	if f.Senders != nil {
		where.WriteString(` AND sender = ANY(` + bind(texts(f.Senders)) + `)`)
	}
	if len(f.NotSenders) > 0 {
		where.WriteString(` AND NOT sender = ANY(` + bind(texts(f.NotSenders)) + `)`)
	}
	if f.ContainsURL != nil {
		// The JSON of an event never holds a NUL, which jsonb would refuse, outside of strings; strings may escape it.
		where.WriteString(` AND (CASE WHEN redacted_by IS NULL THEN json_typeof(convert_from(json, 'UTF8')::json -> 'content' -> 'url') = 'string' ELSE false END) IS `)
		if *f.ContainsURL {
			where.WriteString(`TRUE`)
		} else {
			where.WriteString(`NOT TRUE`)
		}
	}
	f.relations(&where, bind)
	order := ` ORDER BY ord LIMIT $5`
	if q.Backwards {
		order = ` ORDER BY ord DESC LIMIT $5`
	}
	live := ` FROM event WHERE part = $1 AND room_nid = $2 AND ord > $3 AND ord <= $4` + where.String() + order
	if q.Live {
		return `SELECT ` + eventsql.Columns + live, args
	}
	late := ` FROM event WHERE part = $1 AND room_nid = $2 AND ord > ` + bind(after.LateOrd()) + ` AND ord <= ` + bind(upTo.LateOrd()) + where.String() + order
	return `SELECT ` + eventsql.Columns + ` FROM ((SELECT *, ord << 20 AS place` + live + `) UNION ALL (SELECT *, ord - (` +
		strconv.Itoa(lateOrd) + `) AS place` + late + `)) e` + strings.Replace(order, "ord", "place", 1), args
}

// relations adds what a filter asks of relations.
func (f *Filter) relations(where *strings.Builder, bind func(any) string) {
	const own = `EXISTS (SELECT FROM relation r WHERE r.part = event.part AND r.child = event.event_nid AND r.rel_type = ANY(`
	if f.RelTypes != nil {
		where.WriteString(` AND ` + own + bind(f.RelTypes) + `))`)
	}
	if len(f.NotRelTypes) > 0 {
		where.WriteString(` AND NOT ` + own + bind(f.NotRelTypes) + `))`)
	}
	if f.RelatedByTypes == nil && f.RelatedBySenders == nil {
		return
	}
	where.WriteString(` AND EXISTS (SELECT FROM relation r WHERE r.part = event.part AND r.room_nid = event.room_nid AND r.parent = event.event_id AND r.live`)
	if f.RelatedByTypes != nil {
		where.WriteString(` AND r.rel_type = ANY(` + bind(f.RelatedByTypes) + `)`)
	}
	if f.RelatedBySenders != nil {
		where.WriteString(` AND r.sender = ANY(` + bind(texts(f.RelatedBySenders)) + `)`)
	}
	where.WriteString(`)`)
}

// patterns turns the wildcards of a filter into those of LIKE.
func patterns(types []string) []string {
	escape := strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`, `*`, `%`)
	out := make([]string, len(types))
	for i, t := range types {
		out[i] = escape.Replace(t)
	}
	return out
}

func texts(users []id.User) []string {
	out := make([]string, len(users))
	for i, u := range users {
		out[i] = string(u)
	}
	return out
}
