package room

import (
	"context"
	"encoding/json"
	"testing"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/merr"
	"hanse/pkg/partition"
	roomv1 "hanse/proto/room/v1"
)

// falseInvite has a stranger invite a user to somebody else's room and call the room another version than it has.
func falseInvite(t *testing.T, c *cluster, n *network, roomID, version, target string) error {
	t.Helper()
	rules, _ := roomversion.Get(version)
	on := id.Event("$made-up:evil.test")
	d := event.Draft{RoomID: id.Room(roomID), Type: typeMember, StateKey: &target, Sender: "@eve:evil.test", Content: []byte(`{"membership":"invite"}`),
		Depth: 7, OriginServerTS: 1, PrevEvents: []id.Event{on}, AuthEvents: []id.Event{on}}
	pdu, err := event.Build(d, rules, "evil.test", n.strangers)
	if err != nil {
		return err
	}
	_, err = c.receiveInvite(context.Background(), []json.RawMessage{}, &roomv1.ReceiveInviteRequest{RoomId: roomID, RoomVersion: version,
		Event: pdu.JSON, Origin: "evil.test"})
	return err
}

// Server-server API, "Inviting to a room": room_version is a claim of who invites. It decides nothing for others: neither a
// later invite nor a join, rejected or not, nor the version that the room gets.
func TestInviteProvesNothing(t *testing.T) {
	n := newNetwork()
	var err error
	if n.strangers, err = signing.NewKey(); err != nil {
		t.Fatal(err)
	}
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 2)
	for _, c := range []struct{ is, claimed string }{{"11", "1"}, {"11", "4"}, {"11", "10"}, {"1", "10"}, {"2", "1"}, {"12", "11"}} {
		t.Run(c.claimed+"for"+c.is, func(t *testing.T) {
			ok := must[*roomv1.SendResponse](t)
			roomID := a.create(c.is, anna, "invite")
			if err := falseInvite(t, b, n, roomID, c.claimed, birgt); err != nil && c.is != "12" {
				t.Fatal(err)
			}
			if _, err := b.read.Room(context.Background(), id.Room(roomID)); err == nil {
				t.Error("the room is known by an invite alone")
			}
			ok(a.invite(roomID, anna, bert))
			if m := b.membership(roomID, bert); m != "invite" {
				t.Fatalf("invited: %q", m)
			}
			if b.membership(roomID, birgt) == "invite" {
				ok(b.leave(roomID, birgt))
				if m := b.membership(roomID, birgt); m != "leave" {
					t.Fatalf("rejected: %q", m)
				}
			}
			ok(b.join(roomID, bert))
			sameState(t, a, b, roomID)
			if v := b.room(roomID).Rules.Version; v != c.is {
				t.Fatalf("the room has version %s", v)
			}
			if err := falseInvite(t, b, n, roomID, c.claimed, birgt); merr.From(err).Status != 400 && c.is != "12" {
				t.Errorf("an invite to a room that we are in, with another version: %v", err)
			}
		})
	}
}

// What an earlier release has stored of a room upon a false invite gives way to the version that a join proves.
func TestUnprovenRoomGivesWay(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	ok := must[*roomv1.SendResponse](t)
	roomID := a.create("11", anna, "public")
	r := a.room(roomID)
	_, err := b.db.For(r.Part).Exec(context.Background(), `
INSERT INTO room (part, room_nid, room_id, version, sid, extremities, depth) VALUES ($1, 900001, $2, '3', 0, '{}', 0)`, int32(r.Part), roomID)
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.db.For(r.Part).Exec(context.Background(), `
INSERT INTO event (part, event_nid, room_nid, event_id, depth, type, state_key, sender, origin_ts, flags, auth, prev, json)
VALUES ($1, 900002, 900001, '$x', 1, 'm.room.member', $2, '@eve:evil.test', 1, 9, '{}', '{}', '{}')`, int32(r.Part), birgt)
	if err != nil {
		t.Fatal(err)
	}
	ok(b.join(roomID, bert, string(one)))
	sameState(t, a, b, roomID)
	var rows, events int
	err = b.db.For(r.Part).QueryRow(context.Background(), `SELECT (SELECT count(*) FROM room WHERE part = $1 AND room_id = $2),
	(SELECT count(*) FROM event WHERE part = $1 AND event_nid = 900002)`, int32(r.Part), roomID).Scan(&rows, &events)
	if err != nil || rows != 1 || events != 0 {
		t.Errorf("%d rows of the room, %d events of the false one, %v", rows, events, err)
	}
	if v := b.room(roomID).Rules.Version; v != "11" {
		t.Errorf("version %s", v)
	}
}

// Client-server API, "Push Rules": an invite to a room that this server is not in, and its end, reach the push worker of a user who has
// a pusher.
func TestOutsideMembershipsReachPush(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	part := partition.Of(bert)
	_, err := b.db.For(part).Exec(t.Context(), `INSERT INTO pusher (part, user_id, app_id, pushkey, kind, app_display_name, device_display_name, lang, data, created_ts)
		VALUES ($1, $2, 'app', 'key', 'http', '', '', '', '{}', 1)`, int32(part), bert)
	if err != nil {
		t.Fatal(err)
	}
	roomID := a.create("11", anna, "invite")
	waiting := func() (eventID string) {
		t.Helper()
		if err := b.db.For(part).QueryRow(t.Context(), `SELECT coalesce(max(event_id), '') FROM push_invite WHERE room_id = $1`, roomID).Scan(&eventID); err != nil {
			t.Fatal(err)
		}
		return eventID
	}
	ok := must[*roomv1.SendResponse](t)
	ok(a.invite(roomID, anna, birgt))
	if got := waiting(); got != "" {
		t.Errorf("%s waits for somebody without a pusher", got)
	}
	invited := ok(a.invite(roomID, anna, bert)).EventIds[0]
	if got := waiting(); got != invited {
		t.Errorf("%q waits, not the invite", got)
	}
	ok(b.leave(roomID, bert))
	if got := waiting(); got == invited || got == "" {
		t.Errorf("%q waits, not the end of the invite", got)
	}
}
