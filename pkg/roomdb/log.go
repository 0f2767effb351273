package roomdb

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"google.golang.org/protobuf/proto"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	logv1 "hanse/proto/log/v1"
)

// Kinds of log entries.
const (
	KindEvent        = 1
	KindReceipt      = 2
	KindDeviceChange = 3
	KindFilled       = 4
)

// deviceChange is KindDeviceChange in SQL: as a parameter, it would hide the index of such entries from the planner.
var deviceChange = strconv.Itoa(KindDeviceChange)

const logColumns = `l.pos, l.room_nid, l.kind, l.body, e.json, e.event_id, coalesce(e.redacted_by, 0)`

// ReadLog returns the entries of a partition from a position on, at most limit of them, dense and in order. One that this
// program cannot read, as it is of a kind or of a room version that it does not know or damaged, has no body.
func (d *DB) ReadLog(ctx context.Context, part uint32, from int64, limit int) ([]*logv1.Entry, error) {
	return d.queryLog(ctx, part, `SELECT `+logColumns+`
		FROM log l LEFT JOIN event e ON e.part = l.part AND e.event_nid = l.event_nid
		WHERE l.part = $1 AND l.pos >= $2 ORDER BY l.pos LIMIT $3`, int32(part), from, limit)
}

func (d *DB) queryLog(ctx context.Context, part uint32, sql string, args ...any) ([]*logv1.Entry, error) {
	rows, err := d.shards.For(part).Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	defer rows.Close()
	var entries []*logv1.Entry
	var bodies []logRow
	var rooms []int64
	for rows.Next() {
		var r logRow
		if err := rows.Scan(&r.pos, &r.room, &r.kind, &r.body, &r.json, &r.eventID, &r.redactedBy); err != nil {
			return nil, fmt.Errorf("read log: %w", err)
		}
		bodies = append(bodies, r)
		rooms = append(rooms, r.room)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	metas, err := d.readableRooms(ctx, part, rooms)
	if err != nil {
		return nil, err
	}
	for _, r := range bodies {
		entry := &logv1.Entry{Pos: r.pos, RoomNid: r.room}
		if m := metas[r.room]; m != nil {
			entry.RoomId = string(m.id)
			if err := r.read(entry, m); err != nil {
				entry.Body = nil
			}
		}
		entries = append(entries, entry)
	}
	return entries, nil
}

// readableRooms is metaOf without rooms that this program cannot read.
func (d *DB) readableRooms(ctx context.Context, part uint32, rooms []int64) (map[int64]*meta, error) {
	metas, err := d.metaOf(ctx, part, rooms)
	if !errors.Is(err, errUnreadableRoom) {
		return metas, err
	}
	metas = make(map[int64]*meta, len(rooms))
	for _, nid := range rooms {
		one, err := d.metaOf(ctx, part, []int64{nid})
		if err != nil && !errors.Is(err, errUnreadableRoom) {
			return nil, err
		}
		metas[nid] = one[nid]
	}
	return metas, nil
}

// FromLog returns the event of an entry of the log as it is stored, but for its cause, its auth and its prev events.
func FromLog(part uint32, e *logv1.Entry) (*Event, error) {
	l := e.GetEvent()
	rules, ok := roomversion.Get(l.RoomVersion)
	if !ok {
		return nil, fmt.Errorf("event %s: room version %q", l.EventId, l.RoomVersion)
	}
	pdu, err := event.ParseTrusted(l.Json, id.Event(l.EventId), rules)
	if err != nil {
		return nil, fmt.Errorf("event %s: %w", l.EventId, err)
	}
	return &Event{PDU: pdu, Part: part, RoomNID: e.RoomNid, NID: l.Nid, Ord: e.Pos, SID: l.Sid, NotifySeq: l.NotifySeq, Replaces: l.ReplacesNid}, nil
}

type logRow struct {
	pos, room  int64
	kind       int16
	body, json []byte
	eventID    *string
	redactedBy int64
}

// read sets an entry's body.
func (r *logRow) read(entry *logv1.Entry, m *meta) error {
	switch r.kind {
	case KindEvent:
		body := new(logv1.Event)
		if err := proto.Unmarshal(r.body, body); err != nil {
			return err
		}
		body.Json = r.json
		if r.redactedBy != 0 && r.eventID != nil {
			pdu, err := event.ParseTrusted(r.json, id.Event(*r.eventID), m.rules)
			if err != nil {
				return err
			}
			if pdu, err = pdu.Redacted(); err != nil {
				return err
			}
			body.Json, body.Redacted = pdu.JSON, true
		}
		entry.Body = &logv1.Entry_Event{Event: body}
	case KindReceipt:
		body := new(logv1.Receipt)
		if err := proto.Unmarshal(r.body, body); err != nil {
			return err
		}
		entry.Body = &logv1.Entry_Receipt{Receipt: body}
	case KindDeviceChange:
		body := new(logv1.DeviceChange)
		if err := proto.Unmarshal(r.body, body); err != nil {
			return err
		}
		entry.Body = &logv1.Entry_DeviceChange{DeviceChange: body}
	case KindFilled:
		body := new(logv1.Filled)
		if err := proto.Unmarshal(r.body, body); err != nil {
			return err
		}
		entry.Body = &logv1.Entry_Filled{Filled: body}
	default:
		return fmt.Errorf("unknown kind %d", r.kind)
	}
	return nil
}
