package search

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/pg"
	"hanse/pkg/words"
)

// Entry is a row of the index.
type Entry struct {
	NID, Room, TS int64
	Field         Field
	Words         []string
}

// wordSep separates the words of a row on their way to PostgreSQL; no word has it.
const wordSep = "\x1f"

const (
	sqlInsert = `
INSERT INTO search (part, event_nid, room_nid, ts, field, words)
SELECT $1, event_nid, room_nid, ts, field, array_to_tsvector(string_to_array(words, E'\x1f'))
FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::smallint[], $6::text[]) AS b (event_nid, room_nid, ts, field, words)
ON CONFLICT `
	sqlPut     = sqlInsert + `DO NOTHING`
	sqlReplace = sqlInsert + `(part, event_nid) DO UPDATE SET words = excluded.words`

	// sqlRemove takes the rows of redacted events away: by ids, of which a redaction names one.
	sqlRemove = `
DELETE FROM search s USING unnest($2::text[]) AS b (id)
CROSS JOIN LATERAL (SELECT event_nid, event_id FROM event WHERE part = $1 AND event_id >= b.id COLLATE "C" ORDER BY event_id LIMIT 1) e
WHERE e.event_id = b.id COLLATE "C" AND s.part = $1 AND s.event_nid = e.event_nid`
)

// sqlSweep takes away the rows between two numbers that nothing stands behind any more.
const sqlSweep = `
DELETE FROM search s WHERE part = $1 AND event_nid > $2 AND event_nid <= $3 AND NOT EXISTS (
	SELECT FROM event e WHERE e.part = s.part AND e.event_nid = s.event_nid AND e.ord IS NOT NULL AND e.redacted_by IS NULL)`

// NewEntry makes the row of an event; ok is false if it has none.
func NewEntry(nid, room, ts int64, typ string, state bool, content []byte) (e Entry, ok bool) {
	field, text, ok := Text(typ, state, content)
	if !ok {
		return Entry{}, false
	}
	found := words.Of(text)
	return Entry{NID: nid, Room: room, TS: ts, Field: field, Words: found}, len(found) > 0
}

// QueuePut queues what writes rows of a partition. Those that are there stay.
func QueuePut(b *pgx.Batch, part uint32, entries []Entry) { queue(b, sqlPut, part, entries) }

func queue(b *pgx.Batch, sql string, part uint32, entries []Entry) {
	n := len(entries)
	nid, room, ts, field, text := make([]int64, n), make([]int64, n), make([]int64, n), make([]int16, n), make([]string, n)
	for i, e := range entries {
		nid[i], room[i], ts[i], field[i], text[i] = e.NID, e.Room, e.TS, int16(e.Field), strings.Join(e.Words, wordSep)
	}
	b.Queue(sql, int32(part), nid, room, ts, field, text)
}

// QueueRemove queues what takes rows away.
func QueueRemove(b *pgx.Batch, part uint32, redacted []string) {
	b.Queue(sqlRemove, int32(part), redacted)
}

// rebuildStep is how many events Rebuild reads at a time.
const rebuildStep = 1000

// Rebuild makes the rows of a partition anew from its events, behind a number, and returns the number that it got to; 0 when it is
// at the end. It may run while the log is followed, and again.
func Rebuild(ctx context.Context, shards *pg.Shards, part uint32, after int64) (last int64, err error) {
	rows, err := shards.For(part).Query(ctx, `SELECT e.event_nid, e.room_nid, e.event_id, e.type, e.state_key IS NOT NULL, e.origin_ts, r.version,
			CASE WHEN e.type = ANY($4) AND e.ord IS NOT NULL AND e.redacted_by IS NULL THEN e.json END
		FROM (SELECT * FROM event WHERE part = $1 AND event_nid > $2 ORDER BY event_nid LIMIT $3) e
		JOIN room r ON r.part = e.part AND r.room_nid = e.room_nid ORDER BY e.event_nid`, int32(part), after, rebuildStep, Types)
	if err != nil {
		return 0, fmt.Errorf("read events: %w", err)
	}
	var entries []Entry
	var nid, room, ts int64
	var eventID, typ, version string
	var state bool
	var json []byte
	n := 0
	_, err = pgx.ForEachRow(rows, []any{&nid, &room, &eventID, &typ, &state, &ts, &version, &json}, func() error {
		n, last = n+1, nid
		rules, known := roomversion.Get(version)
		if json == nil || !known {
			return nil
		}
		pdu, err := event.ParseTrusted(json, id.Event(eventID), rules)
		if err != nil {
			return fmt.Errorf("event %s: %w", eventID, err)
		}
		if e, ok := NewEntry(nid, room, ts, typ, state, pdu.Content); ok {
			entries = append(entries, e)
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("read events: %w", err)
	}
	if n == 0 {
		return 0, nil
	}
	var b pgx.Batch
	b.Queue(sqlSweep, int32(part), after, last)
	queue(&b, sqlReplace, part, entries)
	if err := shards.For(part).SendBatch(ctx, &b).Close(); err != nil {
		return 0, fmt.Errorf("write index: %w", err)
	}
	return last, nil
}

// ErrTimeout says that a search took too long.
var ErrTimeout = errors.New("the search took too long")

// searchTime bounds a search.
const searchTime = 10 * time.Second
