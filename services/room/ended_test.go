package room

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	"hanse/pkg/roomdb"
	logv1 "hanse/proto/log/v1"
	roomv1 "hanse/proto/room/v1"
)

// logged reads what the log tells readers of an event.
func (c *cluster) logged(roomID string, eventID id.Event) *logv1.Event {
	c.tb.Helper()
	e, err := c.read.EventByID(context.Background(), c.room(roomID), eventID)
	if err != nil {
		c.tb.Fatal(err)
	}
	entries, err := c.read.ReadLog(context.Background(), e.Part, e.Ord, 1)
	if err != nil || len(entries) != 1 || entries[0].GetEvent().GetEventId() != string(eventID) {
		c.tb.Fatalf("entry of %s: %v, %v", eventID, entries, err)
	}
	return entries[0].GetEvent()
}

// stripped reads the state that a user in front of a room is shown.
func (c *cluster) stripped(roomID, user string) string {
	c.tb.Helper()
	part := partition.Of(user)
	var shown []byte
	err := c.db.For(part).QueryRow(context.Background(), `SELECT stripped FROM membership WHERE part = $1 AND user_id = $2 AND room_id = $3`,
		int32(part), user, roomID).Scan(&shown)
	if err != nil {
		c.tb.Fatal(err)
	}
	return string(shown)
}

// tell carries one event to another cluster, and returns what that says of it.
func (c *cluster) tell(to *cluster, roomID string, eventID string) string {
	c.tb.Helper()
	e, err := c.read.EventByID(context.Background(), c.room(roomID), id.Event(eventID))
	if err != nil {
		c.tb.Fatal(err)
	}
	return to.receive(roomID, e.Sender.Server(), e.JSON)[0].Error
}

// Server-server API, "Inviting to a room", "Knocking upon a room", "Transactions": what others do to a membership reaches a
// server that is not in the room, and is taken there: an invite that is withdrawn, a knock that is denied.
func TestEndedByOthers(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 2)
	ok := must[*roomv1.SendResponse](t)
	for _, version := range []string{"1", "7", "11", "12"} {
		for _, ended := range []string{"leave", "ban"} {
			t.Run("v"+version+"/"+ended, func(t *testing.T) {
				rule := "knock"
				if version == "1" {
					rule = "invite"
				}
				roomID := a.create(version, anna, rule)
				invited := ok(a.invite(roomID, anna, bert)).EventIds[0]
				if to := a.logged(roomID, id.Event(invited)).AlsoTo; len(to) > 0 {
					t.Errorf("the invite is sent to %v again", to)
				}
				shown := b.stripped(roomID, bert)
				if problem := a.tell(b, roomID, invited); problem != "" || b.stripped(roomID, bert) != shown {
					t.Errorf("the invite, sent again: %q, %s", problem, b.stripped(roomID, bert))
				}
				end := func(user string) string {
					eventID := ok(a.setState(roomID, anna, "m.room.member", user, fmt.Sprintf(`{"membership":%q,"reason":"no"}`, ended))).EventIds[0]
					if to := a.logged(roomID, id.Event(eventID)).AlsoTo; len(to) != 1 || to[0] != string(two) {
						t.Errorf("sent to %v", to)
					}
					return eventID
				}
				withdrawn := end(bert)
				for range 2 { // twice is once
					if problem := a.tell(b, roomID, withdrawn); problem != "" {
						t.Fatalf("withdrawn: %s", problem)
					}
					if m := b.membership(roomID, bert); m != ended {
						t.Fatalf("withdrawn: %q", m)
					}
				}
				if rule == "knock" {
					ok(b.knock(roomID, birgt, string(one)))
					if problem := a.tell(b, roomID, end(birgt)); problem != "" || b.membership(roomID, birgt) != ended {
						t.Fatalf("denied: %q, %q", problem, b.membership(roomID, birgt))
					}
				}
				if ended == "ban" {
					unban := ok(a.setState(roomID, anna, "m.room.member", bert, `{"membership":"leave"}`)).EventIds[0]
					if to := a.logged(roomID, id.Event(unban)).AlsoTo; len(to) > 0 {
						t.Errorf("an unban is sent to %v", to)
					}
				}
				ok(a.invite(roomID, anna, bert))
				ok(b.join(roomID, bert))
				sameState(t, a, b, roomID)
			})
		}
	}
}

// What a stranger claims ends nothing: an event that does not name the invite, one of a server that has to do nothing with
// it, one of another room, what is no end.
func TestNotEndedByStrangers(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	three := newFedCluster(t, n, "three.test", 1)
	ok := must[*roomv1.SendResponse](t)
	roomID := a.create("11", anna, "invite")
	invited := id.Event(ok(a.invite(roomID, anna, bert)).EventIds[0])
	invite, err := a.read.EventByID(context.Background(), a.room(roomID), invited)
	if err != nil {
		t.Fatal(err)
	}
	forged := func(by *cluster, sender id.User, change func(*event.Draft)) []byte {
		key := bert
		d := event.Draft{RoomID: id.Room(roomID), Type: "m.room.member", StateKey: &key, Sender: sender, Depth: invite.Depth + 1,
			Content: json.RawMessage(`{"membership":"leave"}`), PrevEvents: []id.Event{invited}, AuthEvents: append(invite.AuthEvents, invited)}
		change(&d)
		server := sender.Server()
		pdu, err := event.Build(d, invite.Rules, server, by.names[server])
		if err != nil {
			t.Fatal(err)
		}
		return pdu.JSON
	}
	other := "@other:two.test"
	for name, raw := range map[string][]byte{
		"the invite is not named": forged(a, anna, func(d *event.Draft) { d.AuthEvents = invite.AuthEvents }),
		"another server":          forged(three, "@mallory:three.test", func(*event.Draft) {}),
		"another room":            forged(a, anna, func(d *event.Draft) { d.RoomID = "!other:one.test" }),
		"another user":            forged(a, anna, func(d *event.Draft) { d.StateKey = &other }),
		"a join":                  forged(a, anna, func(d *event.Draft) { d.Content = json.RawMessage(`{"membership":"join"}`) }),
		"no membership":           forged(a, anna, func(d *event.Draft) { d.Type = "m.room.topic" }),
		"of the user":             forged(b, bert, func(*event.Draft) {}),
		"no event":                []byte(`{"type":"m.room.member","state_key":"@bert:two.test"}`),
	} {
		if problem := b.receive(roomID, one, raw)[0].Error; problem == "" {
			t.Errorf("%s: taken", name)
		}
		if m := b.membership(roomID, bert); m != "invite" {
			t.Fatalf("%s: %q", name, m)
		}
	}
	if problem := b.receive(roomID, one, forged(a, "@moderator:one.test", func(*event.Draft) {}))[0].Error; problem != "" || b.membership(roomID, bert) != "leave" {
		t.Errorf("another moderator: %s", problem)
	}
}

// Server-server API, "Knocking upon a room", "Leaving Rooms": a knock is taken back through the server that was knocked
// through, or those of who made the room, and everybody sees it, also with no server's name in the room's id.
func TestKnockTakenBack(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	ok := must[*roomv1.SendResponse](t)
	for _, version := range []string{"7", "12"} {
		roomID := a.create(version, anna, "knock")
		for _, shown := range []string{"by the server", "by the state"} {
			if shown == "by the state" {
				state := []any{map[string]any{"type": "m.room.create", "state_key": "", "sender": anna, "content": map[string]any{}}}
				n.answers("send_knock", func(any) any { return map[string]any{"knock_room_state": state} })
			}
			ok(b.knock(roomID, bert, string(one)))
			if shown == "by the state" {
				part := partition.Of(bert)
				if _, err := b.db.For(part).Exec(t.Context(), `UPDATE membership SET via = '' WHERE part = $1 AND user_id = $2`, int32(part), bert); err != nil {
					t.Fatal(err)
				}
			}
			left := ok(b.leave(roomID, bert))
			e, err := a.read.EventByID(context.Background(), a.room(roomID), id.Event(left.EventIds[0]))
			if err != nil || e.Flags&roomdb.Rejected != 0 {
				t.Fatalf("v%s, found %s: the retraction did not arrive: %v", version, shown, err)
			}
			n.answers("send_knock", nil)
		}
	}
}

// Server-server API, PUT /send_knock, MSC4311: of the state that answers a knock the user is shown what may be the room's.
// The knock is made whatever comes with it.
func TestKnockState(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	ok := must[*roomv1.SendResponse](t)
	for _, version := range []string{"10", "12"} {
		roomID, other := a.create(version, anna, "knock"), a.create(version, anna, "knock")
		ok(a.setState(roomID, anna, "m.room.name", "", `{"name":"Hall"}`))
		var name json.RawMessage
		for _, e := range a.stateEvents(roomID) {
			if e.Type == "m.room.name" {
				name = e.JSON
			}
		}
		rules := a.stateEvents(other)[0].JSON
		n.answers("send_knock", func(any) any {
			return map[string]any{"knock_room_state": []any{
				"nothing", map[string]any{"type": "m.room.avatar"}, name, json.RawMessage(rules),
				json.RawMessage(strings.Replace(string(name), "Hall", "Forged", 1)),
				map[string]any{"type": "m.room.topic", "state_key": "", "sender": anna, "content": map[string]any{"topic": "stripped"}},
			}}
		})
		ok(b.knock(roomID, bert, string(one)))
		n.answers("send_knock", nil)
		types := gjson.Get(b.stripped(roomID, bert), "#.type").String()
		if types != `["m.room.topic","m.room.name","m.room.member"]` || strings.Contains(b.stripped(roomID, bert), "Forged") {
			t.Errorf("v%s: shown is %s", version, b.stripped(roomID, bert))
		}
	}
}
