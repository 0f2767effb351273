package room

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"testing"

	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/merr"
	roomv1 "hanse/proto/room/v1"
)

const four = id.Server("four.test")

// asking lets a cluster ask others about the state that came with a join, so many times.
func asking(times int32) faults { return faults{asks: &times} }

// omitter is a room of the servers one, two and four, into which one lets the server three, and leaves some members out of all that it
// tells of the state.
type omitter struct {
	n          *network
	a, b, c, d *cluster
	room       string
	left       map[id.Event]bool
}

func newOmitter(t *testing.T, omit bool, times int32) *omitter {
	t.Helper()
	ok := must[*roomv1.SendResponse](t)
	n := newNetwork()
	n.setOmit(omit)
	x := &omitter{n: n, a: newFedCluster(t, n, one, 1), b: newFedCluster(t, n, two, 1), c: newFedClusterFaulty(t, n, three, 2, asking(times)),
		d: newFedCluster(t, n, four, 1), left: make(map[id.Event]bool)}
	x.room = x.a.create(roomversion.Default, anna, "public")
	ok(x.b.join(x.room, bert, string(one)))
	x.b.whole(x.room)
	ok(x.d.join(x.room, "@dora:four.test", string(one)))
	x.d.whole(x.room)
	carry(x.d, x.b, four, x.room, 0)
	head := x.a.room(x.room).LastPos
	for i := range 3 {
		x.left[id.Event(ok(x.a.join(x.room, fmt.Sprintf("@m%d:one.test", i))).EventIds[0])] = true
	}
	ok(x.a.say(x.room, anna, "afterwards"))
	carry(x.a, x.b, one, x.room, head)
	carry(x.a, x.d, one, x.room, head)
	return x
}

// lie makes one leave the members out.
func (x *omitter) lie() {
	x.n.mu.Lock()
	x.n.liar = one
	x.n.mu.Unlock()
	x.n.lie(map[string]func([]string, url.Values) any{
		"state_ids": func(args []string, q url.Values) any {
			var ids []id.Event
			for _, e := range x.a.state(x.room) {
				if !x.left[e] && string(e) != q.Get("event_id") && x.a.event(x.room, e).Sender != caro {
					ids = append(ids, e)
				}
			}
			return map[string]any{"pdu_ids": ids, "auth_chain_ids": ids}
		},
	})
	x.n.answers("send_join", func(truth any) any {
		m := truth.(map[string]any)
		m["state"] = slices.DeleteFunc(m["state"].([]json.RawMessage), func(e json.RawMessage) bool {
			key := gjson.GetBytes(e, "state_key").Str
			return key == "@m0:one.test" || key == "@m1:one.test" || key == "@m2:one.test"
		})
		return m
	})
}

// compared waits until no join is to be compared.
func (x *omitter) compared() {
	x.c.tb.Helper()
	waitFor(x.c.tb, func() bool { return x.c.rows("told_event") == 0 })
	x.c.forgetRead()
}

// joinsCompared is how many comparisons had an outcome.
func joinsCompared(c *cluster, outcome string) (n float64) {
	for _, w := range c.workers {
		n += counter(w.metrics.joins.WithLabelValues(outcome))
	}
	return n
}

// Server-server API, PUT /v2/send_join, "state": a server that lets us in and leaves members out of the state, with the members in the
// answer or fetched afterwards, does not make us lose them while two others in the room know better. What was refused for that is
// accepted afterwards.
func TestJoinStateLacksMembers(t *testing.T) {
	for _, omit := range []bool{false, true} {
		t.Run(fmt.Sprintf("members omitted %v", omit), func(t *testing.T) {
			ok := must[*roomv1.SendResponse](t)
			x := newOmitter(t, omit, joinAsks)
			x.lie()
			x.n.setCut(two, true) // nobody else can be asked yet
			x.n.setCut(four, true)
			ok(x.c.join(x.room, caro, string(one)))
			x.c.whole(x.room)
			x.n.lie(nil)
			x.n.answers("send_join", nil)

			head := x.a.room(x.room).LastPos
			ok(x.a.say(x.room, "@m0:one.test", "nobody of three knows me"))
			refused := x.a.last(x.room)
			if got := x.c.receive(x.room, one, refused.JSON)[0].Error; got == "" {
				t.Fatal("the message of somebody who was left out is accepted")
			}
			ok(x.c.say(x.room, caro, "upon what was told"))
			carry(x.c, x.a, three, x.room, 0)
			if got := x.c.rows("told_event"); got != 2 { // the join and the refused message
				t.Errorf("%d rows", got)
			}
			x.n.setCut(two, false)
			x.n.setCut(four, false)
			carry(x.a, x.b, one, x.room, head-1)
			x.compared()
			if got := joinsCompared(x.c, "changed"); got != 1 {
				t.Errorf("%v joins have another state", got)
			}
			sameState(t, x.a, x.c, x.room)
			x.c.checkResolved(x.room)
			x.c.auditSplit(t, x.room)
			if e := x.c.event(x.room, refused.ID); e.Flags != 0 || !e.Visible() {
				t.Errorf("the message that was refused has flags %d, place %d", e.Flags, e.Ord)
			}
			if r := x.c.room(x.room); r.Joined != 7 {
				t.Errorf("%d members", r.Joined)
			}
			ok(x.c.say(x.room, caro, "afterwards"))
			carry(x.c, x.a, three, x.room, 0)
			sameState(t, x.a, x.c, x.room)
		})
	}
}

// What a server told rightly with a join stays, and costs a few requests and nothing in the log.
func TestJoinStateIsConfirmed(t *testing.T) {
	for _, omit := range []bool{false, true} {
		x := newOmitter(t, omit, joinAsks)
		must[*roomv1.SendResponse](t)(x.c.join(x.room, caro, string(one)))
		x.c.whole(x.room)
		x.compared()
		if got := joinsCompared(x.c, "same"); got != 1 {
			t.Errorf("members omitted %v: %v joins are the same", omit, got)
		}
		if asked := x.n.askedFor("state_ids"); asked > 8 {
			t.Errorf("members omitted %v: asked %d times", omit, asked)
		}
		sameState(t, x.a, x.c, x.room)
	}
}

// Two servers that tell a state by which our join would be refused do not throw us out of the room.
func TestJoinStateWouldRefuse(t *testing.T) {
	x := newOmitter(t, false, joinAsks)
	ok := must[*roomv1.SendResponse](t)
	var create id.Event
	for _, e := range x.a.state(x.room) {
		if x.a.event(x.room, e).Type == typeCreate {
			create = e
		}
	}
	x.n.lie(map[string]func([]string, url.Values) any{"state_ids": func([]string, url.Values) any {
		return map[string]any{"pdu_ids": []id.Event{create}, "auth_chain_ids": []id.Event{create}}
	}})
	ok(x.c.join(x.room, caro, string(one)))
	x.compared()
	if got := joinsCompared(x.c, "refused"); got != 1 {
		t.Errorf("%v joins would be refused", got)
	}
	ok(x.c.say(x.room, caro, "still here"))
	sameStateBut(t, x.a, x.c, x.room)
}

// A worker that ends leaves the comparison to the next one; one that nobody can answer ends after some attempts, and one in a room of
// two servers at once.
func TestJoinComparisonEnds(t *testing.T) {
	x := newOmitter(t, false, 2)
	ok := must[*roomv1.SendResponse](t)
	for _, server := range []id.Server{two, four} {
		x.n.refuse(server, "state_ids", merr.Forbidden("not you"))
	}
	ok(x.c.join(x.room, caro, string(one)))
	y := &told{n: x.n, a: x.a, c: x.c, room: x.room}
	y.moveOwner(t)
	ok(x.c.say(x.room, caro, "to the next owner"))
	x.compared()
	if got := joinsCompared(x.c, "unknown"); got != 1 {
		t.Errorf("%v comparisons were given up", got)
	}

	roomID := x.a.create(roomversion.Default, anna, "public")
	ok(x.c.join(roomID, caro, string(one)))
	x.compared()
	if got := joinsCompared(x.c, "unknown"); got != 2 {
		t.Errorf("%v comparisons have nobody to ask", got)
	}
}

// sameStateBut is sameState for clusters of which one has not heard of the other's join.
func sameStateBut(t *testing.T, a, c *cluster, roomID string) {
	t.Helper()
	theirs, ours := a.state(roomID), c.state(roomID)
	if len(theirs) != len(ours) {
		t.Errorf("%d and %d entries", len(theirs), len(ours))
	}
}
