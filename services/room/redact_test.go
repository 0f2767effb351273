package room

import (
	"fmt"
	"testing"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/merr"
	roomv1 "hanse/proto/room/v1"
)

func (c *cluster) redact(roomID, sender, target string) (*roomv1.SendResponse, error) {
	return c.send(roomID, &roomv1.SendRequest{Cause: newCause(sender), Events: []*roomv1.EventIntent{
		{Type: "m.room.redaction", Content: []byte(fmt.Sprintf(`{"redacts":%q}`, target)), Sender: sender, Redacts: target}}})
}

func (c *cluster) isRedacted(roomID, eventID string) bool {
	c.tb.Helper()
	for _, e := range c.timeline(roomID) {
		if string(e.ID) == eventID {
			return e.RedactedBy != 0
		}
	}
	c.tb.Fatalf("no event %s", eventID)
	return false
}

// Redactions over federation, in both orders of arrival, and by those who may not (room version 3, "Handling
// redactions").
func TestRemoteRedaction(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	ok := must[*roomv1.SendResponse](t)
	for _, version := range roomversion.Supported() {
		t.Run("v"+version, func(t *testing.T) {
			roomID := a.create(version, anna, "public")
			ok(b.join(roomID, bert, string(one)))
			carryTo := func(from *cluster, eventID string) {
				for _, e := range from.timeline(roomID) {
					if string(e.ID) == eventID {
						for _, r := range map[*cluster]*cluster{a: b, b: a}[from].receive(roomID, e.Sender.Server(), e.JSON) {
							if r.Error != "" {
								t.Fatal(r.Error)
							}
						}
					}
				}
			}
			mine := ok(b.say(roomID, bert, "mine"))
			carryTo(b, mine.EventIds[0])
			red := ok(b.redact(roomID, bert, mine.EventIds[0]))
			carryTo(b, red.EventIds[0])
			if !a.isRedacted(roomID, mine.EventIds[0]) || !b.isRedacted(roomID, mine.EventIds[0]) {
				t.Fatal("own message is not redacted")
			}
			hers := ok(a.say(roomID, anna, "hers"))
			carryTo(a, hers.EventIds[0])
			_, err := b.redact(roomID, bert, hers.EventIds[0])
			wantCode(t, err, merr.CodeForbidden)
			again := ok(b.say(roomID, bert, "again"))
			carryTo(b, again.EventIds[0])
			mod := ok(a.redact(roomID, anna, again.EventIds[0]))
			carryTo(a, mod.EventIds[0])
			if !b.isRedacted(roomID, again.EventIds[0]) {
				t.Fatal("moderated message is not redacted")
			}
			_, err = b.redact(roomID, bert, "$unknown:two.test")
			if version != "1" && version != "2" { // there the auth rules look at the id alone
				wantCode(t, err, merr.CodeNotFound)
			}
		})
	}
}

// A redaction that comes before its target is applied when that comes.
func TestAwaitedRedaction(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	ok := must[*roomv1.SendResponse](t)
	roomID := a.create("11", anna, "public")
	ok(b.join(roomID, bert, string(one)))
	on := b.last(roomID)
	forks := forge(t, b, roomID, on, 2)
	target, later := forks[0], forks[1]
	for _, pdu := range []*event.PDU{forgeRedaction(t, b, roomID, on, target.ID), later, target} {
		a.take(roomID, two, pdu)
	}
	if !a.isRedacted(roomID, string(target.ID)) || a.isRedacted(roomID, string(later.ID)) {
		t.Fatal("the redaction did not wait for its target")
	}
}

// What PostgreSQL cannot store is refused before it is tried.
func TestUnstorable(t *testing.T) {
	c := newCluster(t, 1)
	roomID := c.create("11", alice, "public")
	_, err := c.setState(roomID, alice, "m.room.topic", "a\x00b", `{}`)
	wantCode(t, err, merr.CodeInvalidParam)
	_, err = c.say(roomID, alice, "zero \x00 in the content is fine")
	if err != nil {
		t.Fatal(err)
	}
}

// A user who repeats requests that are long forgotten gets the same answers, and costs the room its memory once only.
func TestRepeats(t *testing.T) {
	c := newCluster(t, 1)
	ok := must[*roomv1.SendResponse](t)
	roomID := c.create("12", alice, "public")
	req := func(n int) *roomv1.SendRequest {
		return &roomv1.SendRequest{Cause: &roomv1.Cause{UserId: alice, DeviceId: "D", TxnId: fmt.Sprint(n)}, Events: []*roomv1.EventIntent{
			{Type: "m.room.message", Content: []byte(`{"body":"once"}`), Sender: alice}}}
	}
	const sent = 3 * recentCauses
	first := make([]string, sent)
	for n := range sent {
		first[n] = ok(c.send(roomID, req(n))).EventIds[0]
	}
	for n := range sent {
		if again := ok(c.send(roomID, req(n))).EventIds[0]; again != first[n] {
			t.Fatalf("request %d: %s, then %s", n, first[n], again)
		}
	}
	if messages := len(c.timeline(roomID)) - 4; messages != sent {
		t.Fatalf("%d messages of %d requests", messages, sent)
	}
	w := c.workers[0]
	before := counter(w.metrics.refused)
	for n := range sent / 2 {
		ok(c.send(roomID, req(n)))
	}
	if got := counter(w.metrics.refused) - before; got > 0 {
		t.Fatalf("%v appends were refused for nothing", got)
	}
}
