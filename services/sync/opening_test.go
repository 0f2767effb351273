package sync

import (
	"encoding/json"
	"testing"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/pg"
	"hanse/pkg/pg/pgtest"
	"hanse/pkg/roomdb"
	"hanse/pkg/session"
	"hanse/pkg/state"
	"hanse/pkg/token"
	"hanse/pkg/userdb"
)

// storeMessages stores a room, number 1 of partition 0, with a message at each of some log positions.
func storeMessages(t *testing.T, shards *pg.Shards, at ...int64) {
	t.Helper()
	const sid = 1000
	batch := state.NewWriter(nil).Batch()
	if _, err := batch.Root(0, sid, state.Map{}.Set(state.Key{Type: "m.test"}, at[0])); err != nil {
		t.Fatal(err)
	}
	var q pgx.Batch
	batch.Queue(&q)
	if err := shards.For(0).SendBatch(t.Context(), &q).Close(); err != nil {
		t.Fatal(err)
	}
	key, err := signing.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	rules, _ := roomversion.Get("11")
	for i, pos := range at {
		content, err := json.Marshal(map[string]int64{"at": pos})
		if err != nil {
			t.Fatal(err)
		}
		pdu, err := event.Build(event.Draft{RoomID: "!r:a", Type: "m.room.message", Sender: "@u:a", Content: content}, rules, "a", key)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			_, err = shards.For(0).Exec(t.Context(), `INSERT INTO room (part, room_nid, room_id, version, sid, extremities, depth, first_ord, last_pos)
				VALUES (0, 1, '!r:a', '11', $1, '{}', 0, $2, $3)`, sid, pos, at[len(at)-1])
			if err != nil {
				t.Fatal(err)
			}
		}
		_, err = shards.For(0).Exec(t.Context(), `WITH e AS (INSERT INTO event (part, room_nid, event_nid, event_id, ord, type, sender, depth, origin_ts, sid, flags, auth, prev, json)
			VALUES (0, 1, $1, $2, $1, 'm.room.message', '@u:a', 1, 0, $3, 0, '{}', '{}', $4) RETURNING event_nid)
			INSERT INTO log (part, pos, room_nid, kind, event_nid, current_before, current_after) SELECT 0, $1, 1, 1, event_nid, $3, $3 FROM e`,
			pos, string(pdu.ID), sid, pdu.JSON)
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Client-server API, "Syncing": an answer tells of what happened up to its next_batch, and the next one of what comes
// behind. A poll that took its moment earlier than another must not get what was worked out for that one.
func TestOpeningOfALaterMoment(t *testing.T) {
	shards := pgtest.New(t)
	storeMessages(t, shards, 5, 7)
	s := &Service{rooms: roomdb.Open(shards, state.NewStore(state.DefaultConfig(), nil), roomdb.DefaultConfig(), nil), openings: newOpenings(1<<20, nil)}
	s.tail, _ = newTestTail(t, 1<<20, 0)
	s.tail.watch(0, 1, "!r:a")
	deliver(t, s.tail, message(t, 5, 1, "one", ""), message(t, 7, 1, "two", ""), message(t, 8, 2, "elsewhere", ""))
	f, err := parseFilter([]byte(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	rooms := []*userdb.Membership{{Room: "!r:a", RoomPart: 0, RoomNID: 1, Membership: "join"}}
	told := func(pos int64) int {
		t.Helper()
		m := &moment{joined: rooms, pos: []token.PartPos{{Part: 0, Pos: pos}}}
		p := &poll{asker: asker{who: &session.Identity{User: id.User("@u:a")}}, filter: f}
		found, err := s.openingsOf(t.Context(), p, m, rooms)
		if err != nil {
			t.Fatal(err)
		}
		o := found[roomdb.RoomKey{Part: 0, NID: 1}]
		if o.closed || o.missing {
			t.Fatalf("the opening at %d is closed (%t) or missing (%t)", pos, o.closed, o.missing)
		}
		return o.timeline.Len()
	}
	for _, c := range []struct {
		pos  int64
		want int
	}{{8, 2}, {6, 1}, {7, 2}, {8, 2}} {
		if got := told(c.pos); got != c.want {
			t.Errorf("a first answer up to %d tells %d events, want %d", c.pos, got, c.want)
		}
	}
}
