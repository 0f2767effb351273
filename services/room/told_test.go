package room

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"testing"

	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/partition"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	roomv1 "hanse/proto/room/v1"
)

// caro is of the third server.
const caro = "@caro:three.test"

// told is a room of three servers of which one has missed events, and was told the state before the next one wrongly: the last
// members are not in it, nor is the topic.
type told struct {
	n       *network
	a, b, c *cluster
	room    string
	heard   *roomdb.Event // upon what was told
	after   int64         // position of the room at a up to which c has heard
}

// newTold makes the room; c has so many workers. Of the missed events there are so many.
func newTold(t *testing.T, missed, workers int, f faults) *told {
	t.Helper()
	n := newNetwork()
	x := &told{n: n, a: newFedCluster(t, n, one, 1), b: newFedCluster(t, n, two, 1), c: newFedClusterFaulty(t, n, three, workers, f)}
	x.begin(t, missed, 0, 0)
	return x
}

// begin makes the room, with some more members and messages than it needs from before the events that are missed.
func (x *told) begin(t *testing.T, missed, members, messages int) {
	t.Helper()
	ok := must[*roomv1.SendResponse](t)
	n, a, b, c := x.n, x.a, x.b, x.c
	x.room = a.create(roomversion.Default, anna, "public")
	roomID := x.room
	a.fill(roomID, one, members)
	for i := range messages {
		ok(a.say(roomID, anna, fmt.Sprint("before ", i)))
	}
	ok(b.join(roomID, bert, string(one)))
	ok(c.join(roomID, caro, string(one)))
	c.whole(roomID)
	b.take(roomID, three, c.last(roomID).PDU)
	head := a.room(roomID).LastPos

	left := make(map[id.Event]bool)
	for i := range 3 {
		left[id.Event(ok(a.join(roomID, fmt.Sprintf("@m%d:one.test", i))).EventIds[0])] = true
	}
	left[id.Event(ok(a.setState(roomID, anna, "m.room.topic", "", `{"topic":"missed"}`)).EventIds[0])] = true
	for i := range missed - 4 {
		ok(a.say(roomID, anna, fmt.Sprint("missed ", i)))
	}
	x.after = carry(a, b, one, roomID, head)
	x.heard = b.event(roomID, id.Event(ok(b.say(roomID, bert, "heard")).EventIds[0]))
	a.take(roomID, two, x.heard.PDU)

	n.setCut(one, true) // nobody tells another state
	n.lie(map[string]func([]string, url.Values) any{
		"get_missing_events": func([]string, url.Values) any { return map[string]any{"events": []json.RawMessage{}} },
		"state_ids": func([]string, url.Values) any {
			var ids []id.Event
			for _, e := range b.state(roomID) {
				if !left[e] && e != x.heard.ID {
					ids = append(ids, e)
				}
			}
			return map[string]any{"pdu_ids": ids, "auth_chain_ids": ids}
		},
	})
	c.take(roomID, two, x.heard.PDU)
	n.lie(nil)
	n.setCut(one, false)
}

// fill asks for what is missing until there is no more.
func (x *told) fill() {
	x.c.tb.Helper()
	for complete := false; !complete; {
		err := x.c.call(context.Background(), x.room, func(ctx context.Context, r roomv1.RoomClient) error {
			resp, err := r.Backfill(ctx, &roomv1.BackfillRequest{RoomId: x.room, Limit: backfillLimit})
			complete = resp.GetComplete()
			return err
		})
		if err != nil {
			x.c.tb.Fatal(err)
		}
	}
}

// judged waits until nothing stands upon what was told.
func (x *told) judged() {
	x.c.tb.Helper()
	waitFor(x.c.tb, func() bool { return x.c.rows("told_event") == 0 })
	x.c.forgetRead()
}

// forgetRead has the test read events anew: the bus tells that to other readers, and the test's own has no part in it.
func (c *cluster) forgetRead() {
	c.read = roomdb.Open(c.db, state.NewStore(state.DefaultConfig(), nil), roomdb.DefaultConfig(), nil)
}

// Server-server API, "Checks performed on receipt of a PDU": the state before an event is that after its prev events. What
// another server told in their place, as they were missing, gives way to it once they are here, at the event and at all that
// follows: what was refused for it is accepted, and the room's state is the one of all others. The owner may be another in the
// middle of it.
func TestToldStateGivesWay(t *testing.T) {
	for _, step := range []string{"", "begin", "chunk"} {
		for _, missed := range []int{6, 2 * backfillLimit} {
			t.Run(fmt.Sprintf("%d events missed, owner lost at %q", missed, step), func(t *testing.T) {
				gate := newBarrier(step)
				t.Cleanup(gate.release)
				x := newTold(t, missed, 2, faults{review: gate.fill})
				a, c, ok := x.a, x.c, must[*roomv1.SendResponse](t)
				ok(a.say(x.room, "@m0:one.test", "nobody of three knows me"))
				refused := a.last(x.room)
				ok(a.setState(x.room, anna, "m.room.name", "", `{"name":"later"}`))
				named := a.last(x.room)
				if got := c.receive(x.room, one, refused.JSON)[0].Error; got == "" {
					t.Fatal("the message of somebody whose join is unknown is accepted")
				}
				c.take(x.room, one, named.PDU)
				ok(c.say(x.room, caro, "upon what was told"))
				x.after = carry(c, a, three, x.room, 0)

				x.fill()
				if step != "" {
					<-gate.reached
					x.moveOwner(t)
					gate.release()
				}
				x.judged()
				sameState(t, a, c, x.room)
				c.checkResolved(x.room)
				c.auditSplit(t, x.room)
				sameStates(t, a, c, x.room)
				if e := c.event(x.room, refused.ID); e.Flags != 0 || !e.Visible() {
					t.Errorf("the message that was refused has flags %d, place %d", e.Flags, e.Ord)
				}
				ok(c.say(x.room, caro, "afterwards"))
				carry(c, a, three, x.room, 0)
				sameState(t, a, c, x.room)
			})
		}
	}
}

// moveOwner gives the room's partition to another worker of c.
func (x *told) moveOwner(t *testing.T) {
	t.Helper()
	part := partition.Of(x.room)
	for _, w := range x.c.workers {
		if w.leases[part].Load() == nil {
			if _, err := partition.NewRows(x.c.db).Acquire(context.Background(), part, w.name, w.grpc.Addr()); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatal("no worker is without the partition")
}

// What was told rightly stays, and costs nothing: no entry of the log, and no verdict changes.
func TestToldStateIsConfirmed(t *testing.T) {
	x := newTold(t, 6, 1, faults{})
	a, b, c, ok := x.a, x.b, x.c, must[*roomv1.SendResponse](t)
	x.fill()
	x.judged()
	before := counterOf(c, "same")
	// Now what is missing cannot be had, and the state is told as it is.
	ok(a.join(x.room, "@m3:one.test"))
	carry(a, b, one, x.room, x.after)
	heard := b.event(x.room, id.Event(ok(b.say(x.room, bert, "heard again")).EventIds[0]))
	a.take(x.room, two, heard.PDU)
	x.n.lie(map[string]func([]string, url.Values) any{
		"get_missing_events": func([]string, url.Values) any { return map[string]any{"events": []json.RawMessage{}} },
	})
	c.take(x.room, two, heard.PDU)
	x.n.lie(nil)
	if c.rows("told_event") == 0 {
		t.Fatal("nothing notes that the state was told")
	}
	x.fill()
	filled := c.room(x.room).LastPos
	x.judged()
	if got := c.room(x.room).LastPos; got != filled {
		t.Errorf("the log goes to %d, not %d", got, filled)
	}
	if got := counterOf(c, "same"); got <= before {
		t.Errorf("%v states are the same as told, %v before", got, before)
	}
	sameState(t, a, c, x.room)
	sameStates(t, a, c, x.room)
}

// counterOf is how many reviews had an outcome.
func counterOf(c *cluster, outcome string) float64 {
	return counter(c.any().metrics.reviews.WithLabelValues(outcome))
}
