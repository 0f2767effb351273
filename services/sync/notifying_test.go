package sync

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"hanse/pkg/matrix/id"
	"hanse/pkg/pg/pgtest"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	"hanse/pkg/view"
)

// Client-server API, "Receiving notifications": what a user finds in the events that were read for somebody else is what
// PostgreSQL counts for that user alone.
func TestUnreadBehind(t *testing.T) {
	const head = 2500
	shards := pgtest.New(t)
	r := rand.New(rand.NewPCG(1, 2))
	users := []id.User{"@a:a", "@b:a", "@c:a", "@d:a"}
	rooms := map[int64]int64{1: 60, 2: head} // and how many events they have
	for room, events := range rooms {
		seq := 0
		for ord := int64(1); ord <= events; ord++ {
			seq += r.IntN(2)
			var redacted any
			if r.IntN(5) == 0 {
				redacted = ord
			}
			_, err := shards.For(0).Exec(t.Context(), `INSERT INTO event (part, room_nid, event_nid, event_id, ord, type, sender, depth, origin_ts,
				sid, flags, auth, prev, json, notify_seq, redacted_by)
				VALUES (0, $1, $2, $3, $4, 'm.room.message', $5, 1, 0, 0, 0, '{}', '{}', '{}', $6, $7)`,
				room, room<<20|ord, fmt.Sprintf("$%d-%d", room, ord), ord, string(users[r.IntN(len(users))]), seq, redacted)
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	s := &Service{rooms: roomdb.Open(shards, state.NewStore(state.DefaultConfig(), nil), roomdb.DefaultConfig(), nil), notifying: newNotifyingRooms(1<<20, nil)}
	s.tail, _ = newTestTail(t, 1<<20, head)
	for room := range rooms {
		s.tail.watch(0, room, id.Room(fmt.Sprintf("!%d:a", room)))
	}
	var asking sync.WaitGroup
	for range 200 {
		var spans []roomdb.UnreadSpan
		for room, events := range rooms {
			span := roomdb.UnreadSpan{RoomKey: roomdb.RoomKey{NID: room}, After: r.Int64N(events), UpTo: head}
			if r.IntN(3) == 0 {
				span.UpTo = span.After + r.Int64N(events-span.After) + 1
			}
			spans = append(spans, span)
		}
		who, ignored := users[r.IntN(len(users))], view.Ignored{}
		if r.IntN(3) == 0 {
			ignored[users[r.IntN(len(users))]] = struct{}{}
		}
		asking.Go(func() {
			got, err := s.unreadBehind(t.Context(), who, ignored, spans)
			if err != nil {
				t.Error(err)
				return
			}
			var ids []id.User
			for u := range ignored {
				ids = append(ids, u)
			}
			silent, err := s.rooms.Silent(t.Context(), who, ids, spans)
			if err != nil {
				t.Error(err)
			}
			for _, span := range spans {
				if c := got[span.RoomKey]; c.silent != silent[span.RoomKey] {
					t.Errorf("%s in %+v: %d do not notify, want %d", who, span, c.silent, silent[span.RoomKey])
				}
			}
		})
	}
	asking.Wait()
	if len(s.notifying.underway.by) != 0 {
		t.Errorf("%d rooms are still being read", len(s.notifying.underway.by))
	}

	// What was read for one is enough for all who have read as far; something that happens in the room may have been a redaction.
	ask := roomdb.UnreadSpan{RoomKey: roomdb.RoomKey{NID: 1}, UpTo: head}
	if _, err := s.unreadBehind(t.Context(), users[0], nil, []roomdb.UnreadSpan{ask}); err != nil {
		t.Fatal(err)
	}
	ask.After = 30
	if n := s.covers(ask); n == nil || n.after != 0 {
		t.Errorf("%+v does not cover what is newer", n)
	}
	deliver(t, s.tail, message(t, head+1, 1, "new", ""))
	if n := s.covers(ask); n != nil {
		t.Errorf("%+v is told after something happened", n)
	}
}
