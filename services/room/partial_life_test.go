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

// A room that is left and joined again while its members are being fetched becomes what it is after the second join, at
// whatever step the first fetching was.
func TestPartialJoinedAgain(t *testing.T) {
	for _, step := range []string{"ids", "store", "whole", "redo", "redo_chunk"} {
		for _, omit := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s,omit=%t", step, omit), func(t *testing.T) {
				p := newPartialJoin(t, "11", 2, step)
				n, a, b, roomID, ok := p.n, p.a, p.b, p.room, must[*roomv1.SendResponse](t)
				ok(b.join(roomID, bert, string(one)))
				ok(b.say(roomID, bert, "the first time"))
				<-p.reached
				ok(b.leave(roomID, bert))
				last := carry(b, a, two, roomID, 0)
				ok(a.setState(roomID, anna, "m.room.topic", "", `{"topic":"while away"}`))
				ok(a.leave(roomID, member(one, 3)))
				n.mu.Lock()
				n.omit = omit
				n.mu.Unlock()
				ok(b.join(roomID, bert, string(one)))
				ok(b.say(roomID, bert, "the second time"))
				p.release()
				b.whole(roomID)
				carry(b, a, two, roomID, last)
				sameState(t, a, b, roomID)
				b.auditSplit(t, roomID)
				b.checkResolved(roomID)
				b.filled()
				// Somebody builds upon what was said the first time.
				tl := b.timeline(roomID)
				i := slices.IndexFunc(tl, func(e *roomdb.Event) bool { return e.Type == "m.room.message" })
				fork := a.forgeAfter(a.state(roomID), event.Draft{Type: "m.room.message", Sender: id.User(member(one, 9)), Content: []byte(`{"body":"x"}`)}, tl[i].PDU)
				a.take(roomID, one, fork)
				b.take(roomID, one, fork)
				sameState(t, a, b, roomID)
				b.auditSplit(t, roomID)
			})
		}
	}
}

// Two local users join at once, through another server both.
func TestPartialTwoJoin(t *testing.T) {
	p := newPartialJoin(t, "12", 2, "ids")
	a, b, roomID, ok := p.a, p.b, p.room, must[*roomv1.SendResponse](t)
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
	p.release()
	b.whole(roomID)
	carry(b, a, two, roomID, 0)
	auditPartial(t, a, b, roomID)
	b.checkResolved(roomID)
	if r := b.room(roomID); r.JoinedLocal != 2 {
		t.Fatalf("room %+v", r)
	}
}

// A local user who was banned while members were unknown is out, and a redaction by somebody who had no right to speak is
// taken back (room version 11, "Redactions").
func TestPartialTakenBack(t *testing.T) {
	p := newPartialJoin(t, "11", 1, "ids")
	a, b, roomID, ok := p.a, p.b, p.room, must[*roomv1.SendResponse](t)
	bad, st := p.bannedModerator()
	p.enter()
	said := id.Event(ok(b.say(roomID, bert, "to be redacted")).EventIds[0])
	own := id.Event(ok(b.say(roomID, bert, "redacted by its sender")).EventIds[0])
	ok(b.send(roomID, &roomv1.SendRequest{Cause: newCause(bert), Events: []*roomv1.EventIntent{{Type: typeRedaction,
		Content: []byte(fmt.Sprintf(`{"redacts":%q}`, own)), Sender: bert, Redacts: string(own)}}}))
	redaction := a.forgeAfter(st, event.Draft{Type: typeRedaction, Sender: bad, Redacts: said, Content: fmt.Appendf(nil, `{"redacts":%q}`, said)}, b.last(roomID).PDU)
	b.take(roomID, one, redaction)
	if b.event(roomID, said).RedactedBy == 0 {
		t.Fatal("not redacted")
	}
	p.release()
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
