package roomdb

import (
	"context"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/id"
)

// Relations are kept by the owners of rooms (docs/relations.md): what is asked here counts and sorts no events.

const (
	// maxReferences bounds the references that are told with an event.
	maxReferences = 100
	// maxReplies bounds the replies of a thread whose senders Aggregates looks at.
	maxReplies = 2000
	// maxTakingPart bounds for how many users Aggregates says that they take part in a thread.
	maxTakingPart = 200
	// RecursionDepth is how many relations lead from an event to those that Relations finds with Recurse.
	RecursionDepth = 3
)

// Aggregate is what relates to an event.
type Aggregate struct {
	// Edit is the newest event that replaces the content; 0 if there is none.
	Edit int64
	// Latest is the newest reply of the thread on the event, LatestEdit what replaces the content of that; 0 if there is none.
	Latest, LatestEdit int64
	// Replies counts those of the thread, Own those of the reader. TakesPart has the users in the thread, if it was asked for.
	Replies, Own int64
	TakesPart    map[id.User]struct{}
	// References are the events that refer to the event, the oldest of them if there are many.
	References []id.Event
}

// Crowded says that more users take part in the thread than TakesPart has, or may be in it.
func (a *Aggregate) Crowded() bool {
	return a.TakesPart != nil && (len(a.TakesPart) > maxTakingPart || a.Replies > maxReplies)
}

// AggregateQuery says for whom relations are summed up.
type AggregateQuery struct {
	// Reader is who reads, and Ignored whose events do not count. If Reader is empty, TakesPart is found.
	Reader  id.User
	Ignored []id.User
	// UpTo is the place up to which the reader sees the room.
	UpTo Place
}

// Kinds of rows of sqlAggregates.
const (
	rowEdit = iota
	rowReference
	rowReplies
	rowLatest
	rowLatestEdit
)

const (
	liveChild = `part = w.part AND room_nid = w.room AND live AND place <= $6`
	// editOf selects the newest edit of an event ("Server-side aggregation of m.replace relationships").
	editOf = `SELECT child FROM relation WHERE ` + liveChild + ` AND parent = %[1]s.id AND sender = %[1]s.sender AND rel_type = 'm.replace'
		AND edit AND type = %[1]s.type ORDER BY origin_ts DESC, child_id DESC LIMIT 1`
	// latestOf selects the newest reply of the thread on event w.
	latestOf = `SELECT child, child_id AS id, sender, type FROM relation WHERE ` + liveChild + ` AND parent = w.id AND rel_type = 'm.thread'
		AND sender <> ALL($7) ORDER BY place DESC LIMIT 1`
)

// sqlAggregates looks at each event once if nothing relates to it.
var sqlAggregates = `
SELECT w.n, x.kind, x.child, x.id, x.replies
FROM unnest($1::int[], $2::bigint[], $3::text[], $4::text[], $5::text[]) WITH ORDINALITY AS w (part, room, id, sender, type, n)
CROSS JOIN LATERAL (SELECT place FROM relation WHERE part = w.part AND room_nid = w.room AND parent = w.id AND live ORDER BY place LIMIT 1) has
CROSS JOIN LATERAL (
	(SELECT ` + strconv.Itoa(rowEdit) + ` AS kind, child, '' AS id, 0::bigint AS replies FROM (` + fmt.Sprintf(editOf, "w") + `) e)
	UNION ALL
	(SELECT ` + strconv.Itoa(rowReference) + `, child, child_id, 0 FROM relation WHERE ` + liveChild + ` AND parent = w.id AND rel_type = 'm.reference'
		AND sender <> ALL($7) ORDER BY place LIMIT ` + strconv.Itoa(maxReferences) + `)
	UNION ALL
	(SELECT ` + strconv.Itoa(rowReplies) + `, 0, user_id, replies FROM thread
		WHERE part = w.part AND room_nid = w.room AND root = w.id AND user_id = ANY($8))
	UNION ALL
	(SELECT ` + strconv.Itoa(rowLatest) + `, child, '', 0 FROM (` + latestOf + `) l)
	UNION ALL
	(SELECT ` + strconv.Itoa(rowLatestEdit) + `, e.child, '', 0 FROM (` + latestOf + `) l CROSS JOIN LATERAL (` + fmt.Sprintf(editOf, "l") + `) e)) x
ORDER BY w.n, x.kind`

// Aggregates returns what relates to events, for those to which something does: one statement for each shard, however many they are.
func (d *DB) Aggregates(ctx context.Context, q AggregateQuery, events []*Event) (map[*Event]*Aggregate, error) {
	found := make(map[*Event]*Aggregate)
	ignored := texts(q.Ignored)
	counted := append([]string{"", string(q.Reader)}, ignored...)
	parts := make([]uint32, len(events))
	for i, e := range events {
		parts[i] = e.Part
	}
	err := d.eachShard(parts, func(db querier, parts []int32, index []int) error {
		n := len(index)
		rooms, ids, senders, types := make([]int64, n), make([]string, n), make([]string, n), make([]string, n)
		for i, at := range index {
			e := events[at]
			rooms[i], ids[i], senders[i], types[i] = e.RoomNID, string(e.ID), string(e.Sender), e.Type
		}
		rows, err := db.Query(ctx, sqlAggregates, parts, rooms, ids, senders, types, int64(q.UpTo), ignored, counted)
		if err != nil {
			return fmt.Errorf("read aggregations: %w", err)
		}
		var at, kind, child, replies int64
		var text string
		_, err = pgx.ForEachRow(rows, []any{&at, &kind, &child, &text, &replies}, func() error {
			e := events[index[at-1]]
			if found[e] == nil {
				found[e] = new(Aggregate)
			}
			found[e].add(q, kind, child, text, replies)
			return nil
		})
		if err != nil {
			return fmt.Errorf("read aggregations: %w", err)
		}
		return nil
	})
	if err == nil && q.Reader == "" {
		err = d.takePart(ctx, found)
	}
	return found, err
}

// add takes a row of sqlAggregates.
func (a *Aggregate) add(q AggregateQuery, kind, child int64, text string, replies int64) {
	switch kind {
	case rowEdit:
		a.Edit = child
	case rowReference:
		a.References = append(a.References, id.Event(text))
	case rowReplies:
		a.count(q, id.User(text), replies)
	case rowLatest:
		a.Latest = child
	case rowLatestEdit:
		a.LatestEdit = child
	}
}

// count takes the replies of a user to a thread; "" stands for everybody.
func (a *Aggregate) count(q AggregateQuery, user id.User, replies int64) {
	switch user {
	case "":
		a.Replies += replies
	case q.Reader:
		a.Own = replies
	default:
		a.Replies -= replies
	}
}

// takePart reads who takes part in threads, one more than maxTakingPart at most.
func (d *DB) takePart(ctx context.Context, found map[*Event]*Aggregate) error {
	var roots []*Event
	var parts []uint32
	for e, a := range found {
		if a.Latest != 0 {
			a.TakesPart = make(map[id.User]struct{})
			roots, parts = append(roots, e), append(parts, e.Part)
		}
	}
	return d.eachShard(parts, func(db querier, parts []int32, index []int) error {
		rooms, ids := make([]int64, len(index)), make([]string, len(index))
		for i, at := range index {
			rooms[i], ids[i] = roots[at].RoomNID, string(roots[at].ID)
		}
		rows, err := db.Query(ctx, `SELECT w.n, t.user_id FROM unnest($1::int[], $2::bigint[], $3::text[]) WITH ORDINALITY AS w (part, room, id, n)
			CROSS JOIN LATERAL (SELECT DISTINCT sender AS user_id FROM (SELECT sender FROM relation WHERE part = w.part AND room_nid = w.room AND parent = w.id
				AND rel_type = 'm.thread' AND live ORDER BY place DESC LIMIT $4) r LIMIT $5) t`, parts, rooms, ids, maxReplies, maxTakingPart+1)
		if err != nil {
			return fmt.Errorf("read who takes part in threads: %w", err)
		}
		var at int64
		var user id.User
		_, err = pgx.ForEachRow(rows, []any{&at, &user}, func() error {
			found[roots[index[at-1]]].TakesPart[user] = struct{}{}
			return nil
		})
		if err != nil {
			return fmt.Errorf("read who takes part in threads: %w", err)
		}
		return nil
	})
}

// RelationsQuery asks for events that relate to another one, with After < place <= UpTo.
type RelationsQuery struct {
	Parent id.Event
	// RelType and Type restrict the events, if they are not empty.
	RelType, Type string
	// Recurse also finds what relates to these events, up to RecursionDepth relations away.
	Recurse     bool
	After, UpTo Place
	// Backwards returns the newest first.
	Backwards bool
	Limit     int
}

// Relations returns the events of a room that relate to one, in the order of the timeline.
func (d *DB) Relations(ctx context.Context, part uint32, roomNID int64, q RelationsQuery) ([]*Event, error) {
	of := `SELECT child, child_id, rel_type, type, place, 1 AS depth FROM relation WHERE part = $1 AND room_nid = $2 AND parent = $3 AND live`
	with := ``
	if q.Recurse {
		with = `WITH RECURSIVE below AS (` + of + ` UNION
			SELECT r.child, r.child_id, r.rel_type, r.type, r.place, b.depth + 1 FROM below b
			JOIN relation r ON r.part = $1 AND r.room_nid = $2 AND r.parent = b.child_id AND r.live
			WHERE b.depth < ` + strconv.Itoa(RecursionDepth) + `) `
		of = `SELECT DISTINCT child, place FROM below WHERE true`
	}
	of += ` AND place > $4 AND place <= $5`
	args := []any{int32(part), roomNID, string(q.Parent), int64(max(q.After, Start)), int64(min(q.UpTo, End)), q.Limit}
	for _, f := range []struct{ column, want string }{{"rel_type", q.RelType}, {"type", q.Type}} {
		if f.want != "" {
			args = append(args, f.want)
			of += ` AND ` + f.column + ` = $` + strconv.Itoa(len(args))
		}
	}
	of += ` ORDER BY place`
	if q.Backwards {
		of += ` DESC`
	}
	rows, err := d.shards.For(part).Query(ctx, with+`SELECT child FROM (`+of+` LIMIT $6) r`, args...)
	if err != nil {
		return nil, fmt.Errorf("read relations: %w", err)
	}
	nids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, fmt.Errorf("read relations: %w", err)
	}
	found, err := d.Events(ctx, part, nids)
	if err != nil {
		return nil, err
	}
	events := make([]*Event, 0, len(nids))
	for _, nid := range nids {
		if e := found[nid]; e != nil {
			events = append(events, e)
		}
	}
	return events, nil
}

// Thread is a thread in the list of a room.
type Thread struct {
	Root id.Event
	// Last is the place of the newest reply.
	Last Place
	// Own counts the replies of the user whose threads were asked for.
	Own int64
}

// Threads returns the threads of a room whose newest reply is before a place, those with the newest replies first. If a user is
// given, they are those in which the user replied or whose root the user sent.
func (d *DB) Threads(ctx context.Context, part uint32, roomNID int64, user id.User, before Place, limit int) ([]Thread, error) {
	const everybodys = `part = $1 AND room_nid = $2 AND user_id = '' AND replies > 0 AND last_place < $3`
	sql := `SELECT root, last_place, 0::bigint FROM thread WHERE ` + everybodys + ` ORDER BY last_place DESC LIMIT $4`
	args := []any{int32(part), roomNID, int64(min(before, End)), limit}
	if user != "" {
		sql = `SELECT t.root, t.last_place, m.replies FROM thread m
			CROSS JOIN LATERAL (SELECT root, last_place FROM thread WHERE ` + everybodys + ` AND root = m.root OFFSET 0) t
			WHERE m.part = $1 AND m.room_nid = $2 AND m.user_id = $5 ORDER BY t.last_place DESC LIMIT $4`
		args = append(args, string(user))
	}
	rows, err := d.shards.For(part).Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("read threads: %w", err)
	}
	threads, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (t Thread, err error) {
		err = row.Scan(&t.Root, &t.Last, &t.Own)
		return t, err
	})
	if err != nil {
		return nil, fmt.Errorf("read threads: %w", err)
	}
	return threads, nil
}
