package room

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/partition"
	"hanse/pkg/roomdb"
	roomv1 "hanse/proto/room/v1"
)

// Joins without members: server-server API, PUT /_matrix/federation/v2/send_join, "omit_members" and "members_omitted".

// A join without members is answered at once, and the room can be written to, read and left open to others' events from
// there on; then its state becomes what it is elsewhere.
func TestPartialJoin(t *testing.T) {
	for _, version := range []string{"1", "6", "10", "12"} {
		t.Run("v"+version, func(t *testing.T) {
			g := newBarrier("ids")
			_, a, b := newPartialClusters(t, 2, g.fill)
			t.Cleanup(g.release)
			ok := must[*roomv1.SendResponse](t)
			roomID := a.create(version, anna, "public")
			populate(t, a, roomID, one, 40)
			ok(a.setState(roomID, anna, typeMember, member(one, 3), `{"membership":"ban"}`))

			ok(b.join(roomID, bert, string(one)))
			if r := b.room(roomID); !r.Partial() || r.JoinedLocal != 1 {
				t.Fatalf("room %+v", r)
			}
			if b.membership(roomID, bert) != "join" || b.currentHas(roomID, anna) {
				t.Fatal("the join came with members, or did not come")
			}
			servers, err := b.read.Servers(context.Background(), b.room(roomID).Part, b.room(roomID).NID)
			slices.Sort(servers)
			if err != nil || !slices.Equal(servers, []id.Server{one, two}) {
				t.Fatalf("servers in the room %v, %v", servers, err)
			}

			// Both sides talk, members unknown before among them; state goes on changing.
			ok(b.say(roomID, bert, "talking at once"))
			fromB := carry(b, a, two, roomID, 0)
			before := ok(a.say(roomID, member(one, 7), "somebody unknown"))
			ok(a.setState(roomID, anna, "m.room.topic", "", `{"topic":"while partial"}`))
			ok(a.leave(roomID, member(one, 8)))
			ok(a.join(roomID, "@late:one.test"))
			carry(a, b, one, roomID, before.Pos-1)
			if !b.currentHas(roomID, member(one, 7)) {
				t.Fatal("a sender has no membership")
			}
			ok(b.join(roomID, birgt))
			ok(b.say(roomID, birgt, "a second user"))
			ok(b.setState(roomID, bert, typeMember, bert, `{"membership":"join","displayname":"Bert"}`))

			// Others cannot join through us yet.
			err = b.call(context.Background(), roomID, func(ctx context.Context, r roomv1.RoomClient) error {
				_, err := r.MakeMembership(ctx, &roomv1.MakeMembershipRequest{RoomId: roomID, UserId: "@cara:three.test", Membership: "join",
					SupportedVersions: []string{version}, Origin: string(three)})
				return err
			})
			wantCode(t, err, merr.CodePartialState)
			if r := b.room(roomID); !r.Partial() {
				t.Fatal("the room is whole already")
			}

			g.release()
			b.whole(roomID)
			carry(b, a, two, roomID, fromB)
			auditPartial(t, a, b, roomID)
			if r := b.room(roomID); r.Joined != 42 || r.JoinedLocal != 2 {
				t.Fatalf("room %+v", r)
			}
			ok(b.say(roomID, bert, "as always"))
			ok(b.leave(roomID, birgt))
			ok(b.leave(roomID, bert))
		})
	}
}

// Whatever the owner has got to when its partition is taken away, somebody finishes it; no event gets lost or twice.
func TestPartialTakenOver(t *testing.T) {
	for _, step := range []string{"ids", "fetch", "store", "stored", "whole", "redo", "redo_chunk"} {
		t.Run(step, func(t *testing.T) {
			var b *cluster
			var once sync.Once
			room := make(chan string, 1)
			steal := func(at string) {
				if at != step {
					return
				}
				once.Do(func() {
					part := partition.Of(<-room)
					w := b.any()
					if _, err := partition.NewRows(b.db).Acquire(context.Background(), part, w.name, w.grpc.Addr()); err != nil {
						t.Errorf("steal: %v", err)
					}
				})
			}
			n, a, b2 := newPartialClusters(t, 2, steal)
			b = b2
			ok := must[*roomv1.SendResponse](t)
			roomID := a.create("11", anna, "public")
			populate(t, a, roomID, one, 30)
			ok(b.join(roomID, bert, string(one)))
			ok(b.say(roomID, bert, "before"))
			room <- roomID
			for i := range 5 {
				ok(b.say(roomID, bert, fmt.Sprint("during ", i)))
			}
			b.whole(roomID)
			carry(b, a, two, roomID, 0)
			auditPartial(t, a, b, roomID)
			said := 0
			for _, e := range b.timeline(roomID) {
				if e.Type == "m.room.message" {
					said++
				}
			}
			if said != 6 {
				t.Fatalf("%d of 6 messages", said)
			}
			// Only the ids are asked for again: what was fetched is in the spool, or stored.
			fetched := step != "ids" && step != "fetch"
			if states, ids := n.askedFor("state"), n.askedFor("state_ids"); fetched && (states != 1 || ids > 2) {
				t.Fatalf("%d states and %d lists of ids were asked for", states, ids)
			}
		})
	}
}

// The owner ends while the state is under way; another worker goes on.
func TestPartialOwnerEnds(t *testing.T) {
	p := newPartialJoin(t, "11", 1, "fetch")
	a, b, roomID, ok := p.a, p.b, p.room, must[*roomv1.SendResponse](t)
	p.enter()
	b.faults.fill = nil // of workers that start from now on
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b.replace()
	}()
	ok(b.say(roomID, bert, "by whoever it is"))
	b.whole(roomID)
	p.release()
	<-ended
	carry(b, a, two, roomID, 0)
	auditPartial(t, a, b, roomID)
}

// The server that let us in goes away: another one in the room is asked.
func TestPartialServerGoes(t *testing.T) {
	p := newPartialJoin(t, "11", 1, "ids")
	n, a, b, roomID, ok := p.n, p.a, p.b, p.room, must[*roomv1.SendResponse](t)
	c := newFedCluster(t, n, three, 1)
	n.omit = false
	ok(c.join(roomID, "@cara:three.test", string(one)))
	n.omit = true
	last := a.last(roomID).Ord
	ok(b.join(roomID, bert, string(one)))
	carryAll(a, c, one, roomID, last)
	<-p.reached
	n.setCut(one, true)
	p.release()
	b.whole(roomID)
	sameState(t, c, b, roomID)
	n.setCut(one, false)
	auditPartial(t, a, b, roomID)
}

// carryAll hands everything since a position on.
func carryAll(from, to *cluster, origin id.Server, roomID string, after int64) {
	from.tb.Helper()
	for _, e := range from.timeline(roomID) {
		if e.Ord > after {
			to.take(roomID, origin, e.PDU)
		}
	}
}

// A server that lies about the state does not get its lies in, and does not stop us.
func TestPartialLies(t *testing.T) {
	p := newPartialJoin(t, "11", 1, "ids")
	n, a, b, roomID := p.n, p.a, p.b, p.room
	other := a.create("11", anna, "public")
	p.enter()

	st := a.state(roomID)
	on := a.last(roomID).PDU
	forged := func(user string, change func(*event.Draft)) *event.PDU {
		d := follow(event.Draft{Type: typeMember, StateKey: &user, Sender: id.User(user), Content: []byte(`{"membership":"join"}`)}, st, on)
		change(&d)
		pdu, err := event.Build(d, on.Rules, one, a.names[one])
		if err != nil {
			t.Fatal(err)
		}
		return pdu
	}
	unauthorised := forged("@unauthorised:one.test", func(d *event.Draft) { d.AuthEvents = []id.Event{st["m.room.create|"], st["m.room.power_levels|"]} })
	elsewhere := forged("@elsewhere:one.test", func(d *event.Draft) { d.RoomID = id.Room(other) })
	unsigned := forged("@unsigned:two.test", func(*event.Draft) {}) // by a key that is not that of two.test
	gone := id.Event("$" + strings.Repeat("g", 43))
	lies := []*event.PDU{unauthorised, elsewhere, unsigned}

	var asked []string
	var mu sync.Mutex
	n.lie(map[string]func([]string, url.Values) any{
		"state_ids": func(_ []string, q url.Values) any {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, q.Get("event_id"))
			names := []id.Event{gone}
			for _, p := range lies {
				names = append(names, p.ID)
			}
			if len(asked) == 1 { // no create event: not a state at all
				return map[string]any{"pdu_ids": names, "auth_chain_ids": []id.Event{}}
			}
			for _, e := range a.stateEvents(roomID) {
				if e.StateKey == nil || *e.StateKey != bert {
					names = append(names, e.ID)
				}
			}
			return map[string]any{"pdu_ids": names, "auth_chain_ids": []id.Event{}}
		},
		"state": func([]string, url.Values) any {
			events := []json.RawMessage{json.RawMessage(`{"type":"nonsense"}`), json.RawMessage(`[1,2]`), json.RawMessage(`7`)}
			for _, p := range lies {
				events = append(events, p.JSON)
			}
			return map[string]any{"auth_chain": []any{}, "pdus": append(events, raws(a.stateEvents(roomID))...), "more": map[string]any{"x": 1}}
		},
	})
	p.release()
	b.whole(roomID)
	auditPartial(t, a, b, roomID)
	mu.Lock()
	defer mu.Unlock()
	if len(asked) < 2 {
		t.Fatalf("asked %d times", len(asked))
	}
}

// What was let through while members were unknown is judged again: what a banned moderator did loses its place, and what
// was refused because of it gets one.
func TestPartialJudgedAgain(t *testing.T) {
	p := newPartialJoin(t, "11", 1, "ids")
	a, b, roomID, ok := p.a, p.b, p.room, must[*roomv1.SendResponse](t)
	bad, before := p.bannedModerator()
	victim := member(one, 6)
	p.enter()

	ban := a.forgeAfter(before, event.Draft{Type: typeMember, StateKey: &victim, Sender: bad, Content: []byte(`{"membership":"ban"}`)}, b.last(roomID).PDU)
	words := a.forgeAfter(before, event.Draft{Type: "m.room.message", Sender: bad, Content: []byte(`{"body":"I am banned","msgtype":"m.text"}`)}, ban)
	for _, pdu := range []*event.PDU{ban, words} {
		b.take(roomID, one, pdu) // as the membership of its sender is unknown
	}
	answer := a.forgeAfter(before, event.Draft{Type: "m.room.message", Sender: id.User(victim), Content: []byte(`{"body":"I am not","msgtype":"m.text"}`)}, words)
	if r := b.receive(roomID, one, answer.JSON)[0]; r.Error == "" {
		t.Fatal("somebody who is banned, for all that is known, was heard")
	}
	has := func(pdu *event.PDU) bool {
		return slices.ContainsFunc(b.timeline(roomID), func(e *roomdb.Event) bool { return e.ID == pdu.ID })
	}
	if !has(ban) || !has(words) || has(answer) {
		t.Fatal("not delivered as judged")
	}
	ok(b.say(roomID, bert, "an answer"))

	p.release()
	r := b.whole(roomID)
	if has(ban) || has(words) || !has(answer) {
		t.Fatal("not judged again")
	}
	for _, pdu := range []*event.PDU{ban, words} {
		if e, err := b.read.EventByID(context.Background(), r, pdu.ID); err != nil || e.Flags&roomdb.Rejected == 0 {
			t.Fatalf("event %+v, %v", e, err)
		}
	}
	st, was := b.state(roomID), a.state(roomID)
	for _, user := range []string{string(bad), victim} {
		if name := "m.room.member|" + user; st[name] != was[name] {
			t.Fatalf("%s has another membership", user)
		}
	}
	b.auditSplit(t, roomID)
	ok(b.say(roomID, bert, "the room goes on"))
	if n := len(b.room(roomID).Extremities); n != 1 {
		t.Fatalf("%d extremities", n)
	}
}

// Who leaves before the members are known leaves nothing to do, and may come back.
func TestPartialLeft(t *testing.T) {
	p := newPartialJoin(t, "11", 1, "ids")
	n, a, b, roomID, ok := p.n, p.a, p.b, p.room, must[*roomv1.SendResponse](t)
	p.enter()
	ok(b.leave(roomID, bert))
	carry(b, a, two, roomID, 0)
	p.release()
	waitFor(t, func() bool { return b.rows("partial_room") == 0 })
	if m := b.membership(roomID, bert); m != "leave" {
		t.Fatalf("left: %q", m)
	}
	for _, omit := range []bool{true, false} {
		n.omit = omit
		last := a.last(roomID).Ord
		ok(b.join(roomID, bert, string(one)))
		b.whole(roomID)
		sameState(t, a, b, roomID)
		b.auditSplit(t, roomID)
		ok(b.leave(roomID, bert))
		carry(b, a, two, roomID, last)
	}
}

// Forks and events whose ancestors we never had come in while members are unknown; history can be read.
func TestPartialForks(t *testing.T) {
	p := newPartialJoin(t, "10", 1, "ids")
	a, b, roomID, ok := p.a, p.b, p.room, must[*roomv1.SendResponse](t)
	for i := range 40 {
		ok(a.say(roomID, member(one, i%10), fmt.Sprint("history ", i)))
	}
	on := a.last(roomID).PDU // before the join
	p.enter()
	st := a.state(roomID)
	for i := range 3 {
		fork := a.forgeAfter(st, event.Draft{Type: "m.room.message", Sender: id.User(member(one, 20+i)), Content: []byte(`{"body":"x","msgtype":"m.text"}`)}, on)
		a.take(roomID, one, fork)
		b.take(roomID, one, fork)
	}
	backfillAll(t, b, roomID)
	ok(b.say(roomID, bert, "merges them"))
	carry(b, a, two, roomID, 0)
	p.release()
	auditPartial(t, a, b, roomID)
	if x, y := len(a.room(roomID).Extremities), len(b.room(roomID).Extremities); x != 1 || y != 1 {
		t.Fatalf("%d and %d extremities", x, y)
	}
}
