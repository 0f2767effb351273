package room

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"testing"

	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/merr"
	roomv1 "hanse/proto/room/v1"
)

// Server-server API, "Retrieving missing events" and "Retrieves a snapshot of a room's state": a server that leaves three
// members out of the states that it tells, and answers get_missing_events with one event twenty times, does not make us
// lose these members while others in the room know them; whether the gap can be filled whole or not.
func TestStateToldWrongly(t *testing.T) {
	for _, missed := range []int{5, 2 * missingLimit} {
		t.Run(fmt.Sprint(missed, " events missed"), func(t *testing.T) {
			n := newNetwork()
			a, b, c := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1), newFedCluster(t, n, three, 1)
			ok := must[*roomv1.SendResponse](t)
			roomID := a.create(roomversion.Default, anna, "public")
			ok(b.join(roomID, bert, string(one)))
			carl := "@carl:three.test"
			ok(c.join(roomID, carl, string(one)))
			c.whole(roomID)
			head := a.room(roomID).LastPos
			carry(c, b, three, roomID, 0)

			// What three does not hear of.
			left := make(map[id.Event]bool)
			for i := range 3 {
				joined := ok(a.join(roomID, fmt.Sprintf("@m%d:one.test", i)))
				left[id.Event(joined.EventIds[0])] = true
			}
			for i := range missed - 3 {
				ok(a.say(roomID, anna, fmt.Sprint("missed ", i)))
			}
			carry(a, b, one, roomID, head)
			said := ok(b.say(roomID, bert, "heard"))

			heard := b.event(roomID, id.Event(said.EventIds[0]))
			n.mu.Lock()
			n.liar = two
			n.mu.Unlock()
			n.lie(map[string]func([]string, url.Values) any{
				"get_missing_events": func([]string, url.Values) any {
					events := make([]json.RawMessage, missingLimit)
					for i := range events {
						events[i] = heard.JSON
					}
					return map[string]any{"events": events}
				},
				"state_ids": func(args []string, q url.Values) any {
					var told []id.Event
					for _, e := range b.state(roomID) {
						if !left[e] && e != heard.ID {
							told = append(told, e)
						}
					}
					return map[string]any{"pdu_ids": told, "auth_chain_ids": told}
				},
			})
			c.take(roomID, two, heard.PDU)
			sameState(t, a, c, roomID)
			ok(c.say(roomID, carl, "afterwards"))
			carry(c, a, three, roomID, 0)
			sameState(t, a, c, roomID)
		})
	}
}

// Server-server API, "Backfilling and retrieving missing events": a server that leaves a member out of the state before the history
// that it tells does not make us refuse what that member said there, while others in the room know better. What they told is noted,
// and is judged again when the history before it is here.
func TestBackfillStateToldWrongly(t *testing.T) {
	n := newNetwork()
	n.setOmit(false)
	a, b, c := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1), newFedCluster(t, n, three, 1)
	ok := must[*roomv1.SendResponse](t)
	roomID := a.create(roomversion.Default, anna, "public")
	ok(b.join(roomID, bert, string(one)))
	left := id.Event(ok(a.join(roomID, "@m0:one.test")).EventIds[0])
	for i := range 25 {
		ok(a.say(roomID, "@m0:one.test", fmt.Sprint("said ", i)))
	}
	ok(c.join(roomID, caro, string(one)))
	carry(a, b, one, roomID, 0)

	n.refuse(two, "backfill", merr.Forbidden("not you"))
	n.mu.Lock()
	n.liar = one
	n.mu.Unlock()
	n.lie(map[string]func([]string, url.Values) any{"state_ids": func(_ []string, q url.Values) any {
		e := a.event(roomID, id.Event(q.Get("event_id")))
		var told []id.Event
		before, err := a.read.State(t.Context(), a.room(roomID).Part, e.SID)
		if err != nil {
			t.Error(err)
		}
		events, err := a.read.StateEvents(t.Context(), a.room(roomID).Part, before.All())
		if err != nil {
			t.Error(err)
		}
		for _, e := range events {
			if e.ID != left {
				told = append(told, e.ID)
			}
		}
		return map[string]any{"pdu_ids": told, "auth_chain_ids": told}
	}})
	err := c.call(t.Context(), roomID, func(ctx context.Context, r roomv1.RoomClient) error {
		_, err := r.Backfill(ctx, &roomv1.BackfillRequest{RoomId: roomID, Limit: 10})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.rows("told_event") == 0 {
		t.Error("nothing notes that the state was told")
	}
	backfillAll(t, c, roomID)
	inOrder(t, a, c, roomID)
	waitFor(t, func() bool { return c.rows("told_event") == 0 })
	sameStates(t, a, c, roomID)
}
