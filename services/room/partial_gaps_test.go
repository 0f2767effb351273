package room

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"testing"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	roomv1 "hanse/proto/room/v1"
)

// Events whose prev events we lack when a room that was joined without its members becomes whole: server-server API,
// "Checks performed on receipt of a PDU" and "Retrieving missing events", GET /state_ids.

// stateAt is the state before an event, by event ids.
func (c *cluster) stateAt(e *roomdb.Event) map[string]id.Event {
	c.tb.Helper()
	m, err := c.read.State(context.Background(), e.Part, e.SID)
	if err != nil {
		c.tb.Fatal(err)
	}
	events, err := c.read.StateEvents(context.Background(), e.Part, m.All())
	if err != nil {
		c.tb.Fatal(err)
	}
	out := make(map[string]id.Event, len(events))
	for _, e := range events {
		out[fmt.Sprintf("%s|%s", e.Type, *e.StateKey)] = e.ID
	}
	return out
}

// event reads an event of a room.
func (c *cluster) event(roomID string, eventID id.Event) *roomdb.Event {
	c.tb.Helper()
	e, err := c.read.EventByID(context.Background(), c.room(roomID), eventID)
	if err != nil {
		c.tb.Fatal(err)
	}
	return e
}

// sameStates demands that the state before each event of b's timeline is what it is at a.
func sameStates(t *testing.T, a, b *cluster, roomID string) {
	t.Helper()
	for _, e := range b.timeline(roomID) {
		if here, there := b.stateAt(e), a.stateAt(a.event(roomID, e.ID)); !maps.Equal(here, there) {
			for k, v := range there {
				if here[k] != v {
					t.Errorf("before %s (%s, %d): %s is %q, not %q", e.ID, e.Type, e.Ord, k, here[k], v)
				}
			}
			t.Fatalf("the state before %s (%s, %d) is another: %d entries, not %d", e.ID, e.Type, e.Ord, len(here), len(there))
		}
	}
}

// behind makes a room joined without members of which b gets to know only the last events: those that tell lies of missing events.
func behind(t *testing.T) (p *partialJoin, last []*roomdb.Event) {
	t.Helper()
	p = newPartialJoin(t, "11", 1, "ids")
	a, b, roomID, ok := p.a, p.b, p.room, must[*roomv1.SendResponse](t)
	p.enter()
	p.n.lie(map[string]func([]string, url.Values) any{"get_missing_events": func([]string, url.Values) any {
		return map[string]any{"events": []any{}}
	}})
	ok(a.setState(roomID, anna, typeMember, member(one, 4), `{"membership":"ban"}`))
	ok(a.setState(roomID, anna, "m.room.name", "", `{"name":"told to nobody"}`))
	for i := range missingLimit {
		ok(a.say(roomID, member(one, 5+i), "told to nobody"))
	}
	pos := ok(a.say(roomID, member(one, 1), "in between")).Pos
	ok(a.setState(roomID, anna, "m.room.topic", "", `{"topic":"told"}`))
	ok(a.say(roomID, member(one, 7), "told"))
	ok(a.join(roomID, "@late:one.test"))
	for _, e := range a.timeline(roomID) {
		if e.Ord > pos {
			last = append(last, e)
			b.take(roomID, one, e.PDU)
		}
	}
	return p, last
}

// The state before events that follow what we lack is asked for before they are judged again.
func TestPartialGaps(t *testing.T) {
	for _, told := range []bool{false, true} { // the missing events themselves
		t.Run(fmt.Sprintf("told=%t", told), func(t *testing.T) {
			p, last := behind(t)
			n, a, b, roomID := p.n, p.a, p.b, p.room
			if told {
				n.lie(nil)
			}
			asked := n.askedFor("state_ids")
			p.release()
			b.whole(roomID)
			carry(b, a, two, roomID, 0)
			auditPartial(t, a, b, roomID)
			b.checkResolved(roomID)
			sameStates(t, a, b, roomID)
			// One for the members, and one for the gap, as what follows each other needs one state; none if all that was missing is
			// told.
			want := map[bool]int{false: 2, true: 1}[told]
			if got := n.askedFor("state_ids") - asked; got != want {
				t.Fatalf("%d states were asked for, not %d", got, want)
			}
			if e := b.event(roomID, last[0].ID); e.Flags != 0 {
				t.Fatalf("flags %d", e.Flags)
			}
			if got := counter(b.any().metrics.fillGuessed); got != 0 {
				t.Fatalf("%v states were guessed", got)
			}
		})
	}
}

// If nobody tells the state before an event, it does not change the room: a state event is soft-failed; what is said is
// heard, if its sender may say it.
func TestPartialGapsUnknown(t *testing.T) {
	p, last := behind(t)
	n, a, b, roomID := p.n, p.a, p.b, p.room
	join := b.timeline(roomID)[0].ID
	n.lie(map[string]func([]string, url.Values) any{
		"get_missing_events": func([]string, url.Values) any { return map[string]any{"events": []any{}} },
		"state_ids": func(_ []string, q url.Values) any {
			if q.Get("event_id") == string(join) {
				return nil
			}
			return map[string]any{"pdu_ids": []any{}, "auth_chain_ids": []any{}}
		},
	})
	p.release()
	b.whole(roomID)
	st := b.state(roomID)
	if st["m.room.topic|"] == last[0].ID || st["m.room.name|"] != "" {
		t.Fatal("what nobody vouches for changed the room")
	}
	if e := b.event(roomID, last[0].ID); e.Flags&roomdb.SoftFailed == 0 {
		t.Fatalf("flags %d", e.Flags)
	}
	if got := counter(b.any().metrics.fillGuessed); got != 1 {
		t.Fatalf("%v states were guessed", got)
	}
	b.auditSplit(t, roomID)
	heard := b.event(roomID, last[1].ID)
	if heard.Flags != 0 || heard.Ord == 0 {
		t.Fatalf("what was said has the flags %d", heard.Flags)
	}
	// The room goes on, and what is known to follow is taken.
	n.lie(nil)
	ok := must[*roomv1.SendResponse](t)
	ok(b.say(roomID, bert, "the room goes on"))
	ok(a.setState(roomID, anna, "m.room.topic", "", `{"topic":"anew"}`))
	topic := a.last(roomID)
	b.take(roomID, one, topic.PDU)
	if b.state(roomID)["m.room.topic|"] != topic.ID {
		t.Fatal("the room does not go on")
	}
	b.checkResolved(roomID)
}

// History that was read while members were unknown gets its states, too: worked out from the oldest event on, before which
// the state is asked for (client-server API, "Room History Visibility", asks for the membership at each event).
func TestPartialHistory(t *testing.T) {
	for _, all := range []bool{true, false} {
		t.Run(fmt.Sprintf("all=%t", all), func(t *testing.T) {
			p := newPartialJoin(t, "10", 1, "ids")
			n, a, b, roomID, ok := p.n, p.a, p.b, p.room, must[*roomv1.SendResponse](t)
			for i := range 20 {
				ok(a.say(roomID, member(one, i), "history"))
				ok(a.setState(roomID, anna, "m.room.topic", "", fmt.Sprintf(`{"topic":"%d"}`, i)))
				ok(a.setState(roomID, member(one, i), typeMember, member(one, i), fmt.Sprintf(`{"membership":"join","displayname":"%d"}`, i)))
			}
			p.enter()
			want := 1
			if all {
				backfillAll(t, b, roomID)
			} else {
				want++ // before the oldest
				for range 2 {
					err := b.call(context.Background(), roomID, func(ctx context.Context, r roomv1.RoomClient) error {
						_, err := r.Backfill(ctx, &roomv1.BackfillRequest{RoomId: roomID, Limit: 10})
						return err
					})
					if err != nil {
						t.Fatal(err)
					}
				}
			}
			asked := n.askedFor("state_ids")
			p.release()
			b.whole(roomID)
			carry(b, a, two, roomID, 0)
			auditPartial(t, a, b, roomID)
			sameStates(t, a, b, roomID)
			if got := n.askedFor("state_ids") - asked; got != want {
				t.Fatalf("%d states were asked for, not %d", got, want)
			}
		})
	}
}

// A state event that was refused for want of members, and is part of a fork, is not taken for rejected when the fork is
// resolved by the whole state.
func TestPartialLateState(t *testing.T) {
	p := newPartialJoin(t, "11", 1, "ids")
	a, b, roomID := p.a, p.b, p.room
	bad, st := p.bannedModerator()
	victim, empty := member(one, 6), ""
	p.enter()
	on := b.last(roomID).PDU
	ban := a.forgeAfter(st, event.Draft{Type: typeMember, StateKey: &victim, Sender: bad, Content: []byte(`{"membership":"ban"}`)}, on)
	topic := a.forgeAfter(st, event.Draft{Type: "m.room.topic", StateKey: &empty, Sender: id.User(victim),
		Content: []byte(`{"topic":"by one who is banned, for all that is known"}`)}, ban)
	name := a.forgeAfter(st, event.Draft{Type: "m.room.name", StateKey: &empty, Sender: anna, Content: []byte(`{"name":"a fork"}`)}, on)
	for _, pdu := range []*event.PDU{ban, topic, name} {
		b.receive(roomID, one, pdu.JSON)
	}
	if e := b.event(roomID, topic.ID); e.Flags&roomdb.Rejected == 0 {
		t.Fatal("the topic was not refused")
	}
	must[*roomv1.SendResponse](t)(b.setState(roomID, bert, typeMember, bert, `{"membership":"join","displayname":"Bert"}`))
	p.release()
	b.whole(roomID)
	now := b.state(roomID)
	if now["m.room.topic|"] != topic.ID || now["m.room.name|"] != name.ID || now["m.room.member|"+victim] != st["m.room.member|"+victim] {
		t.Fatalf("state %v", now)
	}
	b.checkResolved(roomID)
	b.auditSplit(t, roomID)
}
