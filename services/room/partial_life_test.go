package room

import (
	"fmt"
	"slices"
	"testing"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	roomv1 "hanse/proto/room/v1"
)

// What may happen to a room while its members are being fetched.

// forgeOn builds an event of a server's user upon others.
func (c *cluster) forgeOn(t *testing.T, roomID string, st map[string]id.Event, on *event.PDU, sender id.User, typ string, change func(*event.Draft)) *event.PDU {
	t.Helper()
	d := event.Draft{RoomID: id.Room(roomID), Type: typ, Sender: sender, Content: []byte(`{"body":"x","msgtype":"m.text"}`), Depth: on.Depth + 1,
		OriginServerTS: on.OriginServerTS + 1, PrevEvents: []id.Event{on.ID},
		AuthEvents: []id.Event{st["m.room.create|"], st["m.room.power_levels|"], st["m.room.member|"+string(sender)]}}
	if change != nil {
		change(&d)
	}
	pdu, err := event.Build(d, on.Rules, sender.Server(), c.names[sender.Server()])
	if err != nil {
		t.Fatal(err)
	}
	return pdu
}

// A room that is left and joined again while its members are being fetched becomes what it is after the second join, at
// whatever step the first fetching was.
func TestPartialJoinedAgain(t *testing.T) {
	for _, step := range []string{"ids", "store", "whole", "redo", "redo_chunk"} {
		for _, omit := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s,omit=%t", step, omit), func(t *testing.T) {
				g := newBarrier(t, step)
				n, a, b := newPartialClusters(t, 2, g.fill)
				t.Cleanup(g.release)
				ok := must[*roomv1.SendResponse](t)
				roomID := a.create("11", anna, "public")
				populate(t, a, roomID, one, 30)
				ok(b.join(roomID, bert, string(one)))
				ok(b.say(roomID, bert, "the first time"))
				<-g.reached
				ok(b.leave(roomID, bert))
				last := carry(b, a, two, roomID, 0)
				ok(a.setState(roomID, anna, "m.room.topic", "", `{"topic":"while away"}`))
				ok(a.leave(roomID, member(one, 3)))
				n.mu.Lock()
				n.omit = omit
				n.mu.Unlock()
				ok(b.join(roomID, bert, string(one)))
				ok(b.say(roomID, bert, "the second time"))
				g.release()
				b.whole(roomID)
				carry(b, a, two, roomID, last)
				sameState(t, a, b, roomID)
				b.auditSplit(t, roomID)
				b.checkResolved(roomID)
				for _, table := range []string{"partial_room", "partial_event", "partial_spool"} {
					waitFor(t, func() bool { return b.rows(table) == 0 })
				}
				// Somebody builds upon what was said the first time.
				tl := b.timeline(roomID)
				i := slices.IndexFunc(tl, func(e *roomdb.Event) bool { return e.Type == "m.room.message" })
				fork := a.forgeOn(t, roomID, a.state(roomID), tl[i].PDU, id.User(member(one, 9)), "m.room.message", nil)
				for _, c := range []*cluster{a, b} {
					if r := c.receive(roomID, one, fork.JSON)[0]; r.Error != "" {
						t.Fatal(r.Error)
					}
				}
				sameState(t, a, b, roomID)
				b.auditSplit(t, roomID)
			})
		}
	}
}

// Two users of ours join at once, through another server both.
func TestPartialTwoJoin(t *testing.T) {
	g := newBarrier(t, "ids")
	_, a, b := newPartialClusters(t, 2, g.fill)
	t.Cleanup(g.release)
	ok := must[*roomv1.SendResponse](t)
	roomID := a.create("12", anna, "public")
	populate(t, a, roomID, one, 30)
	joined := make(chan error, 2)
	for _, user := range []string{bert, birgt} {
		go func() {
			_, err := b.join(roomID, user, string(one))
			joined <- err
		}()
	}
	for range 2 {
		if err := <-joined; err != nil {
			t.Fatal(err)
		}
	}
	ok(b.say(roomID, bert, "hello"))
	ok(b.say(roomID, birgt, "hello"))
	g.release()
	b.whole(roomID)
	carry(b, a, two, roomID, 0)
	auditPartial(t, a, b, roomID)
	b.checkResolved(roomID)
	if r := b.room(roomID); r.JoinedLocal != 2 {
		t.Fatalf("room %+v", r)
	}
}

// A user of ours who was banned while members were unknown is out, and a redaction by somebody who had no right to speak is
// taken back (room version 11, "Redactions").
func TestPartialTakenBack(t *testing.T) {
	g := newBarrier(t, "ids")
	_, a, b := newPartialClusters(t, 1, g.fill)
	t.Cleanup(g.release)
	ok := must[*roomv1.SendResponse](t)
	roomID := a.create("11", anna, "public")
	populate(t, a, roomID, one, 30)
	bad := id.User(member(one, 5))
	ok(a.setState(roomID, anna, "m.room.power_levels", "", fmt.Sprintf(`{"users":{%q:100,%q:50}}`, anna, bad)))
	st := a.state(roomID)
	ok(a.setState(roomID, anna, typeMember, string(bad), `{"membership":"ban"}`))
	ok(b.join(roomID, bert, string(one)))
	<-g.reached
	said := id.Event(ok(b.say(roomID, bert, "to be redacted")).EventIds[0])
	own := id.Event(ok(b.say(roomID, bert, "redacted by its sender")).EventIds[0])
	ok(b.send(roomID, &roomv1.SendRequest{Cause: newCause(bert), Events: []*roomv1.EventIntent{{Type: typeRedaction,
		Content: []byte(fmt.Sprintf(`{"redacts":%q}`, own)), Sender: bert, Redacts: string(own)}}}))
	tl := b.timeline(roomID)
	redaction := a.forgeOn(t, roomID, st, tl[len(tl)-1].PDU, bad, typeRedaction, func(d *event.Draft) {
		d.Content, d.Redacts = []byte(fmt.Sprintf(`{"redacts":%q}`, said)), said
	})
	if r := b.receive(roomID, one, redaction.JSON)[0]; r.Error != "" {
		t.Fatal(r.Error)
	}
	if b.event(roomID, said).RedactedBy == 0 {
		t.Fatal("not redacted")
	}
	g.release()
	b.whole(roomID)
	// Another connection has no part in what the owner keeps.
	waitFor(t, func() bool { return b.event(roomID, said).RedactedBy == 0 })
	if e := b.event(roomID, own); e.RedactedBy == 0 || string(e.Content) != "{}" {
		t.Fatalf("%+v", e)
	}
	if e := b.event(roomID, said); string(e.Content) == "{}" {
		t.Fatalf("content %s", e.Content)
	}
	for _, e := range b.timeline(roomID) {
		if e.ID == redaction.ID {
			t.Fatal("the redaction is shown")
		}
	}
	b.auditSplit(t, roomID)
	ok(b.say(roomID, bert, "as always"))
}
