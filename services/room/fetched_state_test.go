package room

import (
	"context"
	"fmt"
	"testing"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
)

// Many events that a state names are found as few are: those of the room that are stored, whatever they are, each once. What
// lies far behind the first events of the room is found one by one.
func TestClaimedByScan(t *testing.T) {
	ctx := context.Background()
	c := newCluster(t, 1)
	roomID := c.create("11", alice, "public")
	r := c.room(roomID)
	const rows, asked = 30_000, 2 * scanFrom
	_, err := c.db.For(r.Part).Exec(ctx, `INSERT INTO event (part, event_nid, room_nid, event_id, depth, type, state_key, sender, origin_ts, flags, auth, prev, json)
		SELECT $1, 1000000 + n, CASE WHEN n % 11 = 0 THEN $2::bigint + 1 ELSE $2::bigint END, '$' || n, 1, 't' || n % 3, CASE WHEN n % 7 > 0 THEN 'k' || n END, '@a:x', 0,
			CASE WHEN n % 13 = 0 THEN $3 WHEN n % 5 = 0 THEN $4 ELSE 0 END, '{}', '{}', '{}'
		FROM generate_series(1, $5) n`, int32(r.Part), r.NID, roomdb.AuthMissing, roomdb.Rejected, rows)
	if err != nil {
		t.Fatal(err)
	}
	in := &intake{s: c.workers[0].Service, roomID: id.Room(roomID)}
	for name, of := range map[string]func(n int) int{
		"the first of the room": func(n int) int { return n },
		"the last of the room":  func(n int) int { return rows - n },
		"of any time":           func(n int) int { return n * (rows / asked) },
		"half of them unknown":  func(n int) int { return rows - asked/2 + n },
	} {
		var ids []id.Event
		for n := range asked {
			ids = append(ids, id.Event(fmt.Sprint("$", of(n))))
		}
		want := make(map[claimed]bool, asked)
		for from := 0; from < asked; from += scanFrom / 2 {
			few, err := in.claimed(ctx, ids[from:from+scanFrom/2])
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range few {
				want[e] = true
			}
		}
		many, err := in.claimed(ctx, ids)
		if err != nil {
			t.Fatal(err)
		}
		if len(many) != len(want) || len(want) < asked/4 {
			t.Errorf("%s: %d events, want %d", name, len(many), len(want))
		}
		for _, e := range many {
			if !want[e] {
				t.Errorf("%s: %v", name, e)
				break
			}
		}
	}
}
