package eventsql

import "fmt"

// Flags of an event.
const (
	Outlier    = 1 // stored without its place in the room: auth events, out-of-room invites
	Rejected   = 2 // failed the auth rules at its place
	SoftFailed = 4 // failed the auth rules of the current state when it arrived
	// AuthMissing marks an outlier that came before its auth events, such as a membership of a room that no local user is in.
	// Once they are here it is stored anew, under another number: an event's number is greater than those of its auth events.
	AuthMissing = 8
)

var (
	inAuthGraph = fmt.Sprintf("flags & %d = 0", AuthMissing)
	// Accepted is a condition on the flags of an event e: it was neither rejected nor soft-failed.
	Accepted = fmt.Sprintf("e.flags & %d = 0", Rejected|SoftFailed)
)

const (
	// Columns are those of an event as roomdb scans them.
	Columns = `part, event_nid, room_nid, event_id, coalesce(ord, 0), coalesce(sid, 0), flags, notify_seq, replaces, coalesce(redacted_by, 0), coalesce(cause, ''), auth, prev, json`

	rawColumns   = `event_nid, event_id, replaces, redacted_by, json`
	nodeColumns  = `event_nid, type, state_key, auth, flags`
	entryColumns = `event_id, event_nid, type, state_key, flags`
)

// byNID and byID look up each event of an array, which is a parameter; $1 is the partition.
func byNID(nids, columns string) string {
	return `unnest(` + nids + `::bigint[]) AS w (nid)
JOIN LATERAL (SELECT ` + columns + ` FROM event WHERE part = $1 AND event_nid >= w.nid ORDER BY event_nid LIMIT 1) e ON event_nid = w.nid`
}

func byID(ids string) string {
	return `unnest(` + ids + `::text[]) AS w (id)
JOIN LATERAL (SELECT * FROM event WHERE part = $1 AND event_id >= w.id COLLATE "C" ORDER BY event_id LIMIT 1) e ON event_id = w.id COLLATE "C"`
}

// Whole events (Columns).
var (
	// ByNID takes a partition and numbers, ByID a partition and ids.
	ByNID = `SELECT ` + Columns + ` FROM ` + byNID("$2", "*")
	ByID  = `SELECT ` + Columns + ` FROM ` + byID("$2")
)

const (
	// OneByID takes a partition and an id.
	OneByID = `SELECT ` + Columns + ` FROM event WHERE part = $1 AND event_id = $2`
	// ByPartNID takes partitions and as many numbers, OneInParts partitions and one id.
	ByPartNID  = `SELECT ` + Columns + ` FROM event WHERE (part, event_nid) IN (SELECT * FROM unnest($1::int[], $2::bigint[]))`
	OneInParts = `SELECT ` + Columns + ` FROM event WHERE (part, event_id) IN (SELECT p, $2 FROM unnest($1::int[]) AS p)`
)

// Parts of events.
var (
	// IDs reads the ids of events by their numbers.
	IDs = `SELECT event_nid, event_id FROM ` + byNID("$2", "event_nid, event_id")

	// Unplaced finds which of some events have no place in the timeline.
	Unplaced = `SELECT e.event_nid FROM ` + byNID("$2", "event_nid, ord") + ` WHERE e.ord IS NULL`

	// RawByNID and RawRange read state events as they lie: by number, and those of a room ($2) between two numbers.
	RawByNID = `SELECT ` + rawColumns + ` FROM ` + byNID("$2", rawColumns)
	RawRange = `SELECT ` + rawColumns + ` FROM event
WHERE part = $1 AND room_nid = $2 AND state_key IS NOT NULL AND event_nid BETWEEN $3 AND $4 ORDER BY event_nid LIMIT $5`

	// Nodes reads the auth graph of a room behind a number.
	Nodes = `SELECT ` + nodeColumns + ` FROM event
WHERE part = $1 AND room_nid = $2 AND state_key IS NOT NULL AND event_nid > $3 AND ` + inAuthGraph + `
ORDER BY event_nid LIMIT $4`

	// Entries reads, by their ids ($3), events of a room ($2) that a state may be made of. EntriesAfter reads them behind a
	// number. An event that came before its auth events counts as unknown.
	Entries      = `SELECT ` + entryColumns + ` FROM ` + byID("$3") + ` WHERE room_nid = $2 AND ` + inAuthGraph
	EntriesAfter = `SELECT ` + entryColumns + ` FROM event
WHERE part = $1 AND room_nid = $2 AND state_key IS NOT NULL AND event_nid > $3 AND ` + inAuthGraph + `
ORDER BY event_nid LIMIT $4`

	// Listed reads, by their ids ($3), what a listing of a room's state ($2) names.
	Listed = `SELECT event_nid, type, state_key, flags, json FROM ` + byID("$3") + ` WHERE room_nid = $2`
)

// Caused finds the events of a room ($2) that were sent for some causes.
const Caused = `
SELECT cause, event_nid, event_id, coalesce(ord, 0) FROM unnest($3::text[]) AS w (same)
JOIN LATERAL (SELECT * FROM event WHERE part = $1 AND room_nid = $2 AND cause >= w.same COLLATE "C" ORDER BY cause LIMIT 1) e ON cause = w.same COLLATE "C"`
