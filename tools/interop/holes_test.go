//go:build interop

package interop

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"hanse/tools/mxclient"
)

// More happens while Hanse hears nothing than a server tells at once of what is missing (client-server API, "Syncing", "Getting
// events for a room"; server-server API, "Retrieving missing events"). Both sides' people read the same then by paging, in the same
// order, and know the same members. It runs on demand (INTEROP_HOLES=1): Synapse backs off from a server that was away, and has not
// yet been seen to come back within the time that a scenario has.
func TestHistoryThatHanseDidNotHear(t *testing.T) {
	if os.Getenv("INTEROP_HOLES") == "" {
		t.Skip("runs on demand: INTEROP_HOLES=1")
	}
	for _, n := range []int{45, 160} { // which asking again makes good, and which it does not
		h, s := sides()
		owner, guest, third := newPerson(t, s), newPerson(t, h), newPerson(t, s)
		room := enter(t, owner, guest, "11", "public")
		third.joins(t, room, owner)
		first := owner.say(t, room, "before")
		guest.sees(t, room, first)
		cut(t)
		for i := range n {
			owner.say(t, room, fmt.Sprint("unheard ", i))
			if i == n/2 {
				owner.must(t, "ban", owner.Ban(t.Context(), room, third.id, ""))
			}
		}
		heal(t)
		last := ""
		wake := time.NewTicker(2 * time.Second)
		defer wake.Stop()
		eventually(t, "the guest hears again", func() error {
			select {
			case <-wake.C:
				guest.say(t, room, "hello?") // Synapse tries a server again that it hears from
				last = owner.say(t, room, "are you there?")
			default:
			}
			if last == "" {
				return fmt.Errorf("nothing said yet")
			}
			_, err := guest.Event(t.Context(), room, last)
			return err
		})
		guest.sees(t, room, last)
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
