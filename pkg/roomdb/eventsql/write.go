package eventsql

import "fmt"

const (
	// Insert takes Rows.Insert.
	Insert = `
INSERT INTO event (part, event_nid, room_nid, event_id, ord, depth, type, state_key, sender, origin_ts, sid, flags,
	auth, prev, notify_seq, replaces, redacted_by, cause, json)
SELECT part, event_nid, room_nid, event_id, ord, depth, type, state_key, sender, origin_ts, sid, flags,
	auth::bigint[], prev::bigint[], notify_seq, replaces, redacted_by, cause, json
FROM unnest($1::int[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[], $7::text[], $8::text[],
	$9::text[], $10::bigint[], $11::bigint[], $12::int[], $13::text[], $14::text[], $15::bigint[], $16::bigint[],
	$17::bigint[], $18::text[], $19::bytea[])
	AS b(part, event_nid, room_nid, event_id, ord, depth, type, state_key, sender, origin_ts, sid, flags,
		auth, prev, notify_seq, replaces, redacted_by, cause, json)`

	// Place gives stored events their place: outliers that turned out to be part of the room, and events whose verdict
	// changed. It takes Rows.Place.
	Place = `
UPDATE event e
SET ord = b.ord, sid = b.sid, flags = b.flags, prev = b.prev::bigint[], auth = b.auth::bigint[],
	notify_seq = b.notify_seq, replaces = b.replaces, redacted_by = coalesce(b.redacted_by, e.redacted_by), json = b.json
FROM unnest($1::int[], $2::bigint[], $3::bigint[], $4::bigint[], $5::int[], $6::text[], $7::text[], $8::bigint[],
	$9::bigint[], $10::bigint[], $11::bytea[])
	AS b(part, event_nid, ord, sid, flags, auth, prev, notify_seq, replaces, redacted_by, json)
WHERE e.part = b.part AND e.event_nid = b.event_nid`

	// Judge writes new verdicts on events. An event that is refused now loses its place in the timeline.
	Judge = `
UPDATE event e
SET sid = b.sid, flags = b.flags, replaces = b.replaces, prev = b.prev::bigint[], ord = CASE WHEN b.flags = 0 THEN e.ord END
FROM unnest($1::int[], $2::bigint[], $3::bigint[], $4::int[], $5::bigint[], $6::text[]) AS b(part, event_nid, sid, flags, replaces, prev)
WHERE e.part = b.part AND e.event_nid = b.event_nid`

	// Redact notes the redactions of events, Restore takes back those that are refused now.
	Redact = `
UPDATE event e SET redacted_by = b.redaction
FROM unnest($1::int[], $2::bigint[], $3::bigint[]) AS b(part, target, redaction)
WHERE e.part = b.part AND e.event_nid = b.target AND e.redacted_by IS NULL`
	Restore = `
UPDATE event e SET redacted_by = NULL
FROM unnest($1::int[], $2::bigint[], $3::bigint[]) AS b(part, target, redaction)
WHERE e.part = b.part AND e.event_nid = b.target AND e.redacted_by = b.redaction`

	// DeleteRooms removes all that is known of rooms that no local user ever was in: state events.
	DeleteRooms = `
DELETE FROM event e USING unnest($1::int[], $2::bigint[]) AS b(part, room_nid)
WHERE e.part = b.part AND e.room_nid = b.room_nid AND e.state_key IS NOT NULL`
)

// DeleteAuthMissing makes way for events that get another number with their auth events.
var DeleteAuthMissing = fmt.Sprintf(`
DELETE FROM event e USING unnest($1::int[], $2::bigint[]) AS b(part, nid)
WHERE e.part = b.part AND e.event_nid = b.nid AND e.flags & %d <> 0`, AuthMissing)

// Rows are events column by column, as unnest takes them.
type Rows struct {
	Part                []int32
	NID, Room           []int64
	ID                  []string
	Ord                 []*int64
	Depth               []int64
	Type                []string
	StateKey            []*string
	Sender              []string
	OriginTS            []int64
	SID                 []*int64
	Flags               []int32
	Auth, Prev          []string // as text: arrays of arrays do not survive unnest
	NotifySeq, Replaces []int64
	RedactedBy          []*int64
	Cause               []*string
	JSON                [][]byte
}

// Insert returns the arguments of the statement Insert.
func (r *Rows) Insert() []any {
	return []any{r.Part, r.NID, r.Room, r.ID, r.Ord, r.Depth, r.Type, r.StateKey, r.Sender, r.OriginTS, r.SID, r.Flags,
		r.Auth, r.Prev, r.NotifySeq, r.Replaces, r.RedactedBy, r.Cause, r.JSON}
}

// Place returns the arguments of the statement Place.
func (r *Rows) Place() []any {
	return []any{r.Part, r.NID, r.Ord, r.SID, r.Flags, r.Auth, r.Prev, r.NotifySeq, r.Replaces, r.RedactedBy, r.JSON}
}
