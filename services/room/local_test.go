package room

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/merr"
	roomv1 "hanse/proto/room/v1"
)

const (
	alice = "@alice:hanse.test"
	bob   = "@bob:hanse.test"
	carol = "@carol:hanse.test"
)

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	if !merr.HasCode(err, code) {
		t.Fatalf("got %v, want %s", err, code)
	}
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// The local life of a room, in every version.
func TestLocalRoom(t *testing.T) {
	c := newCluster(t, 2)
	for _, version := range roomversion.Supported() {
		t.Run("v"+version, func(t *testing.T) {
			ok := must[*roomv1.SendResponse](t)
			roomID := c.create(version, alice, "invite")
			if m := c.membership(roomID, alice); m != "join" {
				t.Fatalf("creator: %q", m)
			}
			_, err := c.join(roomID, bob)
			wantCode(t, err, merr.CodeForbidden)
			ok(c.invite(roomID, alice, bob))
			if m := c.membership(roomID, bob); m != "invite" {
				t.Fatalf("invited: %q", m)
			}
			ok(c.join(roomID, bob))
			first := ok(c.say(roomID, bob, "hello"))
			_, err = c.say(roomID, carol, "let me in")
			wantCode(t, err, merr.CodeForbidden)

			topic := ok(c.setState(roomID, alice, "m.room.topic", "", `{"topic":"a"}`))
			same := ok(c.setState(roomID, alice, "m.room.topic", "", `{ "topic" : "a" }`))
			if topic.EventIds[0] != same.EventIds[0] {
				t.Fatal("the same state was sent twice")
			}
			_, err = c.setState(roomID, bob, "m.room.topic", "", `{"topic":"b"}`)
			wantCode(t, err, merr.CodeForbidden)

			ok(c.setState(roomID, alice, "m.room.member", bob, `{"membership":"leave","reason":"x"}`)) // kick
			if m := c.membership(roomID, bob); m != "leave" {
				t.Fatalf("kicked: %q", m)
			}
			ok(c.setState(roomID, alice, "m.room.member", bob, `{"membership":"ban"}`))
			_, err = c.invite(roomID, alice, bob)
			wantCode(t, err, merr.CodeForbidden)
			ok(c.setState(roomID, alice, "m.room.member", bob, `{"membership":"leave"}`)) // unban
			ok(c.invite(roomID, alice, bob))
			ok(c.leave(roomID, bob)) // reject
			redaction := ok(c.send(roomID, &roomv1.SendRequest{Cause: newCause(alice), Events: []*roomv1.EventIntent{
				{Type: "m.room.redaction", Content: []byte(fmt.Sprintf(`{"redacts":%q}`, first.EventIds[0])), Sender: alice, Redacts: first.EventIds[0]}}}))

			r := c.room(roomID)
			if r.Joined != 1 || r.Invited != 0 || r.JoinedLocal != 1 || len(r.Extremities) != 1 {
				t.Fatalf("room %+v", r)
			}
			events := c.timeline(roomID)
			var redacted bool
			for i, e := range events {
				if i > 0 && e.Depth != events[i-1].Depth+1 {
					t.Fatalf("depth %d after %d", e.Depth, events[i-1].Depth)
				}
				if string(e.ID) == first.EventIds[0] {
					redacted = e.RedactedBy != 0 && string(e.Content) == "{}"
				}
			}
			if !redacted || string(events[len(events)-1].ID) != redaction.EventIds[0] {
				t.Fatal("not redacted")
			}
		})
	}
}

// The same request has its effect once, at every worker and after a restart.
func TestIdempotent(t *testing.T) {
	c := newCluster(t, 2)
	ok := must[*roomv1.SendResponse](t)
	roomID := c.create("12", alice, "public")
	req := func() *roomv1.SendRequest {
		return &roomv1.SendRequest{Cause: &roomv1.Cause{UserId: alice, DeviceId: "D", TxnId: "1"}, Events: []*roomv1.EventIntent{
			{Type: "m.room.message", Content: []byte(`{"body":"once"}`), Sender: alice}}}
	}
	first := ok(c.send(roomID, req()))
	again := ok(c.send(roomID, req()))
	ok(c.say(roomID, alice, "other"))
	for range 2 {
		c.start()
	}
	for _, w := range c.workers[:2] {
		w.stop()
	}
	c.workers = c.workers[2:]
	c.settle()
	third := ok(c.send(roomID, req()))
	if first.EventIds[0] != again.EventIds[0] || first.EventIds[0] != third.EventIds[0] {
		t.Fatalf("three events of one request: %v %v %v", first, again, third)
	}
	ok(c.say(roomID, alice, "goes on"))
	n := 0
	for _, e := range c.timeline(roomID) {
		if e.Type == "m.room.message" {
			n++
		}
	}
	if n != 3 {
		t.Fatalf("%d messages", n)
	}
}

// Client-server API, "Transaction identifiers": their scope is the device and the endpoint. One that is used for another
// type of event, or for redacting another event, is another request, remembered or not and at every worker.
func TestTransactionOfAnotherEndpoint(t *testing.T) {
	c := newCluster(t, 2)
	ok := must[*roomv1.SendResponse](t)
	roomID := c.create("12", alice, "public")
	target := ok(c.say(roomID, alice, "target")).EventIds[0]
	other := ok(c.say(roomID, alice, "another")).EventIds[0]
	intents := []*roomv1.EventIntent{
		{Type: "m.room.message", Content: []byte(`{"body":"1"}`), Sender: alice},
		{Type: "m.other", Content: []byte(`{"body":"2"}`), Sender: alice},
		{Type: "m.more", Content: []byte(`{"body":"3"}`), Sender: alice},
		{Type: typeRedaction, Content: []byte(`{"redacts":"` + target + `"}`), Redacts: target, Sender: alice},
		{Type: typeRedaction, Content: []byte(`{"redacts":"` + other + `"}`), Redacts: other, Sender: alice},
	}
	sendAll := func() (ids []string) {
		for _, in := range intents {
			ids = append(ids, ok(c.send(roomID, &roomv1.SendRequest{Cause: &roomv1.Cause{UserId: alice, DeviceId: "D", TxnId: "T"},
				Events: []*roomv1.EventIntent{in}})).EventIds[0])
		}
		return ids
	}
	first := sendAll()
	again := sendAll()
	for n := range 2 * recentCauses { // they are forgotten
		ok(c.send(roomID, &roomv1.SendRequest{Cause: &roomv1.Cause{UserId: alice, DeviceId: "D", TxnId: fmt.Sprint(n)}, Events: intents[:1]}))
	}
	forgotten := sendAll()
	for range 2 {
		c.start()
	}
	for _, w := range c.workers[:2] {
		w.stop()
	}
	c.workers = c.workers[2:]
	c.settle()
	restarted := sendAll()
	if d := slices.Compact(slices.Sorted(slices.Values(first))); len(d) != len(intents) {
		t.Fatalf("%d events of %d requests: %v", len(d), len(intents), first)
	}
	for _, later := range [][]string{again, forgotten, restarted} {
		if !slices.Equal(first, later) {
			t.Fatalf("repeated requests made %v, then %v", first, later)
		}
	}
}

// A request that comes again gets the room that it made, whatever the version and at every worker: also if it was the
// second of its millisecond, and also if nobody knows whether its first try was written.
func TestCreateTwice(t *testing.T) {
	var lost atomic.Bool // the next outcome is not known
	c := newClusterFaulty(t, 2, faults{commit: func(err error) error {
		if err == nil && lost.Swap(false) {
			return errUnknownOutcome
		}
		return err
	}})
	for _, version := range roomversion.Supported() {
		t.Run("v"+version, func(t *testing.T) {
			at := time.Now().UnixMilli()
			create := func(via *worker, cause *roomv1.Cause) *roomv1.CreateResponse {
				t.Helper()
				resp, err := via.direct(t).Create(context.Background(), &roomv1.CreateRequest{Creator: alice, RoomVersion: version,
					Cause: cause, OriginServerTs: at})
				if err != nil {
					t.Fatal(err)
				}
				return resp
			}
			before := c.rooms()
			one, two := newCause(alice), newCause(alice)
			made := create(c.workers[0], one)
			lost.Store(true)
			twin := create(c.workers[0], two)
			if lost.Load() {
				t.Fatal("no outcome was lost")
			}
			if made.RoomId == twin.RoomId {
				t.Fatal("two requests made one room")
			}
			for _, w := range c.workers {
				if again := create(w, one); again.RoomId != made.RoomId || again.EventIds[0] != made.EventIds[0] {
					t.Errorf("%v made again: %v", made, again)
				}
				if again := create(w, two); again.RoomId != twin.RoomId || again.EventIds[0] != twin.EventIds[0] {
					t.Errorf("%v made again: %v", twin, again)
				}
			}
			if n := c.rooms() - before; n != 2 {
				t.Errorf("%d rooms of two requests", n)
			}
		})
	}
}

// rooms counts the rooms that there are.
func (c *cluster) rooms() (n int) {
	c.tb.Helper()
	if err := c.db.For(0).QueryRow(context.Background(), `SELECT count(*) FROM room`).Scan(&n); err != nil {
		c.tb.Fatal(err)
	}
	return n
}

func TestReceipts(t *testing.T) {
	c := newCluster(t, 1)
	ok := must[*roomv1.SendResponse](t)
	roomID := c.create("11", alice, "public")
	ok(c.join(roomID, bob))
	one, two := ok(c.say(roomID, alice, "1")), ok(c.say(roomID, alice, "2"))
	receipt := func(event string) int64 {
		var pos int64
		err := c.call(context.Background(), roomID, func(ctx context.Context, r roomv1.RoomClient) error {
			resp, err := r.Receipts(ctx, &roomv1.ReceiptsRequest{RoomId: roomID, Receipts: []*roomv1.ReceiptIntent{
				{UserId: bob, Type: "m.read", EventId: event, Ts: 1, Local: true}}})
			if err == nil {
				pos = resp.Pos
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return pos
	}
	a := receipt(two.EventIds[0])
	if a != two.Pos+1 {
		t.Fatalf("receipt at %d after %d", a, two.Pos)
	}
	if b := receipt(one.EventIds[0]); b != a {
		t.Fatalf("a receipt went backwards: %d", b)
	}
	if b := receipt("$unknown"); b != a {
		t.Fatalf("a receipt for nothing: %d", b)
	}
}

// A restricted room: a member of the other room is let in by somebody with the power to invite.
func TestRestrictedLocal(t *testing.T) {
	c := newCluster(t, 1)
	ok := must[*roomv1.SendResponse](t)
	for _, version := range []string{"8", "10", "12"} {
		space := c.create(version, alice, "public")
		roomID := c.create(version, alice, "invite")
		ok(c.setState(roomID, alice, "m.room.join_rules", "", fmt.Sprintf(
			`{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":%q}]}`, space)))
		_, err := c.join(roomID, bob)
		wantCode(t, err, merr.CodeForbidden)
		ok(c.join(space, bob))
		ok(c.join(roomID, bob))
		if m := c.membership(roomID, bob); m != "join" {
			t.Fatalf("v%s: %q", version, m)
		}
		// Nobody has the power to vouch for carol; or we cannot know where she is.
		ok(c.setState(roomID, alice, "m.room.join_rules", "", fmt.Sprintf(
			`{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":%q}]}`, "!elsewhere:other.test")))
		_, err = c.join(roomID, carol)
		wantCode(t, err, merr.CodeUnableToAuthorizeJoin)
	}
}
