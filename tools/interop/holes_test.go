//go:build interop

package interop

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"hanse/tools/mxclient"
)

// More happens while Hanse hears nothing than a server tells at once of what is missing (client-server API, "Syncing", "Getting
// events for a room"; server-server API, "Retrieving missing events"). Both sides' people read the same then by paging, in the same
// order, and know the same members. Synapse is started again meanwhile: it has forgotten then what it had not sent, and sends the
// newest event only.
func TestHistoryThatHanseDidNotHear(t *testing.T) {
	for _, n := range []int{45, 160} { // which asking again makes good, and which it does not
		h, s := sides()
		owner, guest, rival := newPerson(t, s), newPerson(t, h), newPerson(t, s)
		room := enter(t, owner, guest, "11", "public")
		rival.joins(t, room, owner)
		guest.sees(t, room, owner.say(t, room, "before"))
		q := mxclient.SyncRequest{Filter: `{"room":{"timeline":{"limit":300}}}`}
		before, err := guest.Sync(t.Context(), q)
		guest.must(t, "sync", err)
		cut(t)
		for i := range n {
			owner.say(t, room, fmt.Sprint("unheard ", i))
			if i == n/2 {
				owner.must(t, "ban", owner.Ban(t.Context(), room, rival.id, ""))
			}
		}
		if err := other.stop(); err != nil {
			t.Fatal(err)
		}
		if err := other.start(t.Context()); err != nil {
			t.Fatal(err)
		}
		heal(t)
		guest.say(t, room, "hello?") // Synapse tries a server again that it hears from
		last := ""
		wake := time.NewTicker(2 * time.Second)
		defer wake.Stop()
		eventually(t, "the guest hears again", func() error {
			select {
			case <-wake.C:
				last = owner.say(t, room, "are you there?")
			default:
			}
			_, err := guest.Event(t.Context(), room, last)
			return err
		})
		guest.sees(t, room, last)
		q.Since = before.NextBatch
		answer, err := guest.Sync(t.Context(), q)
		guest.must(t, "sync", err)
		timeline := answer.Rooms.Join[room].Timeline
		if hole := n > 100; timeline.Limited != hole || !hole && len(timeline.Events) < n {
			t.Errorf("of %d messages Hanse's person is told %d, limited %t", n, len(timeline.Events), timeline.Limited)
		}
		there, here := messagesOf(t, owner, room), messagesOf(t, guest, room)
		if len(there) < n || !slices.Equal(there, here) {
			t.Fatalf("of %d messages Synapse's person reads %d and Hanse's %d, or in another order:\n%v\n%v", n, len(there), len(here), there, here)
		}
		sameMembers(t, room, []string{owner.id, guest.id}, owner, guest)
		sameState(t, room, owner, guest)
	}
}

// messagesOf returns what a person reads of a room by paging from the end to the beginning, the oldest first.
func messagesOf(t *testing.T, p *person, room string) []string {
	t.Helper()
	events, err := p.History(t.Context(), room, "", nil)
	p.must(t, "read the history", err)
	var out []string
	for _, e := range events {
		if body := bodyOf(t, e); strings.HasPrefix(body, "unheard") || body == "before" {
			out = append(out, body)
		}
	}
	return out
}

func bodyOf(t *testing.T, e mxclient.Event) string {
	t.Helper()
	var content struct {
		Body string `json:"body"`
	}
	if e.Type != "m.room.message" {
		return ""
	}
	if err := json.Unmarshal(e.Content, &content); err != nil {
		t.Fatal(err)
	}
	return content.Body
}
