package room

import (
	"context"
	"fmt"
	"testing"

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

// Creating the same room twice gives the same room where the version allows it.
func TestCreateTwice(t *testing.T) {
	c := newCluster(t, 1)
	req := &roomv1.CreateRequest{Creator: alice, RoomVersion: "11", Cause: newCause(alice)}
	var ids []string
	for range 2 {
		err := c.call(context.Background(), "x", func(ctx context.Context, r roomv1.RoomClient) error {
			resp, err := r.Create(ctx, req)
			if err == nil {
				ids = append(ids, resp.RoomId, resp.EventIds[0])
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if ids[0] != ids[2] {
		t.Fatal(ids)
	}
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
