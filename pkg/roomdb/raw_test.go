package roomdb_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"hanse/pkg/pg/pgtest"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

// EachRaw finds what is asked for and exists, in order, whether that lies close together or far apart, and between what
// else the room has.
func TestEachRaw(t *testing.T) {
	const part, all = 3, 20_000
	ctx := context.Background()
	shards := pgtest.New(t)
	// Every third number belongs to another room, every seventh to a message; every eleventh is redacted.
	_, err := shards.For(part).Exec(ctx, `INSERT INTO event (part, room_nid, event_nid, event_id, type, state_key, sender, depth, origin_ts, auth, prev, replaces, redacted_by, json)
		SELECT $1, CASE i % 3 WHEN 0 THEN 2 ELSE 1 END, i, '$' || i, 'x', CASE i % 7 WHEN 0 THEN NULL ELSE i::text END, '@a:x', 1, 0, '{}', '{}', i - 1,
			CASE i % 11 WHEN 0 THEN 1 END, convert_to(i::text, 'UTF8') FROM generate_series(1, $2::int) i`, part, all)
	if err != nil {
		t.Fatal(err)
	}
	d := roomdb.Open(shards, state.NewStore(state.DefaultConfig(), nil), roomdb.DefaultConfig(), nil)
	rng := rand.New(rand.NewPCG(1, 1))
	for _, every := range []int{1, 2, 5, 50, 500} {
		var asked, want []int64
		for n := int64(1); n <= all; n++ {
			if n%3 != 0 && n%7 != 0 && (every == 1 || rng.IntN(every) == 0) {
				asked, want = append(asked, n), append(want, n)
			}
		}
		asked = append(asked, all+1, all+7) // do not exist
		var got []int64
		err := d.EachRaw(ctx, roomdb.RoomKey{Part: part, NID: 1}, asked, func(r *roomdb.Raw) error {
			got = append(got, r.NID)
			if text := fmt.Sprint(r.NID); string(r.ID) != "$"+text || string(r.JSON) != text || r.Replaces != r.NID-1 || (r.RedactedBy == 1) != (r.NID%11 == 0) {
				return fmt.Errorf("event %d is %+v", r.NID, r)
			}
			return nil
		})
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("one of %d: %d events, not %d, %v", every, len(got), len(want), err)
		}
	}
}
