package room

import (
	"slices"
	"testing"

	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	roomv1 "hanse/proto/room/v1"
)

// filled is how many relations the workers have written in the background.
func relationsFilled(c *cluster) (n float64) {
	for _, w := range c.workers {
		n += counter(w.metrics.related)
	}
	return n
}

// Relations of events from before an upgrade, and of those that owners of an older version append and redact during one, are written by
// the next owner. A partition that only owners of this version had is not looked through again.
func TestRelationsAreFilled(t *testing.T) {
	c := newCluster(t, 2)
	ok := must[*roomv1.SendResponse](t)
	roomID := c.create("11", alice, "public")
	ok(c.join(roomID, bob))
	part := partition.Of(roomID)
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := c.db.For(part).Exec(t.Context(), sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	root := ok(c.say(roomID, alice, "root")).EventIds[0]
	relate := func(sender, relType, more string) string {
		t.Helper()
		return ok(c.relate(roomID, sender, "m.room.message", relType, root, more)).EventIds[0]
	}
	relate(alice, "m.replace", `,"m.new_content":{"body":"x"}`)
	relate(bob, "m.thread", "")
	gone := relate(bob, "m.thread", "")
	last := relate(alice, "m.thread", "")
	if _, err := c.redact(roomID, bob, gone); err != nil {
		t.Fatal(err)
	}
	check := func(replies int64, latest string) {
		t.Helper()
		waitFor(t, func() bool {
			got := c.aggregate(roomID, root)
			return got.Replies == replies && got.Latest == c.event(roomID, id.Event(latest)).NID && got.Edit != 0
		})
		for user, want := range map[string][]string{"": {root}, bob: {root}, "@nobody:hanse.test": nil} {
			if got := c.threadsOf(roomID, user); !slices.Equal(got, want) {
				t.Errorf("threads of %q: %v, want %v", user, got, want)
			}
		}
	}
	check(2, last)
	// takeOver lets another worker have the partition after so many owners of an older version.
	takeOver := func(older int) {
		t.Helper()
		exec(`UPDATE partition SET epoch = epoch + $2 WHERE part = $1`, int32(part), older)
		(&told{c: c, room: roomID}).moveOwner(t)
		ok(c.say(roomID, alice, "to the next owner"))
		waitFor(t, func() bool {
			var done bool
			err := c.db.For(part).QueryRow(t.Context(), `SELECT f.done >= f.goal AND f.epoch = p.epoch FROM relation_fill f JOIN partition p USING (part) WHERE part = $1`,
				int32(part)).Scan(&done)
			return err == nil && done
		})
	}

	exec(`DELETE FROM relation WHERE part = $1`, int32(part))
	exec(`DELETE FROM thread WHERE part = $1`, int32(part))
	exec(`DELETE FROM relation_fill WHERE part = $1`, int32(part))
	takeOver(0)
	check(2, last)
	filled := relationsFilled(c)
	if filled < 4 {
		t.Errorf("%v relations were written", filled)
	}

	takeOver(0) // the owner before was of this version
	if got := relationsFilled(c); got != filled {
		t.Errorf("%v relations were written again", got-filled)
	}

	// An owner of an older version appends a reply and redacts another.
	late := relate(bob, "m.thread", "")
	e := c.event(roomID, id.Event(late))
	exec(`DELETE FROM relation WHERE part = $1 AND child = $2`, int32(part), e.NID)
	exec(`UPDATE thread SET replies = replies - 1 WHERE part = $1 AND root = $2 AND user_id IN ('', $3)`, int32(part), root, bob)
	if _, err := c.redact(roomID, alice, last); err != nil {
		t.Fatal(err)
	}
	exec(`UPDATE relation SET live = true WHERE part = $1 AND child_id = $2`, int32(part), last)
	exec(`UPDATE thread SET replies = replies + 1 WHERE part = $1 AND root = $2 AND user_id IN ('', $3)`, int32(part), root, alice)
	takeOver(1)
	check(2, late)
	for range 2 { // nothing is counted twice
		exec(`UPDATE relation_fill SET epoch = 0, done = 0, goal = 0 WHERE part = $1`, int32(part))
		takeOver(1)
		check(2, late)
	}
}
