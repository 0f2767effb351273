package room

import (
	"fmt"
	"slices"
	"testing"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
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

// shown are the ids of a room's timeline, in order.
func (c *cluster) shown(roomID string) []id.Event {
	c.tb.Helper()
	var ids []id.Event
	for _, e := range c.timeline(roomID) {
		ids = append(ids, e.ID)
	}
	return ids
}

// Room version 3, "Handling redactions": a redaction is not sent to clients until its target is here and both are valid; then it
// is. In versions 1 and 2 the auth rules decide, and it is sent at once. Other servers get it all the same.
func TestWithheldRedaction(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	ok := must[*roomv1.SendResponse](t)
	for _, version := range []string{"2", "3", "11", "12"} {
		for _, together := range []bool{false, true} {
			t.Run(fmt.Sprintf("v%s,together=%t", version, together), func(t *testing.T) {
				roomID := a.create(version, anna, "public")
				ok(b.join(roomID, bert, string(one)))
				extremities := b.timeline(roomID)
				on := extremities[len(extremities)-1]
				target := forge(t, b, roomID, on, 1)[0]
				redaction := forgeRedaction(t, b, roomID, on, target.ID)
				receive := func(pdus ...[]byte) {
					t.Helper()
					for _, r := range a.receive(roomID, two, pdus...) {
						if r.Error != "" {
							t.Fatal(r.Error)
						}
					}
				}
				early := version == "2"
				if together {
					receive(redaction.JSON, target.JSON)
				} else {
					receive(redaction.JSON)
					if slices.Contains(a.shown(roomID), redaction.ID) != early {
						t.Fatal("the redaction came before its target")
					}
					if e := a.event(roomID, redaction.ID); e.Flags != 0 || e.Visible() != early {
						t.Fatalf("the redaction has flags %d and place %d", e.Flags, e.Ord)
					}
					ok(a.say(roomID, anna, "upon it"))
					receive(target.JSON)
				}
				shown := a.shown(roomID)
				at, by := slices.Index(shown, target.ID), slices.Index(shown, redaction.ID)
				if at < 0 || by < 0 || !early && by != at+1 {
					t.Fatalf("the target is at %d, the redaction at %d", at, by)
				}
				if !a.isRedacted(roomID, string(target.ID)) {
					t.Fatal("not redacted")
				}
				r := a.room(roomID)
				entries, err := a.read.ReadLog(t.Context(), r.Part, 0, 1000)
				if err != nil {
					t.Fatal(err)
				}
				told := 0
				for _, e := range entries {
					if e.GetEvent().GetEventId() == string(redaction.ID) {
						told++
					}
				}
				if told != 1 {
					t.Fatalf("the log tells of the redaction %d times", told)
				}
			})
		}
	}
}

// A redaction without a right to it is never shown, and redacts nothing (room version 3, "Handling redactions").
func TestWrongRedactionIsWithheld(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	ok := must[*roomv1.SendResponse](t)
	roomID := a.create("11", anna, "public")
	ok(b.join(roomID, bert, string(one)))
	hers := ok(a.say(roomID, anna, "hers")).EventIds[0]
	tl := b.timeline(roomID)
	on := tl[len(tl)-1]
	redaction := forgeRedaction(t, b, roomID, on, id.Event(hers))
	none := forgeRedaction(t, b, roomID, on, "")
	for _, pdu := range [][]byte{redaction.JSON, none.JSON} {
		if r := a.receive(roomID, two, pdu)[0]; r.Error != "" {
			t.Fatal(r.Error)
		}
	}
	if shown := a.shown(roomID); slices.Contains(shown, redaction.ID) || slices.Contains(shown, none.ID) || a.isRedacted(roomID, hers) {
		t.Fatal("a redaction without a right is shown, or applied")
	}
}

// History comes from the newest event on, and with it redactions before their targets: they are shown once these are
// here.
func TestWithheldRedactionOfHistory(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	ok := must[*roomv1.SendResponse](t)
	roomID := a.create("11", anna, "public")
	target := id.Event(ok(a.say(roomID, anna, "to be redacted")).EventIds[0])
	for i := range 5 {
		ok(a.say(roomID, anna, fmt.Sprint("text ", i)))
	}
	redaction := id.Event(ok(a.redact(roomID, anna, string(target))).EventIds[0])
	ok(a.say(roomID, anna, "the last"))
	ok(b.join(roomID, bert, string(one)))
	for range 100 {
		resp, err := b.any().Backfill(t.Context(), &roomv1.BackfillRequest{RoomId: roomID, Limit: 2})
		if err != nil {
			t.Fatal(err)
		}
		shown := b.shown(roomID)
		at, by := slices.Index(shown, target), slices.Index(shown, redaction)
		if at < 0 && by >= 0 || at >= 0 && by != at+1 {
			t.Fatalf("the target is at %d, the redaction at %d", at, by)
		}
		if resp.Complete {
			break
		}
	}
	if shown := b.shown(roomID); !slices.Contains(shown, redaction) || !b.isRedacted(roomID, string(target)) {
		t.Fatalf("the redaction of history is at %d of %d", slices.Index(shown, redaction), len(shown))
	}
}
