package room

import (
	"encoding/json"
	"fmt"
	"net/url"
	"testing"

	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
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
