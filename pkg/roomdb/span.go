package roomdb

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	"hanse/pkg/matrix/id"
	logv1 "hanse/proto/log/v1"
)

// Span is what happened in a room between two log positions.
type Span struct {
	// Before and After are the room's current state just behind the first position and at the second; 0, 0 if nothing changed the
	// room in between. Besides events that is what filled the state of a room that was joined without its members.
	Before, After int64
	// Hole is the position of the newest hole in the timeline, if there is one.
	Hole *int64
}

// Span returns what happened in a room behind position after and up to position upTo.
func (d *DB) Span(ctx context.Context, part uint32, roomNID, after, upTo int64) (s Span, err error) {
	err = d.shards.For(part).QueryRow(ctx, `WITH ends AS (
			SELECT least(
				(SELECT min(ord) FROM event WHERE part = $1 AND room_nid = $2 AND ord > $3 AND ord <= $4),
				(SELECT full_pos FROM room WHERE part = $1 AND room_nid = $2 AND full_pos > $3 AND full_pos <= $4)) AS first,
			greatest(
				(SELECT max(ord) FROM event WHERE part = $1 AND room_nid = $2 AND ord > $3 AND ord <= $4),
				(SELECT full_pos FROM room WHERE part = $1 AND room_nid = $2 AND full_pos > $3 AND full_pos <= $4)) AS last)
		SELECT coalesce((SELECT current_before FROM log WHERE part = $1 AND pos = ends.first), 0),
			coalesce((SELECT current_after FROM log WHERE part = $1 AND pos = ends.last), 0),
			(SELECT max(hole) FROM missing_prev WHERE part = $1 AND room_nid = $2 AND hole > $3 AND hole <= $4) FROM ends`,
		int32(part), roomNID, max(after, 0), upTo).Scan(&s.Before, &s.After, &s.Hole)
	if err != nil {
		return Span{}, fmt.Errorf("read span of a room: %w", err)
	}
	return s, nil
}

// Receipt is a stored read receipt.
type Receipt struct {
	RoomKey
	User      id.User
	Type      string
	Thread    string
	Event     id.Event
	Ord       int64
	NotifySeq int64
	// TS is in milliseconds since 1970.
	TS int64
}

const receiptColumns = `part, room_nid, user_id, type, thread_id, event_id, ord, notify_seq, ts`

func scanReceipts(rows pgx.Rows, err error) ([]Receipt, error) {
	if err != nil {
		return nil, fmt.Errorf("read receipts: %w", err)
	}
	receipts, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Receipt, error) {
		var r Receipt
		err := row.Scan(&r.Part, &r.NID, &r.User, &r.Type, &r.Thread, &r.Event, &r.Ord, &r.NotifySeq, &r.TS)
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("read receipts: %w", err)
	}
	return receipts, nil
}

// ReceiptsSince returns the receipts of a room that were last moved in (after, upTo].
func (d *DB) ReceiptsSince(ctx context.Context, part uint32, roomNID, after, upTo int64) ([]Receipt, error) {
	return scanReceipts(d.shards.For(part).Query(ctx, `SELECT `+receiptColumns+` FROM receipt
		WHERE part = $1 AND room_nid = $2 AND pos > $3 AND pos <= $4 ORDER BY pos`, int32(part), roomNID, after, upTo))
}

// Receipts returns the receipts of many rooms.
func (d *DB) Receipts(ctx context.Context, rooms []RoomKey) (map[RoomKey][]Receipt, error) {
	return d.receipts(ctx, rooms, `SELECT `+receiptColumns+` FROM receipt
		WHERE (part, room_nid) IN (SELECT * FROM unnest($1::int[], $2::bigint[]))`)
}

// ReceiptsOf returns the receipts of one user in many rooms.
func (d *DB) ReceiptsOf(ctx context.Context, rooms []RoomKey, user id.User) (map[RoomKey][]Receipt, error) {
	return d.receipts(ctx, rooms, `SELECT r.* FROM unnest($1::int[], $2::bigint[]) AS k (p, n) CROSS JOIN LATERAL (
		SELECT `+receiptColumns+` FROM receipt WHERE part = k.p AND room_nid = k.n AND user_id = $3 OFFSET 0) r`, string(user))
}

func (d *DB) receipts(ctx context.Context, rooms []RoomKey, sql string, more ...any) (map[RoomKey][]Receipt, error) {
	found := make(map[RoomKey][]Receipt, len(rooms))
	err := d.eachRoomShard(rooms, func(q querier, parts []int32, nids []int64) error {
		receipts, err := scanReceipts(q.Query(ctx, sql, append([]any{parts, nids}, more...)...))
		for _, r := range receipts {
			found[r.RoomKey] = append(found[r.RoomKey], r)
		}
		return err
	})
	return found, err
}

// eachRoomShard is eachShard for rooms.
func (d *DB) eachRoomShard(rooms []RoomKey, f func(q querier, parts []int32, nids []int64) error) error {
	parts := make([]uint32, len(rooms))
	for i, r := range rooms {
		parts[i] = r.Part
	}
	return d.eachShard(parts, func(q querier, parts []int32, index []int) error {
		nids := make([]int64, len(index))
		for i, at := range index {
			nids[i] = rooms[at].NID
		}
		return f(q, parts, nids)
	})
}

// DeviceChanges returns the members whose devices changed in (after, upTo].
func (d *DB) DeviceChanges(ctx context.Context, part uint32, roomNID, after, upTo int64) ([]id.User, error) {
	rows, err := d.shards.For(part).Query(ctx, `SELECT body FROM log
		WHERE part = $1 AND room_nid = $2 AND kind = `+deviceChange+` AND pos > $3 AND pos <= $4`, int32(part), roomNID, after, upTo)
	if err != nil {
		return nil, fmt.Errorf("read device changes: %w", err)
	}
	users, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (id.User, error) {
		var body []byte
		if err := row.Scan(&body); err != nil {
			return "", err
		}
		c := new(logv1.DeviceChange)
		err := proto.Unmarshal(body, c)
		return id.User(c.UserId), err
	})
	if err != nil {
		return nil, fmt.Errorf("read device changes: %w", err)
	}
	return users, nil
}

// Threads that stand for no thread: private receipts of them say up to where a user had muted a room when it was made
// louder. What came until then does not begin to count. Nobody is told of these receipts, the user neither.
const (
	MutedAll    = "hanse.muted.all"   // nothing was to notify
	MutedPlain  = "hanse.muted.plain" // only mentions were
	mutedPrefix = "hanse.muted."
)

// IsMuted says whether the receipt of a thread is such a mark.
func IsMuted(thread string) bool { return strings.HasPrefix(thread, mutedPrefix) }

// UnreadSpan asks for what lies behind a user's read position.
type UnreadSpan struct {
	RoomKey
	After, UpTo int64 // log positions
}

// Unread is what lies behind a user's read position.
type Unread struct {
	Mentions int64 // events of others that mention the user; those of ignored users and redacted ones do not
	// Notifying are the events that notify by the default rules. It is nil if they were not asked for, or if more than
	// maxNotifying events would have to be looked at.
	Notifying *Notifying
}

// Notifying are events of a room that notify by the default rules, in no particular order: their log positions, senders, and
// whether they were redacted.
type Notifying struct {
	Ords     []int64
	Senders  []string
	Redacted []bool
}

// maxNotifying is how many events of a room are looked at for those that notify.
const maxNotifying = 2000

// Unread returns what lies behind read positions, the notifying events of those rooms only for which list is true.
func (d *DB) Unread(ctx context.Context, user id.User, ignored []id.User, spans []UnreadSpan, list []bool) (map[RoomKey]Unread, error) {
	found := make(map[RoomKey]Unread, len(spans))
	silent := silentUsers(user, ignored)
	err := d.eachSpan(spans, func(q querier, parts []int32, nids, after, upTo []int64, index []int) error {
		lists := make([]bool, len(index))
		for i, at := range index {
			lists[i] = list[at]
		}
		rows, err := q.Query(ctx, `SELECT r.p, r.n,
			(SELECT count(*) FROM mention m JOIN event e ON e.part = m.part AND e.room_nid = m.room_nid AND e.ord = m.ord
				WHERE m.part = r.p AND m.room_nid = r.n AND m.user_id IN ($6, '') AND m.ord > r.a AND m.ord <= r.u
					AND e.sender <> ALL($7) AND e.redacted_by IS NULL),
			CASE WHEN r.list THEN l.looked END, l.ords, l.senders, l.redacted
			FROM unnest($1::int[], $2::bigint[], $3::bigint[], $4::bigint[], $5::boolean[]) AS r (p, n, a, u, list)
			CROSS JOIN LATERAL (
				SELECT count(*) AS looked, array_agg(ord) FILTER (WHERE notifies) AS ords,
					array_agg(sender) FILTER (WHERE notifies) AS senders, array_agg(redacted) FILTER (WHERE notifies) AS redacted
				FROM (SELECT ord, sender, redacted_by IS NOT NULL AS redacted, notify_seq > coalesce(lead(notify_seq) OVER (ORDER BY ord DESC),
						(SELECT b.notify_seq FROM event b WHERE b.part = r.p AND b.room_nid = r.n AND b.ord <= r.a ORDER BY b.ord DESC LIMIT 1),
						0) AS notifies
					FROM (SELECT ord, sender, redacted_by, notify_seq FROM event WHERE r.list AND part = r.p AND room_nid = r.n AND ord > r.a AND ord <= r.u
						ORDER BY ord DESC LIMIT $8) looked) judged
			) l`, parts, nids, after, upTo, lists, string(user), silent, maxNotifying+1)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var key RoomKey
			var u Unread
			var looked *int64
			var n Notifying
			if err := rows.Scan(&key.Part, &key.NID, &u.Mentions, &looked, &n.Ords, &n.Senders, &n.Redacted); err != nil {
				return err
			}
			if looked != nil && *looked <= maxNotifying {
				u.Notifying = &n
			}
			found[key] = u
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("read unread events: %w", err)
	}
	return found, nil
}

// Silent counts, behind read positions, the events that notify others by the default rules but not this user: the user's own,
// those of ignored users, and redacted ones. It looks at every event there.
func (d *DB) Silent(ctx context.Context, user id.User, ignored []id.User, spans []UnreadSpan) (map[RoomKey]int64, error) {
	found := make(map[RoomKey]int64, len(spans))
	silent := silentUsers(user, ignored)
	err := d.eachSpan(spans, func(q querier, parts []int32, nids, after, upTo []int64, _ []int) error {
		rows, err := q.Query(ctx, `SELECT r.p, r.n,
			(SELECT count(*) FROM event e WHERE e.part = r.p AND e.room_nid = r.n AND e.ord > r.a AND e.ord <= r.u
				AND (e.sender = ANY($5) OR e.redacted_by IS NOT NULL) AND e.notify_seq > coalesce((SELECT b.notify_seq FROM event b
					WHERE b.part = e.part AND b.room_nid = e.room_nid AND b.ord < e.ord ORDER BY b.ord DESC LIMIT 1), 0))
			FROM unnest($1::int[], $2::bigint[], $3::bigint[], $4::bigint[]) AS r (p, n, a, u)`, parts, nids, after, upTo, silent)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var key RoomKey
			var n int64
			if err := rows.Scan(&key.Part, &key.NID, &n); err != nil {
				return err
			}
			found[key] = n
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("count silent events: %w", err)
	}
	return found, nil
}

func silentUsers(user id.User, ignored []id.User) []id.User {
	return append(ignored[:len(ignored):len(ignored)], user)
}

// eachSpan calls f for each shard with the columns of its spans, and their places in spans.
func (d *DB) eachSpan(spans []UnreadSpan, f func(q querier, parts []int32, nids, after, upTo []int64, index []int) error) error {
	parts := make([]uint32, len(spans))
	for i, s := range spans {
		parts[i] = s.Part
	}
	return d.eachShard(parts, func(q querier, parts []int32, index []int) error {
		nids, after, upTo := make([]int64, len(index)), make([]int64, len(index)), make([]int64, len(index))
		for i, at := range index {
			nids[i], after[i], upTo[i] = spans[at].NID, spans[at].After, spans[at].UpTo
		}
		return f(q, parts, nids, after, upTo, index)
	})
}

// NotifySpan is the running number of notifying events at two positions of a room.
type NotifySpan struct{ AtJoin, Head int64 }

// NotifySeqs returns the running numbers of many rooms at a position of each, and at that of each partition.
func (d *DB) NotifySeqs(ctx context.Context, rooms []RoomKey, upTo map[uint32]int64, at map[RoomKey]int64) (map[RoomKey]NotifySpan, error) {
	found := make(map[RoomKey]NotifySpan, len(rooms))
	err := d.eachRoomShard(rooms, func(q querier, parts []int32, nids []int64) error {
		from, to := make([]int64, len(nids)), make([]int64, len(nids))
		for i, nid := range nids {
			part := uint32(parts[i])
			from[i], to[i] = at[RoomKey{part, nid}], upTo[part]
		}
		rows, err := q.Query(ctx, `SELECT r.p, r.n,
			coalesce((SELECT notify_seq FROM event WHERE part = r.p AND room_nid = r.n AND ord <= r.a ORDER BY ord DESC LIMIT 1), 0),
			coalesce((SELECT notify_seq FROM event WHERE part = r.p AND room_nid = r.n AND ord <= r.u ORDER BY ord DESC LIMIT 1), 0)
			FROM unnest($1::int[], $2::bigint[], $3::bigint[], $4::bigint[]) AS r (p, n, a, u)`, parts, nids, from, to)
		if err != nil {
			return fmt.Errorf("read notification numbers: %w", err)
		}
		defer rows.Close()
		for rows.Next() {
			var key RoomKey
			var s NotifySpan
			if err := rows.Scan(&key.Part, &key.NID, &s.AtJoin, &s.Head); err != nil {
				return fmt.Errorf("read notification numbers: %w", err)
			}
			found[key] = s
		}
		return rows.Err()
	})
	return found, err
}

// ReceiptSpan names events of a room.
type ReceiptSpan struct {
	RoomKey
	Events []id.Event
}

// ReceiptsFor returns the receipts for some events of rooms, and all of one user there, with a query for each shard. It looks at
// those that came since the events.
func (d *DB) ReceiptsFor(ctx context.Context, spans []ReceiptSpan, user id.User) (map[RoomKey][]Receipt, error) {
	found := make(map[RoomKey][]Receipt, len(spans))
	parts := make([]uint32, len(spans))
	for i, s := range spans {
		parts[i] = s.Part
	}
	err := d.eachShard(parts, func(q querier, parts []int32, index []int) error {
		nids := make([]int64, len(index))
		var eventParts []int32
		var eventRooms []int64
		var events []string
		for i, at := range index {
			nids[i] = spans[at].NID
			for _, e := range spans[at].Events {
				eventParts, eventRooms, events = append(eventParts, parts[i]), append(eventRooms, spans[at].NID), append(events, string(e))
			}
		}
		receipts, err := scanReceipts(q.Query(ctx, `
			SELECT r.* FROM unnest($3::int[], $4::bigint[], $5::text[]) AS k (p, n, e)
				JOIN event e ON e.part = k.p AND e.event_id = k.e COLLATE "C"
				CROSS JOIN LATERAL (SELECT `+receiptColumns+` FROM receipt
					WHERE part = k.p AND room_nid = k.n AND pos > e.ord AND event_id = k.e COLLATE "C" AND user_id <> $6 OFFSET 0) r
			UNION ALL
			SELECT r.* FROM unnest($1::int[], $2::bigint[]) AS k (p, n)
				CROSS JOIN LATERAL (SELECT `+receiptColumns+` FROM receipt WHERE part = k.p AND room_nid = k.n AND user_id = $6 OFFSET 0) r`,
			parts, nids, eventParts, eventRooms, events, string(user)))
		for _, r := range receipts {
			found[r.RoomKey] = append(found[r.RoomKey], r)
		}
		return err
	})
	return found, err
}
