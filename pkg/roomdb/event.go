package roomdb

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb/eventsql"
)

// Flags of an event: see eventsql.
const (
	Outlier     = eventsql.Outlier
	Rejected    = eventsql.Rejected
	SoftFailed  = eventsql.SoftFailed
	AuthMissing = eventsql.AuthMissing
)

// Event is a stored event. It is immutable.
type Event struct {
	// PDU is the redacted form if the event was redacted.
	*event.PDU
	// Unredacted is a state event as it came, if it was redacted since; see AsReceived.
	Unredacted *event.PDU
	Part       uint32
	RoomNID    int64
	NID        int64
	// Ord says where in the timeline the event is: its log position if it came live, see PlaceOf; 0 if it has no place.
	Ord int64
	// SID is the snapshot before the event; 0 for outliers.
	SID       int64
	Flags     int32
	NotifySeq int64
	// Replaces is the state event that this one replaced in the current state, RedactedBy the redaction; 0 if none.
	Replaces, RedactedBy int64
	// Cause is what the sending device knows the event by; see CauseOf.
	Cause string
	// Auth and Prev are the auth events and those of the prev events that we hold.
	Auth, Prev []int64

	head atomic.Pointer[[]byte]
}

// AsReceived is the event as it came, whatever was redacted of it since. State is resolved by that, so that the result does not
// depend on when: the room versions before 11 do not keep all that the rules read.
func (e *Event) AsReceived() *event.PDU {
	if e.Unredacted != nil {
		return e.Unredacted
	}
	return e.PDU
}

// Copy returns the same event, of which the caller may change what is said about it. What KeepHead keeps is not copied.
func (e *Event) Copy() *Event {
	return &Event{PDU: e.PDU, Unredacted: e.Unredacted, Part: e.Part, RoomNID: e.RoomNID, NID: e.NID, Ord: e.Ord, SID: e.SID, Flags: e.Flags,
		NotifySeq: e.NotifySeq, Replaces: e.Replaces, RedactedBy: e.RedactedBy, Cause: e.Cause, Auth: e.Auth, Prev: e.Prev}
}

// Size is the length of what the event holds of its JSON, in bytes.
func (e *Event) Size() int {
	n := len(e.JSON)
	if e.Unredacted != nil {
		n += len(e.Unredacted.JSON)
	}
	return n
}

// Head returns what KeepHead stored, or nil.
func (e *Event) Head() []byte {
	if head := e.head.Load(); head != nil {
		return *head
	}
	return nil
}

// KeepHead keeps the beginning of the event as clients see it: package view writes it once for all of them. It must
// follow from the event alone.
func (e *Event) KeepHead(head []byte) { e.head.Store(&head) }

// Place is the event's place in the timeline.
func (e *Event) Place() Place { return PlaceOf(e.Ord) }

// History says that the event came later than what follows it in the timeline.
func (e *Event) History() bool { return e.Ord < 0 }

// Visible says whether the event has a place in the timeline.
func (e *Event) Visible() bool { return e.Ord != 0 }

// row is an event before its room's version is known.
type row struct {
	Event
	id   id.Event
	json []byte
}

func scanEvent(r pgx.Row, e *row) error {
	return r.Scan(&e.Part, &e.NID, &e.RoomNID, &e.id, &e.Ord, &e.SID, &e.Flags, &e.NotifySeq, &e.Replaces, &e.RedactedBy, &e.Cause, &e.Auth, &e.Prev, &e.json)
}

// queryEvents reads events of one partition, in the query's order, and caches them.
func (d *DB) queryEvents(ctx context.Context, part uint32, sql string, args ...any) ([]*Event, error) {
	return d.queryEventsAt(ctx, d.shards.For(part), sql, args...)
}

// queryEventsAt is queryEvents on a shard, for events of any of its partitions.
func (d *DB) queryEventsAt(ctx context.Context, q querier, sql string, args ...any) ([]*Event, error) {
	forgotten := d.forgotten.Load()
	events, err := d.readEventsAt(ctx, q, sql, args...)
	for _, e := range events {
		d.events.Add(eventKey{e.Part, e.NID}, e)
	}
	if d.forgotten.Load() != forgotten { // any of them may be redacted by now
		for _, e := range events {
			d.events.Remove(eventKey{e.Part, e.NID})
		}
	}
	return events, err
}

// readEventsAt is queryEventsAt without the cache.
func (d *DB) readEventsAt(ctx context.Context, q querier, sql string, args ...any) ([]*Event, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	defer rows.Close()
	var raw []*row
	rooms := make(map[uint32][]int64, 1)
	for rows.Next() {
		e := new(row)
		if err := scanEvent(rows, e); err != nil {
			return nil, fmt.Errorf("read events: %w", err)
		}
		raw = append(raw, e)
		rooms[e.Part] = append(rooms[e.Part], e.RoomNID)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	metas := make(map[uint32]map[int64]*meta, len(rooms))
	for part, nids := range rooms {
		if metas[part], err = d.metaOf(ctx, part, nids); err != nil {
			return nil, err
		}
	}
	events := make([]*Event, len(raw))
	for i, e := range raw {
		if events[i], err = e.parse(metas[e.Part][e.RoomNID]); err != nil {
			return nil, err
		}
	}
	return events, nil
}

func (e *row) parse(m *meta) (*Event, error) {
	pdu, err := event.ParseTrusted(e.json, e.id, m.rules)
	if err != nil {
		return nil, fmt.Errorf("stored event %s: %w", e.id, err)
	}
	if e.RedactedBy != 0 {
		if pdu.IsState() {
			e.Unredacted = pdu
		}
		if pdu, err = pdu.Redacted(); err != nil {
			return nil, fmt.Errorf("stored event %s: %w", e.id, err)
		}
	}
	e.PDU = pdu
	return &e.Event, nil
}

// EventsOnce returns those of the events that exist, by number. It leaves the cache alone: those of a large state would push
// out what others need.
func (d *DB) EventsOnce(ctx context.Context, part uint32, nids []int64) (map[int64]*Event, error) {
	events, err := d.readEventsAt(ctx, d.shards.For(part), eventsql.ByNID, int32(part), nids)
	found := make(map[int64]*Event, len(events))
	for _, e := range events {
		found[e.NID] = e
	}
	return found, err
}

// Events returns those of the events that exist.
func (d *DB) Events(ctx context.Context, part uint32, nids []int64) (map[int64]*Event, error) {
	found := make(map[int64]*Event, len(nids))
	var missing []int64
	for _, nid := range nids {
		if e, ok := d.events.Get(eventKey{part, nid}); ok {
			found[nid] = e
		} else {
			missing = append(missing, nid)
		}
	}
	if len(missing) == 0 {
		return found, nil
	}
	events, err := d.queryEvents(ctx, part, eventsql.ByNID, int32(part), missing)
	if err != nil {
		return nil, err
	}
	for _, e := range events {
		found[e.NID] = e
	}
	return found, nil
}

// EventsIn is Events for several partitions, with one query for each shard that the cache cannot answer.
func (d *DB) EventsIn(ctx context.Context, nids map[uint32][]int64) (map[uint32]map[int64]*Event, error) {
	found := make(map[uint32]map[int64]*Event, len(nids))
	var parts []uint32
	var missing []int64
	for part, of := range nids {
		found[part] = make(map[int64]*Event, len(of))
		for _, nid := range of {
			if e, ok := d.events.Get(eventKey{part, nid}); ok {
				found[part][nid] = e
				continue
			}
			parts, missing = append(parts, part), append(missing, nid)
		}
	}
	err := d.eachShard(parts, func(q querier, parts []int32, index []int) error {
		of := make([]int64, len(index))
		for i, at := range index {
			of[i] = missing[at]
		}
		events, err := d.queryEventsAt(ctx, q, eventsql.ByPartNID, parts, of)
		for _, e := range events {
			found[e.Part][e.NID] = e
		}
		return err
	})
	return found, err
}

// EventsByID returns those of the events that exist in the partition.
func (d *DB) EventsByID(ctx context.Context, part uint32, ids []id.Event) (map[id.Event]*Event, error) {
	text := make([]string, len(ids))
	for i, e := range ids {
		text[i] = string(e)
	}
	events, err := d.queryEvents(ctx, part, eventsql.ByID, int32(part), text)
	if err != nil {
		return nil, err
	}
	found := make(map[id.Event]*Event, len(events))
	for _, e := range events {
		found[e.ID] = e
	}
	return found, nil
}

// EventByID returns an event of the room: ErrNotFound also if the event belongs to another room.
func (d *DB) EventByID(ctx context.Context, room *Room, eventID id.Event) (*Event, error) {
	events, err := d.queryEvents(ctx, room.Part, eventsql.OneByID, int32(room.Part), string(eventID))
	if err != nil {
		return nil, err
	}
	if len(events) == 0 || events[0].RoomNID != room.NID {
		return nil, fmt.Errorf("event %s: %w", eventID, ErrNotFound)
	}
	return events[0], nil
}
