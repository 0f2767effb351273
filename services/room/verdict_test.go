package room

import (
	"context"
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"testing"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	roomv1 "hanse/proto/room/v1"
)

const carl = "@carl:two.test"

// claimedJoin is a room in which anna invites only, since a moment ago, and a branch of bert's without a beginning. The
// other server claims of that branch's state that carl has joined and set a topic: his join has no place in the graph yet,
// and what it cites allowed it, so it counts where the rules ask for what authorised the topic (room versions 2 to 12,
// "Iterative auth checks").
type claimedJoin struct {
	*hostile
	join, topic *event.PDU
	end         *event.PDU // of the branch
}

func newClaimedJoin(t *testing.T) *claimedJoin {
	t.Helper()
	h := newHostile(t, "11")
	ok := must[*roomv1.SendResponse](t)
	roomID := h.a.create("11", anna, "public")
	ok(h.a.setState(roomID, anna, "m.room.power_levels", "", `{"users":{"@anna:one.test":100},"events":{"m.room.topic":0}}`))
	h.enter(roomID)
	st := h.a.state(roomID)
	ok(h.a.setState(roomID, anna, "m.room.join_rules", "", `{"join_rule":"invite"}`))
	c := &claimedJoin{hostile: h}
	build := func(typ, key, content string, prev id.Event, auth ...id.Event) *event.PDU {
		d := follow(event.Draft{Type: typ, StateKey: &key, Sender: carl, Content: []byte(content),
			AuthEvents: append(auth, st["m.room.create|"], st["m.room.power_levels|"])}, nil, h.on.PDU)
		d.PrevEvents = []id.Event{prev}
		return h.b.build(d, h.on.PDU)
	}
	c.join = build(typeMember, carl, `{"membership":"join"}`, h.a.state(roomID)["m.room.join_rules|"], st["m.room.join_rules|"])
	c.topic = build("m.room.topic", "", `{"topic":"carl was here"}`, unknownEvent(1), c.join.ID)
	missing := h.message(50, unknownEvent(2))
	c.end = h.message(51, missing.ID)
	given := map[string]*event.PDU{string(c.join.ID): c.join, string(c.topic.ID): c.topic, string(missing.ID): missing}
	claimed := append(slices.Collect(maps.Values(st)), c.join.ID, c.topic.ID)
	h.n.lie(map[string]func([]string, url.Values) any{
		"get_missing_events": lists(map[string][]id.Event{"events": {}}),
		"state_ids":          lists(map[string][]id.Event{"pdu_ids": claimed, "auth_chain_ids": {}}),
		"event": func(args []string, _ url.Values) any {
			return map[string]any{"pdus": []json.RawMessage{given[args[0]].JSON}}
		},
	})
	h.a.take(roomID, two, c.end)
	h.n.lie(nil)
	if got := h.a.state(roomID); got["m.room.topic|"] != c.topic.ID || got["m.room.member|"+carl] != "" {
		t.Fatalf("the branch does not count: %v", got)
	}
	h.a.checkResolved(roomID)
	return c
}

// refuse gives the join its place, where it is not allowed.
func (c *claimedJoin) refuse() {
	c.t.Helper()
	r := c.a.receive(c.room, two, c.join.JSON)[0]
	e, err := c.a.read.EventByID(context.Background(), c.a.room(c.room), c.join.ID)
	if r.Error == "" || err != nil || e.Flags != roomdb.Rejected {
		c.t.Fatalf("the join was not refused: %q, %+v, %v", r.Error, e, err)
	}
}

// goOn sends an event on the branch, which leaves the states that are resolved as they were, and demands that what carl did
// does not count any more, as the literal algorithm says ("Rejected events": rejected auth events are not used).
func (c *claimedJoin) goOn() {
	c.t.Helper()
	c.a.take(c.room, two, c.message(52, c.end.ID))
	if extremities := len(c.a.room(c.room).Extremities); extremities != 2 {
		c.t.Fatalf("%d extremities", extremities)
	}
	c.a.checkResolved(c.room)
	if got := c.a.state(c.room)["m.room.topic|"]; got != "" {
		c.t.Errorf("topic %s", got)
	}
}

// An event that was part of a claimed state is rejected at its place: what was resolved before is forgotten, here, and not
// believed when Redis has it.
func TestResolutionAfterVerdict(t *testing.T) {
	t.Run("remembered", func(t *testing.T) {
		c := newClaimedJoin(t)
		c.refuse()
		c.goOn()
	})
	t.Run("shared", func(t *testing.T) {
		c := newClaimedJoin(t)
		waitFor(t, func() bool { return len(c.a.redis.Keys()) > 0 })
		c.refuse()
		c.a.replace()
		c.a.settle()
		c.goOn()
	})
	t.Run("shared and still right", func(t *testing.T) {
		c := newClaimedJoin(t)
		waitFor(t, func() bool { return len(c.a.redis.Keys()) > 0 })
		c.a.replace()
		c.a.settle()
		c.a.take(c.room, two, c.message(52, c.end.ID))
		if got := c.a.knownTo("redis"); got != 1 {
			t.Errorf("%v resolutions were found in Redis", got)
		}
		c.a.checkResolved(c.room)
	})
}

// A room that was joined without its members is judged again. What was refused since somebody was believed to be banned counts
// in the resolutions of the states that are made anew, before the new verdicts are written: they are the room's from then on.
func TestResolutionUnderNewVerdicts(t *testing.T) {
	p := newPartialJoin(t, "11", 1, "ids")
	a, b, roomID := p.a, p.b, p.room
	bad, st := p.bannedModerator()
	p.enter()

	on := b.last(roomID).PDU
	taken := func(refused bool, d event.Draft, on *event.PDU) *event.PDU {
		t.Helper()
		pdu := a.forgeAfter(st, d, on)
		if r := b.receive(roomID, one, pdu.JSON)[0]; (r.Error != "") != refused {
			t.Fatalf("%s: %q", d.Type, r.Error)
		}
		return pdu
	}
	at, empty, victim := on.OriginServerTS, "", "@victim:one.test"
	ban := taken(false, event.Draft{Type: typeMember, StateKey: &victim, Sender: bad, Content: []byte(`{"membership":"ban"}`), OriginServerTS: at}, on)
	// The join is younger than the topic that it authorises, so it is not in the state yet when the topic is replayed.
	join := taken(true, event.Draft{Type: typeMember, StateKey: &victim, Sender: id.User(victim), Content: []byte(`{"membership":"join"}`),
		OriginServerTS: at + 1000}, ban)
	st["m.room.member|"+victim] = join.ID
	topic := taken(true, event.Draft{Type: "m.room.topic", StateKey: &empty, Sender: id.User(victim), Content: []byte(`{"topic":"here I am"}`),
		OriginServerTS: at + 1}, join)
	taken(false, event.Draft{Type: "m.room.message", Sender: id.User(member(one, 7)), Content: []byte(`{"body":"another branch","msgtype":"m.text"}`),
		OriginServerTS: at + 2}, on)

	p.release()
	r := b.whole(roomID)
	if len(r.Extremities) != 2 {
		t.Fatalf("%d extremities", len(r.Extremities))
	}
	b.checkResolved(roomID)
	if now := b.state(roomID); now["m.room.topic|"] != topic.ID || now["m.room.member|"+victim] != join.ID {
		t.Errorf("state %v", now)
	}
	must[*roomv1.SendResponse](t)(b.say(roomID, bert, "goes on"))
	b.auditSplit(t, roomID)
}

// While a room is judged again, the room itself goes on, and may reject an event that counted in what was resolved for that.
func TestResolutionWhileJudgedAgain(t *testing.T) {
	c := newClaimedJoin(t)
	ctx := context.Background()
	locked := func(f func(r *room)) {
		t.Helper()
		r, err := c.a.workers[0].lockRoom(ctx, id.Room(c.room))
		if err != nil {
			t.Fatal(err)
		}
		defer r.unlock()
		f(r)
	}
	ends := c.a.statesAfter(c.a.room(c.room))
	var w *writer
	counts := func() bool {
		m, err := w.resolve(ctx, ends)
		if err != nil {
			t.Fatal(err)
		}
		return m.Has(state.Key{Type: "m.room.topic"})
	}
	locked(func(r *room) {
		w = c.a.workers[0].newWriter(ctx, r)
		w.redone = make(map[int64]*roomdb.Event)
		if !counts() {
			t.Error("the topic does not count at first")
		}
	})
	c.refuse()
	locked(func(*room) {
		if counts() {
			t.Error("the topic counts after its sender's join was rejected")
		}
	})
}

// What was redacted of an event does not change how state is resolved: who may invite is not among what room versions before
// 11 keep of power levels (room version 10, "Redactions"), and an invitation that was not allowed would be from then on.
func TestResolutionAfterRedaction(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	ok := must[*roomv1.SendResponse](t)
	roomID := a.create("10", anna, "public")
	ok(a.setState(roomID, anna, "m.room.power_levels", "", `{"users":{"@anna:one.test":100},"events":{"m.room.topic":0},"invite":0}`))
	ok(b.join(roomID, bert, string(one)))
	strict := ok(a.setState(roomID, anna, "m.room.power_levels", "", `{"users":{"@anna:one.test":100},"events":{"m.room.topic":0},"invite":50}`))
	branch := ok(b.setState(roomID, bert, typeMember, carl, `{"membership":"invite"}`)).Pos - 1 // soft-failed, but part of its branch
	ok(b.setState(roomID, bert, "m.room.topic", "", `{"topic":"the branch"}`))
	branch = carry(b, a, two, roomID, branch)
	refused := func(when string) {
		t.Helper()
		if extremities := len(a.room(roomID).Extremities); extremities != 2 {
			t.Fatalf("%s: %d extremities", when, extremities)
		}
		a.checkResolved(roomID)
		if got := a.state(roomID)["m.room.member|"+carl]; got != "" {
			t.Errorf("%s: an invitation that is not allowed counts", when)
		}
	}
	refused("at first")
	on := a.timeline(roomID)
	redaction := a.build(event.Draft{RoomID: id.Room(roomID), Type: typeRedaction, Sender: anna, Content: []byte(`{}`), Redacts: id.Event(strict.EventIds[0]),
		Depth: on[0].Depth + 100, OriginServerTS: 1, PrevEvents: []id.Event{id.Event(strict.EventIds[0])},
		AuthEvents: []id.Event{a.state(roomID)["m.room.create|"], id.Event(strict.EventIds[0]), a.state(roomID)["m.room.member|"+anna]}}, on[0].PDU)
	a.take(roomID, one, redaction)
	if !a.isRedacted(roomID, strict.EventIds[0]) {
		t.Fatal("not redacted")
	}
	ok(b.setState(roomID, bert, "m.room.topic", "", `{"topic":"the branch goes on"}`)) // other states: nobody knows the result
	carry(b, a, two, roomID, branch)
	refused("after the redaction")
}

// An event gets a place and then cannot be taken in after all: what was remembered of its place is forgotten.
func TestPlaceIsForgotten(t *testing.T) {
	c := newClaimedJoin(t)
	w := c.a.workers[0]
	stored, err := c.a.read.EventByID(context.Background(), c.a.room(c.room), c.join.ID)
	if err != nil {
		t.Fatal(err)
	}
	asStored := func() bool {
		p := w.leases[stored.Part].Load()
		e, err := w.event(context.Background(), p, stored.NID)
		return err == nil && e.Flags == stored.Flags && e.SID == stored.SID
	}
	if !asStored() {
		t.Fatal("not an outlier")
	}
	r, err := w.lockRoom(context.Background(), id.Room(c.room))
	if err != nil {
		t.Fatal(err)
	}
	e := &newEvent{pdu: c.join, nid: stored.NID, sid: 7, flags: flagRejected, auth: stored.Auth, rowExists: true, was: stored.Flags}
	w.remember(r, e)
	if asStored() {
		t.Error("the new verdict is not at hand")
	}
	draft := newChange(context.Background(), r)
	draft.events = []*newEvent{e}
	draft.finish(errStale)
	if !asStored() {
		t.Error("a verdict that was never written is still at hand")
	}
	r.unlock()
}
