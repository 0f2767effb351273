package roomdb

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/bus/bustest"
	"hanse/pkg/pg"
	"hanse/pkg/pg/pgtest"
	"hanse/pkg/roomdb/eventsql"
	"hanse/pkg/state"
	logv1 "hanse/proto/log/v1"
)

const redactedPart = 3

// secretive is a room with an event, number 1, that is going to be redacted.
func secretive(t *testing.T) (*DB, *pg.Shards) {
	shards := pgtest.New(t)
	for _, sql := range []string{
		`INSERT INTO room (part, room_nid, room_id, version, sid, extremities, depth) VALUES ($1, 1, '!r:x', '11', 0, '{}', 0)`,
		`INSERT INTO event (part, event_nid, room_nid, event_id, depth, type, sender, origin_ts, auth, prev, json) VALUES ($1, 1, 1, '$1', 1, 'm.room.message',
			'@a:x', 0, '{}', '{}', '{"auth_events":[],"content":{"body":"secret"},"depth":1,"origin_server_ts":1,"prev_events":[],"room_id":"!r:x","sender":"@a:x","type":"m.room.message"}')`,
	} {
		if _, err := shards.For(redactedPart).Exec(t.Context(), sql, redactedPart); err != nil {
			t.Fatal(err)
		}
	}
	return Open(shards, state.NewStore(state.DefaultConfig(), nil), DefaultConfig(), nil), shards
}

func redact(t *testing.T, shards *pg.Shards) {
	t.Helper()
	if _, err := shards.For(redactedPart).Exec(t.Context(), `UPDATE event SET redacted_by = 2 WHERE part = $1 AND event_nid = 1`, redactedPart); err != nil {
		t.Fatal(err)
	}
}

// content is that of the event as readers see it.
func content(t *testing.T, d *DB) string {
	t.Helper()
	events, err := d.Events(t.Context(), redactedPart, []int64{1})
	if err != nil {
		t.Fatal(err)
	}
	return string(events[1].Content)
}

// interrupted does something between a query and the reading of its rows.
type interrupted struct {
	querier
	meanwhile func()
}

func (q interrupted) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	rows, err := q.querier.Query(ctx, sql, args...)
	q.meanwhile()
	return rows, err
}

// What was read before a redaction is not kept if the redaction is announced before the reader is done.
func TestRedactedWhileRead(t *testing.T) {
	d, shards := secretive(t)
	q := interrupted{shards.For(redactedPart), func() {
		redact(t, shards)
		d.Forget(redactedPart, 1)
	}}
	events, err := d.queryEventsAt(t.Context(), q, eventsql.ByNID, redactedPart, []int64{1})
	if err != nil {
		t.Fatal(err)
	}
	if got := string(events[0].Content); got != `{"body":"secret"}` {
		t.Fatalf("the event was redacted before it was read: %s", got)
	}
	if got := content(t, d); got != "{}" {
		t.Errorf("a later reader sees %s", got)
	}
}

// A reader hears of redactions.
func TestRedactionAnnounced(t *testing.T) {
	d, shards := secretive(t)
	b := bustest.New(t).Open("reader")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx, b) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	if got := content(t, d); got != `{"body":"secret"}` {
		t.Fatalf("content %s", got)
	}
	redact(t, shards)
	deadline := time.Now().Add(maxAge / 2)
	for content(t, d) != "{}" {
		if time.Now().After(deadline) {
			t.Fatal("the event is shown as it was")
		}
		// Said again, as Run may not listen yet.
		if err := b.PublishRedacted(&logv1.Redacted{Part: redactedPart, Nids: []int64{1}}); err != nil {
			t.Fatal(err)
		}
	}
}
