package room

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/partition"
	"hanse/pkg/roomdb"
	roomv1 "hanse/proto/room/v1"
)

// What other servers must not get away with, and what they then hear.
func TestHostileEvents(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	ok := must[*roomv1.SendResponse](t)
	for _, version := range []string{"10", "12"} {
		roomID, other := a.create(version, anna, "public"), a.create(version, anna, "public")
		ok(b.join(roomID, bert, string(one)))
		ok(b.join(other, bert, string(one)))
		on := b.last(roomID)
		cases := map[string]func(*event.Draft){
			"sender not in the room": func(d *event.Draft) { d.Sender = "@nobody:two.test" },
			"power it does not have": func(d *event.Draft) {
				key := ""
				d.Type, d.StateKey, d.Content = "m.room.topic", &key, []byte(`{"topic":"x"}`)
			},
			"auth events of another room": func(d *event.Draft) { d.AuthEvents = draftOn(b, other, b.timeline(other)[0]).AuthEvents },
			"auth events nobody has":      func(d *event.Draft) { d.AuthEvents = append(d.AuthEvents, "$"+id.Event(strings.Repeat("a", 43))) },
			"prev events nobody has":      func(d *event.Draft) { d.PrevEvents = []id.Event{"$" + id.Event(strings.Repeat("b", 43))} },
			"no prev events":              func(d *event.Draft) { d.PrevEvents = nil },
			"another create event": func(d *event.Draft) {
				key := ""
				if version == "12" {
					d.RoomID = ""
				}
				d.Type, d.StateKey, d.Content = "m.room.create", &key, []byte(fmt.Sprintf(`{"room_version":%q}`, version))
			},
			"zero byte in the type": func(*event.Draft) {}, // nothing of ours builds it
		}
		for name, change := range cases {
			t.Run("v"+version+"/"+name, func(t *testing.T) {
				d := draftOn(b, roomID, on)
				change(&d)
				raw := b.build(d, on.PDU).JSON
				if strings.HasPrefix(name, "zero byte") {
					raw = reforge(t, b, b.build(d, on.PDU), func(e map[string]any) { e["type"] = "a\x00b" })
				}
				before := len(a.timeline(roomID))
				if r := a.receive(roomID, two, raw)[0]; r.Error == "" {
					t.Fatal("accepted")
				}
				if len(a.timeline(roomID)) != before {
					t.Fatal("delivered")
				}
				ok(a.say(roomID, anna, "the room goes on"))
			})
		}
		if r := a.receive(roomID, two, []byte(`{"type":"m.room.message"}`), []byte(`nonsense`)); r[0].Error == "" || r[1].Error == "" {
			t.Fatal("garbage was accepted")
		}
		a.auditSplit(t, roomID)
	}
}

// A server that was banned meanwhile and writes on an old state is soft-failed: stored, not delivered, no end.
func TestSoftFail(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	ok := must[*roomv1.SendResponse](t)
	roomID := a.create("12", anna, "public")
	ok(b.join(roomID, bert, string(one)))
	on := b.last(roomID)
	pdu := b.build(draftOn(b, roomID, on), on.PDU)
	ok(a.setState(roomID, anna, "m.room.member", bert, `{"membership":"ban"}`))
	before := a.room(roomID)
	a.take(roomID, two, pdu) // soft failure is not told
	after := a.room(roomID)
	if fmt.Sprint(before.Extremities) != fmt.Sprint(after.Extremities) || before.LastPos != after.LastPos {
		t.Fatalf("%+v became %+v", before, after)
	}
	e, err := a.read.EventByID(context.Background(), after, pdu.ID)
	if err != nil || e.Flags != roomdb.SoftFailed {
		t.Fatalf("flags %v, %v", e, err)
	}
}

// While a peer makes us wait for what it does not send, its room's own users and other rooms are served.
func TestSlowPeer(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	ok := must[*roomv1.SendResponse](t)
	roomID, neighbour := a.create("11", anna, "public"), a.create("11", anna, "public")
	ok(b.join(roomID, bert, string(one)))
	on := b.last(roomID)
	d := draftOn(b, roomID, on)
	d.PrevEvents = []id.Event{"$" + id.Event(strings.Repeat("c", 43))}
	pdu := b.build(d, on.PDU)
	release := n.hold()
	done := make(chan string)
	go func() {
		var out string
		err := a.call(context.Background(), roomID, func(ctx context.Context, r roomv1.RoomClient) error {
			resp, err := r.Receive(ctx, &roomv1.ReceiveRequest{RoomId: roomID, Origin: string(two), Pdus: [][]byte{pdu.JSON}})
			if err == nil {
				out = resp.Results[0].Error
			}
			return err
		})
		if err != nil {
			out = err.Error()
		}
		done <- out
	}()
	n.waitHeld(t)
	for range 20 {
		ok(a.say(roomID, anna, "meanwhile"))
		ok(a.say(neighbour, anna, "meanwhile"))
	}
	close(release)
	if out := <-done; out == "" {
		t.Fatal("accepted")
	}
}

// A takeover writes what the owner before left out of the membership index.
func TestReplay(t *testing.T) {
	c := newCluster(t, 2)
	ok := must[*roomv1.SendResponse](t)
	roomID := c.create("12", alice, "public")
	ok(c.join(roomID, bob))
	ok(c.leave(roomID, bob))
	ok(c.join(roomID, carol))
	ctx := context.Background()
	part := partition.Of(roomID)
	for _, sql := range []string{`DELETE FROM membership WHERE room_id = $1`, `UPDATE partition SET projected = 0 WHERE $1 <> ''`} {
		if _, err := c.db.For(part).Exec(ctx, sql, roomID); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := partition.NewRows(c.db).Acquire(ctx, part, "nobody", "nowhere"); err != nil {
		t.Fatal(err)
	}
	ok(c.say(roomID, alice, "finds the new owner"))
	for user, want := range map[string]string{alice: "join", bob: "leave", carol: "join"} {
		if m := c.membership(roomID, user); m != want {
			t.Errorf("%s: %q, want %q", user, m, want)
		}
	}
}

// Device changes and the directory.
func TestSmallWrites(t *testing.T) {
	c := newCluster(t, 1)
	roomID := c.create("12", alice, "public")
	part := partition.Of(roomID)
	err := c.call(context.Background(), roomID, func(ctx context.Context, r roomv1.RoomClient) error {
		if _, err := r.DeviceChanges(ctx, &roomv1.DeviceChangesRequest{Part: part, RoomIds: []string{roomID}, UserId: alice, StreamId: 7, DeviceId: "D", Local: true}); err != nil {
			return err
		}
		_, err := r.SetPublished(ctx, &roomv1.SetPublishedRequest{RoomId: roomID, Published: true})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if !c.room(roomID).Published {
		t.Fatal("not published")
	}
	entries, err := c.read.ReadLog(context.Background(), part, 1, 100)
	if err != nil {
		t.Fatal(err)
	}
	if d := entries[len(entries)-1].GetDeviceChange(); d.GetStreamId() != 7 {
		t.Fatalf("last entry %v", entries[len(entries)-1])
	}
	_, err = c.say("!unknown:hanse.test", alice, "hello?")
	wantCode(t, err, merr.CodeNotFound)
}
