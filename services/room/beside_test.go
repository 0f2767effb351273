package room

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/partition"
	"hanse/pkg/view"
	roomv1 "hanse/proto/room/v1"
)

// strangersInvite has a user of a server that is in no room invite somebody, in a version that the room may not have.
func strangersInvite(t *testing.T, c *cluster, n *network, from id.Server, roomID, version, target string) *event.PDU {
	t.Helper()
	rules, _ := roomversion.Get(version)
	d := event.Draft{RoomID: id.Room(roomID), Type: typeMember, StateKey: &target, Sender: id.NewUser("eve", from), Content: []byte(`{"membership":"invite"}`),
		Depth: 7, OriginServerTS: 1, PrevEvents: []id.Event{"$made-up"}, AuthEvents: []id.Event{"$made-up"}}
	pdu, err := event.Build(d, rules, from, n.strangers)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.receiveInvite(context.Background(), []json.RawMessage{}, &roomv1.ReceiveInviteRequest{RoomId: roomID, RoomVersion: version,
		Event: pdu.JSON, Origin: string(from)})
	if err != nil {
		t.Fatal(err)
	}
	return pdu
}

// takeBack has the one who sent an invite take it back.
func takeBack(t *testing.T, c *cluster, n *network, invite *event.PDU) {
	t.Helper()
	pdu, err := event.Build(event.Draft{RoomID: invite.RoomID, Type: typeMember, StateKey: invite.StateKey, Sender: invite.Sender,
		Content: []byte(`{"membership":"leave"}`), Depth: 8, OriginServerTS: 2, PrevEvents: []id.Event{invite.ID}, AuthEvents: []id.Event{invite.ID}},
		invite.Rules, invite.Sender.Server(), n.strangers)
	if err != nil {
		t.Fatal(err)
	}
	if problem := c.receive(string(pdu.RoomID), pdu.Sender.Server(), pdu.JSON)[0].Error; problem != "" {
		t.Errorf("an invite that is taken back: %s", problem)
	}
}

// inviter is the server of whose invite the user is told.
func (c *cluster) inviter(roomID, user string) id.Server {
	c.tb.Helper()
	row, err := c.any().unjoinedRow(context.Background(), id.Room(roomID), id.User(user))
	if err != nil {
		c.tb.Fatal(err)
	}
	if row == nil || row.membership != "invite" {
		return ""
	}
	return row.sender.Server()
}

// Server-server API, "Inviting to a room": invites of several servers to one room, some of which are lies. None replaces another's,
// or ends it; with each of them the user can join, in rooms whose id names a server and in others.
func TestInvitesOfSeveralServers(t *testing.T) {
	n := newNetwork()
	var err error
	if n.strangers, err = signing.NewKey(); err != nil {
		t.Fatal(err)
	}
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 2)
	ok := must[*roomv1.SendResponse](t)
	shown := func(t *testing.T, roomID string, want id.Server) {
		t.Helper()
		if got := b.inviter(roomID, bert); got != want {
			t.Fatalf("the invite is one of %q, want %q", got, want)
		}
	}
	for _, version := range []string{"11", "12"} {
		for _, lie := range []string{version, "10"} {
			if version == "12" && lie != version {
				continue // a room id of version 12 is none of others
			}
			t.Run(fmt.Sprintf("v%s, called %s", version, lie), func(t *testing.T) {
				// The honest one first: it stays, whatever others say and take back.
				roomID := a.create(version, anna, "invite")
				ok(a.invite(roomID, anna, bert))
				evil := strangersInvite(t, b, n, "evil.test", roomID, lie, bert)
				shown(t, roomID, one)
				for i := range 2 * maxBeside {
					strangersInvite(t, b, n, id.Server(fmt.Sprintf("evil%d.test", i)), roomID, lie, bert)
				}
				shown(t, roomID, one)
				takeBack(t, b, n, evil)
				shown(t, roomID, one)
				ok(b.join(roomID, bert))
				sameState(t, a, b, roomID)
				if left, err := b.any().besides(context.Background(), id.Room(roomID), bert); err != nil || len(left) != 0 {
					t.Errorf("%d invites are left after the join, %v", len(left), err)
				}

				// The honest one later: the user can join with it at once, and is told of it when the other one has ended.
				roomID = a.create(version, anna, "invite")
				strangersInvite(t, b, n, "evil.test", roomID, lie, bert)
				ok(a.invite(roomID, anna, bert))
				shown(t, roomID, "evil.test")
				ok(b.join(roomID, bert))
				sameState(t, a, b, roomID)

				roomID = a.create(version, anna, "invite")
				evil = strangersInvite(t, b, n, "evil.test", roomID, lie, bert)
				ok(a.invite(roomID, anna, bert))
				takeBack(t, b, n, evil)
				shown(t, roomID, one)

				// An invite that the user is not told of, as its sender is ignored, stands in no other's way.
				roomID = a.create(version, anna, "invite")
				evil = strangersInvite(t, b, n, "evil.test", roomID, lie, bert)
				ignore(t, b, bert, evil.Sender)
				ok(a.invite(roomID, anna, bert))
				shown(t, roomID, one)
				ignore(t, b, bert)

				// What the user rejects is gone, and the other one is there.
				roomID = a.create(version, anna, "invite")
				strangersInvite(t, b, n, "evil.test", roomID, lie, bert)
				ok(a.invite(roomID, anna, bert))
				ok(b.leave(roomID, bert))
				shown(t, roomID, one)
				ok(b.leave(roomID, bert))
				shown(t, roomID, "")

				// The honest one is withdrawn while it is kept.
				roomID = a.create(version, anna, "invite")
				strangersInvite(t, b, n, "evil.test", roomID, lie, bert)
				ok(a.invite(roomID, anna, bert))
				withdrawn := ok(a.setState(roomID, anna, typeMember, bert, `{"membership":"leave"}`))
				if problem := a.tell(b, roomID, withdrawn.EventIds[0]); problem != "" {
					t.Errorf("an invite that is withdrawn: %s", problem)
				}
				shown(t, roomID, "evil.test")
				ok(b.leave(roomID, bert))
				shown(t, roomID, "")
			})
		}
	}
}

// ignore has a user ignore others.
func ignore(t *testing.T, c *cluster, user string, others ...id.User) {
	t.Helper()
	ignored := make(map[id.User]any)
	for _, u := range others {
		ignored[u] = struct{}{}
	}
	content, err := json.Marshal(map[string]any{"ignored_users": ignored})
	if err != nil {
		t.Fatal(err)
	}
	part := partition.Of(user)
	_, err = c.db.For(part).Exec(context.Background(), `INSERT INTO account_data (part, user_id, room_id, type, content, seq) VALUES ($1, $2, '', $3, $4, 1)
		ON CONFLICT (part, user_id, room_id, type) DO UPDATE SET content = excluded.content`, int32(part), user, view.IgnoredUsers, content)
	if err != nil {
		t.Fatal(err)
	}
}
