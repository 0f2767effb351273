package room

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	roomv1 "hanse/proto/room/v1"
)

// Room versions, "Authorization rules", rule 2.5 (3.5 of version 12): an event that cites an event of another room is rejected.
// It is stored as that: what follows it is taken, and nobody asks for it again.
func TestCitesAnotherRoom(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	for _, version := range []string{"1", "10", "12"} {
		ok := must[*roomv1.SendResponse](t)
		roomID, other := a.create(version, anna, "public"), a.create(version, anna, "public")
		ok(b.join(roomID, bert, string(one)))
		ok(b.join(other, bert, string(one)))
		on := b.last(roomID)
		d := draftOn(b, roomID, on)
		d.AuthEvents = append(d.AuthEvents, b.state(other)["m.room.power_levels|"])
		for range d.AuthEvents {
			d.AuthHashes = append(d.AuthHashes, [32]byte{})
		}
		bad := b.build(d, on.PDU)
		next := b.forgeAfter(b.state(roomID), event.Draft{Type: "m.room.message", Sender: bert, Content: []byte(`{"body":"after"}`)}, bad)
		results := a.receive(roomID, two, bad.JSON, next.JSON)
		if !strings.Contains(results[0].Error, "is of room") {
			t.Errorf("version %s: %q", version, results[0].Error)
		}
		if results[1].Error != "" {
			t.Errorf("version %s: what follows: %s", version, results[1].Error)
		}
		found, err := a.read.EventsByID(context.Background(), a.room(roomID).Part, []id.Event{bad.ID, next.ID})
		if err != nil || found[bad.ID] == nil || found[bad.ID].Flags != flagRejected || found[next.ID] == nil || found[next.ID].Flags != 0 {
			t.Errorf("version %s: %+v, %v", version, found, err)
		}
		asked := n.askedFor("event")
		if r := a.receive(roomID, two, bad.JSON); r[0].Error != "" || n.askedFor("event") != asked {
			t.Errorf("version %s: again: %q, asked %d times", version, r[0].Error, n.askedFor("event")-asked)
		}
	}
}

// Client-server API, "Size limits": up to room version 10 Synapse has counted code points, so an event that is too long only in
// bytes is part of rooms. It is rejected, and what follows it is taken.
func TestOverlongInBytesOnly(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	for version, kept := range map[string]bool{"6": true, "10": true, "11": false} {
		ok := must[*roomv1.SendResponse](t)
		roomID := a.create(version, anna, "public")
		ok(b.join(roomID, bert, string(one)))
		on := b.last(roomID)
		long := reforge(t, b, b.build(draftOn(b, roomID, on), on.PDU), func(e map[string]any) { e["type"] = strings.Repeat("é", 200) })
		results := a.receive(roomID, two, long)
		if results[0].Error == "" {
			t.Errorf("version %s: it is taken", version)
		}
		bad, err := event.Parse(long, on.Rules)
		if (err == nil) != kept {
			t.Fatalf("version %s: %v", version, err)
		}
		if !kept {
			continue
		}
		next := b.forgeAfter(b.state(roomID), event.Draft{Type: "m.room.message", Sender: bert, Content: []byte(`{"body":"after"}`)}, bad)
		a.take(roomID, two, next)
		if e := a.last(roomID); e.ID != next.ID {
			t.Errorf("version %s: the last event is %s", version, e.ID)
		}
	}
}

// Server-server API, PUT /v2/send_join: an event that names what nobody has is the sender's mistake.
func TestSendJoinThatCannotBeJudged(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	ok := must[*roomv1.SendResponse](t)
	roomID, other := a.create("11", anna, "public"), a.create("11", anna, "public")
	ok(b.join(other, bert, string(one)))
	var made *roomv1.MakeMembershipResponse
	err := a.call(context.Background(), roomID, func(ctx context.Context, r roomv1.RoomClient) (err error) {
		made, err = r.MakeMembership(ctx, &roomv1.MakeMembershipRequest{RoomId: roomID, UserId: birgt, Membership: "join", SupportedVersions: []string{"11"}, Origin: string(two)})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	refs := func(path string) (ids []id.Event) {
		for _, e := range gjson.GetBytes(made.Event, path).Array() {
			ids = append(ids, id.Event(e.Str))
		}
		return ids
	}
	unknown := id.Event("$" + strings.Repeat("u", 43))
	for _, c := range []struct {
		prev, auth []id.Event
		status     int
	}{
		{[]id.Event{unknown}, refs("auth_events"), 400},
		{refs("prev_events"), append(refs("auth_events"), unknown), 400},
		{refs("prev_events"), append(refs("auth_events"), b.state(other)["m.room.power_levels|"]), 403},
		{refs("prev_events"), refs("auth_events"), 200},
	} {
		key := birgt
		pdu, err := event.Build(event.Draft{RoomID: id.Room(roomID), Type: typeMember, StateKey: &key, Sender: birgt, Content: json.RawMessage(`{"membership":"join"}`),
			Depth: gjson.GetBytes(made.Event, "depth").Int(), OriginServerTS: 1, PrevEvents: c.prev, AuthEvents: c.auth}, b.last(other).Rules, two, b.names[two])
		if err != nil {
			t.Fatal(err)
		}
		err = a.call(context.Background(), roomID, func(ctx context.Context, r roomv1.RoomClient) error {
			_, err := r.SendMembership(ctx, &roomv1.SendMembershipRequest{RoomId: roomID, Membership: "join", Event: pdu.JSON, Origin: string(two)})
			return err
		})
		if status := merr.From(err).Status; err == nil && c.status != 200 || err != nil && status != c.status {
			t.Errorf("prev %v, auth %v: %v, want %d", c.prev, c.auth, err, c.status)
		}
	}
}

// Client-server API, "Server Access Control Lists (ACLs) for rooms": a list that keeps our own server out would end the room
// for us. Synapse refuses it.
func TestListDeniesOwnServer(t *testing.T) {
	c := newFedCluster(t, newNetwork(), one, 1)
	roomID := c.create("12", anna, "public")
	for _, content := range []string{`{}`, `{"allow":["other.test"]}`, `{"allow":["*"],"deny":["*.test"]}`} {
		if _, err := c.setState(roomID, anna, typeServerACL, "", content); merr.From(err).Status != 400 {
			t.Errorf("%s: %v", content, err)
		}
	}
	for _, content := range []string{`{"allow":["*"],"deny":["two.test"]}`, `{"allow":["one.test"]}`} {
		must[*roomv1.SendResponse](t)(c.setState(roomID, anna, typeServerACL, "", content))
	}
}
