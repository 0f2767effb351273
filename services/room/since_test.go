package room

import (
	"slices"
	"testing"

	"hanse/pkg/matrix/event"
	roomv1 "hanse/proto/room/v1"
)

// Server-server API, POST /get_missing_events, min_depth: events from before our join are not asked for when a new event
// names them, and do not come in as new ones if they are told all the same. The new event does.
func TestMissingFromBeforeTheJoin(t *testing.T) {
	for _, omit := range []bool{false, true} {
		g := newBarrier("ids")
		t.Cleanup(g.release)
		n, a, b := newPartialClusters(t, 1, g.fill)
		n.setOmit(omit)
		ok := must[*roomv1.SendResponse](t)
		roomID := a.create("11", anna, "public")
		populate(t, a, roomID, one, 3)
		for _, text := range []string{"first", "second", "third", "fourth"} {
			ok(a.say(roomID, anna, text))
		}
		tl := a.timeline(roomID)
		fork := tl[len(tl)-3] // two events upon it are less deep than the join
		ok(b.join(roomID, bert, string(one)))
		st := a.state(roomID)
		d := event.Draft{Type: "m.room.message", Sender: anna, Content: []byte(`{"body":"x"}`)}
		old := []*event.PDU{a.build(follow(d, st, fork.PDU), fork.PDU)}
		old = append(old, a.build(follow(d, st, old[0]), fork.PDU))
		tl = a.timeline(roomID)
		join := tl[len(tl)-1]
		merge := a.build(follow(d, st, join.PDU, old[1]), join.PDU)
		for _, pdu := range append(slices.Clone(old), merge) {
			if r := a.receive(roomID, one, pdu.JSON)[0]; r.Error != "" {
				t.Fatal(r.Error)
			}
		}
		if r := b.receive(roomID, one, merge.JSON)[0]; r.Error != "" {
			t.Fatal(r.Error)
		}
		if len(a.minDepths) != 1 || a.minDepths[0] != join.Depth {
			t.Errorf("omit %t: missing events were asked for from depths %v on, not %d", omit, a.minDepths, join.Depth)
		}
		here := 0
		for _, e := range b.timeline(roomID) {
			if e.ID == old[0].ID || e.ID == old[1].ID {
				t.Errorf("omit %t: an event of depth %d is at %d of the timeline, the join has depth %d", omit, e.Depth, e.Ord, join.Depth)
			}
			if e.ID == merge.ID {
				here++
			}
		}
		if here != 1 {
			t.Errorf("omit %t: the new event is in the timeline %d times", omit, here)
		}
		g.release()
		if omit {
			b.whole(roomID)
		}
		sameState(t, a, b, roomID)
	}
}
