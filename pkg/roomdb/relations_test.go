package roomdb_test

import (
	"context"
	"fmt"
	"testing"

	"hanse/pkg/growth"
	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
)

// What is asked of relations reads the same number of rows with the same number of statements, however many threads a room has and however
// much relates to an event; also by plans that were made when there was nothing. docs/relations.md, "What is read".
func TestRelationsReadNoMore(t *testing.T) {
	const part, page = 7, 20
	ctx := context.Background()
	db := newCounted(t, part, roomdb.Config{EventCache: 64 << 20})
	rooms := db.rooms
	// fill makes a room in which each of so many messages has a thread of three replies, and the first one as many replies, edits,
	// reactions and references.
	fill := func(room int64, n int) {
		first := room * 1_000_000
		db.exec(`INSERT INTO room (part, room_nid, room_id, version, sid, extremities, depth) VALUES ($1, $2::bigint, '!' || $2::bigint || ':x', '11', 0, '{}', 0)`, part, room)
		db.exec(`INSERT INTO event (part, event_nid, room_nid, event_id, ord, depth, type, sender, origin_ts, auth, prev, json)
			SELECT $1, $3::bigint + i, $2, '$' || $3::bigint + i, $3::bigint + i, 1, 'm.room.message', '@a:x', i, '{}', '{}',
			convert_to(format('{"type":"m.room.message","sender":"@a:x","room_id":"!%s:x","content":{},"origin_server_ts":1,"depth":1,"prev_events":[],"auth_events":[]}', $2::bigint), 'UTF8')
			FROM generate_series(1, $4::int * 8) i`, part, room, first, n)
		db.exec(`INSERT INTO relation (part, child, room_nid, parent, rel_type, child_id, type, sender, origin_ts, place, key, edit, live)
			SELECT $1, $3::bigint + c, $2, '$' || $3::bigint + p, typ, '$' || $3::bigint + c, 'm.room.message', '@a:x', c, ($3::bigint + c) << 20, '', typ = 'm.replace', true
			FROM (SELECT $4::int + i AS c, 1 + i % $4::int AS p, 'm.thread' AS typ FROM generate_series(1, 3 * $4::int) i
				UNION ALL SELECT $4::int * k + i, 1, (ARRAY['m.thread', 'm.replace', 'm.annotation', 'm.reference'])[k - 3]
				FROM generate_series(1, $4::int) i, generate_series(4, 7) k) r`, part, room, first, n)
		db.exec(`INSERT INTO thread SELECT part, room_nid, u.user_id, parent, count(*), max(place) FROM relation, (VALUES (''), ('@a:x')) u (user_id)
			WHERE room_nid = $1 AND rel_type = 'm.thread' GROUP BY 1, 2, 3, 4`, room)
	}
	events := func(room int64, n int) []*roomdb.Event {
		var nids []int64
		for i := range n {
			nids = append(nids, room*1_000_000+1+int64(i))
		}
		found, err := rooms.Events(ctx, part, nids)
		if err != nil {
			t.Fatal(err)
		}
		var all []*roomdb.Event
		for _, nid := range nids {
			if e := found[nid]; e != nil {
				all = append(all, e)
			}
		}
		return all
	}
	ops := map[string]func(room int64) (int, error){
		"threads": func(room int64) (int, error) {
			found, err := rooms.Threads(ctx, part, room, "", roomdb.End, page)
			return len(found), err
		},
		"aggregations": func(room int64) (int, error) {
			found, err := rooms.Aggregates(ctx, roomdb.AggregateQuery{Reader: "@b:x", UpTo: roomdb.End}, events(room, page))
			if a := found[first(events(room, 1))]; a != nil && (a.Edit == 0 || a.Latest == 0 || a.Replies == 0 || len(a.References) == 0) {
				return 0, fmt.Errorf("%+v", a)
			}
			return len(found), err
		},
		"relations": func(room int64) (int, error) {
			found, err := rooms.Relations(ctx, part, room, roomdb.RelationsQuery{Parent: id.Event(fmt.Sprint("$", room*1_000_000+1)), UpTo: roomdb.End, Backwards: true, Limit: page})
			return len(found), err
		},
		"relations of a type": func(room int64) (int, error) {
			found, err := rooms.Relations(ctx, part, room, roomdb.RelationsQuery{Parent: id.Event(fmt.Sprint("$", room*1_000_000+1)), RelType: "m.reference", UpTo: roomdb.End, Limit: page})
			return len(found), err
		},
	}
	for what, op := range ops {
		for range 10 { // PostgreSQL plans anew the first five times
			if n, err := op(1); n != 0 || err != nil {
				t.Fatalf("%s of an empty room: %d, %v", what, n, err)
			}
		}
	}
	sizes := map[int]int64{100: 1, 2000: 2}
	for n, room := range sizes {
		fill(room, n)
	}
	db.exec(`ANALYZE relation`) // as it is soon
	for what, op := range ops {
		growth.Flat(t, what, 100, 2000, 1.5, func(n int) growth.Cost {
			run := func(int) {
				if got, err := op(sizes[n]); got != page || err != nil {
					t.Fatalf("%s: %d, %v", what, got, err)
				}
			}
			run(0) // events are read once
			statements, rows := db.result.Each(3, run)
			before := db.read("relation", "thread")
			run(0)
			return growth.Cost{"statements": statements, "rows": rows, "tuples": float64(db.read("relation", "thread") - before)}
		})
	}
}

func first(events []*roomdb.Event) *roomdb.Event {
	if len(events) == 0 {
		return nil
	}
	return events[0]
}
