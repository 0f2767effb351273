//go:build interop

package interop

import (
	"fmt"
	"testing"
	"time"
)

// The tests of this file stop servers that the others need: they run alone.

// One side down and back: it gets everything (server-server API, "Transactions"; issue: outgoing queues as cursors).
func TestSynapseDownAndBack(t *testing.T) {
	h, s := sides()
	owner, guest := newPerson(t, h), newPerson(t, s)
	room := enter(t, owner, guest, "11", "public")
	if err := other.stop(); err != nil {
		t.Fatal(err)
	}
	var missed []string
	for i := range 30 {
		missed = append(missed, owner.say(t, room, fmt.Sprint("while you were away ", i)))
	}
	if err := other.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Word of somebody being back travels with the next request from either side.
	guest.say(t, room, "I am back")
	for _, e := range missed { // a sync may leave some of so many out
		eventually(t, "missed message "+e, func() error { _, err := guest.Event(t.Context(), room, e); return err })
	}
	sameState(t, room, owner, guest)
}

// Hanse cut off and back.
func TestHanseCutOffAndBack(t *testing.T) {
	h, s := sides()
	owner, guest := newPerson(t, s), newPerson(t, h)
	room := enter(t, owner, guest, "11", "public")
	cut(t)
	var missed []string
	for i := range 12 {
		missed = append(missed, owner.say(t, room, fmt.Sprint("while you were away ", i)))
	}
	heal(t)
	wake := time.NewTicker(2 * time.Second)
	defer wake.Stop()
	for _, e := range missed {
		eventually(t, "missed message "+e, func() error {
			select {
			case <-wake.C:
				owner.say(t, room, "are you there?")
			default:
			}
			_, err := guest.Event(t.Context(), room, e)
			return err
		})
	}
	sameState(t, room, owner, guest)
}
