package roomdb_test

import (
	"context"
	"fmt"
	"math"
	"slices"
	"testing"

	"hanse/pkg/roomdb"
)

// What fills a hole lies between two log positions, each event before the one that came into it earlier; no place is that of another
// position, or none.
func TestPlaces(t *testing.T) {
	for _, pos := range []int64{1, 2, 1 << 40, -50} {
		last := roomdb.At(pos)
		for range 3 << 20 {
			p := last.Before()
			if p >= last || p == 0 || p == roomdb.At(p.Pos()) {
				t.Fatalf("%d, before %d, is the place of position %d", p, last, p.Pos())
			}
			last = p
		}
		for _, p := range []roomdb.Place{roomdb.At(pos), roomdb.At(pos).Before(), last} {
			if back, err := roomdb.ParsePlace(p.Token()); err != nil || back != p {
				t.Errorf("%d came back from %s as %d, %v", p, p.Token(), back, err)
			}
			if back := roomdb.PlaceOf(p.LateOrd()); back != p || p.LateOrd() > -1<<60 {
				t.Errorf("%d is stored as %d and comes back as %d", p, p.LateOrd(), back)
			}
		}
	}
	if roomdb.PlaceOf(7) != roomdb.At(7) || roomdb.PlaceOf(-7) != roomdb.At(-7) || roomdb.PlaceOf(0) != 0 {
		t.Error("log positions, and numbers of history from before holes had places, are other places")
	}
}

// Reading a page, or the end of a timeline, reads as many rows as it returns, whether holes were filled or not, and however long
// the room is (law 9 holds for readers too: nothing grows with the room).
func TestTimelineReadsItsPageOnly(t *testing.T) {
	const part, limit = 7, 20
	ctx := context.Background()
	db := newCounted(t, part, roomdb.Config{})
	rooms := db.rooms
	key := roomdb.RoomKey{Part: part, NID: 1}
	var upTo roomdb.Place
	reads := map[string]func() ([]*roomdb.Event, error){
		"backwards": func() ([]*roomdb.Event, error) {
			return rooms.Timeline(ctx, part, 1, roomdb.TimelineQuery{After: roomdb.Start, UpTo: upTo, Backwards: true, Limit: limit})
		},
		"forwards": func() ([]*roomdb.Event, error) {
			return rooms.Timeline(ctx, part, 1, roomdb.TimelineQuery{After: roomdb.Start, UpTo: upTo, Limit: limit})
		},
		"end": func() ([]*roomdb.Event, error) {
			found, err := rooms.TimelineEnds(ctx, []roomdb.TimelineEnd{{RoomKey: key, UpTo: upTo.Pos()}}, limit)
			return found[key].Events, err
		},
	}
	db.exec(`INSERT INTO room (part, room_nid, room_id, version, sid, extremities, depth) VALUES (7, 1, '!r:x', '11', 0, '{}', 0)`)
	for range 10 { // PostgreSQL plans anew the first five times
		for name, f := range reads {
			if events, err := f(); len(events) != 0 || err != nil {
				t.Fatalf("%s of an empty room: %d, %v", name, len(events), err)
			}
		}
	}
	const insert = `INSERT INTO event (part, event_nid, room_nid, event_id, ord, depth, type, sender, origin_ts, auth, prev, json)
		SELECT 7, n + %d, 1, '$' || (n + %[1]d), %s, 1, 'm.room.message', '@a:x', 0, '{}', '{}',
		'{"type":"x","sender":"@a:x","room_id":"!r:x","content":{},"origin_server_ts":1,"depth":1,"prev_events":[],"auth_events":[]}'
		FROM generate_series(1, %d) n`
	db.exec(fmt.Sprintf(insert, 0, "n", 3000))
	for _, filled := range []bool{false, true} {
		if filled { // a hole before position 2990
			db.exec(fmt.Sprintf(insert, 10000, fmt.Sprintf("%d - n", roomdb.At(2990).LateOrd()), 2000))
		}
		for _, at := range []int64{3000, 1500} {
			upTo = roomdb.At(at)
			for name, f := range reads {
				before := db.read("event")
				events, err := f()
				if err != nil || len(events) != limit {
					t.Fatalf("%s: %d events, %v", name, len(events), err)
				}
				// From each of two ranges at most the page, and the events of an end once more, by number.
				if tuples := db.read("event") - before; tuples > 3*limit+5 {
					t.Errorf("%s up to %d, filled %t: %d rows for %d events", name, at, filled, tuples, limit)
				}
				if !slices.IsSortedFunc(events, func(a, b *roomdb.Event) int {
					if (name == "forwards") == (a.Place() < b.Place()) {
						return -1
					}
					return 1
				}) {
					t.Errorf("%s up to %d, filled %t: out of order", name, at, filled)
				}
			}
		}
	}
	h, err := rooms.HoleAt(ctx, part, 1, 2990)
	if err != nil || h.Floor != roomdb.At(2989) || h.Low != roomdb.At(2990)-2000 {
		t.Errorf("%+v, %v", h, err)
	}
	db.exec(`INSERT INTO missing_prev (part, room_nid, event_id, child, hole) VALUES (7, 1, '$m', 12000, 2990), (7, 1, '$n', 10, 10), (7, 1, '$none', 11, NULL)`)
	for _, c := range []struct {
		at     roomdb.Place
		before int64
		behind int64
	}{
		{roomdb.At(3000), 2990, 0}, {roomdb.At(2990), 2990, 0}, {h.Low - 1, 2990, 0}, {h.Low + 5, 2990, 0}, {roomdb.At(2989), 10, 2990},
		{roomdb.At(9), 0, 10}, {roomdb.Start, 0, 10},
	} {
		before, err := rooms.HoleBefore(ctx, part, 1, c.at, math.MaxInt64)
		if err != nil || before == nil != (c.before == 0) || before != nil && before.Pos != c.before {
			t.Errorf("before %s: %+v, %v; want %d", c.at.Token(), before, err, c.before)
		}
		behind, err := rooms.HoleBehind(ctx, part, 1, c.at, math.MinInt64)
		if err != nil || behind == nil != (c.behind == 0) || behind != nil && behind.Pos != c.behind {
			t.Errorf("behind %s: %+v, %v; want %d", c.at.Token(), behind, err, c.behind)
		}
	}
}
