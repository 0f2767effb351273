//go:build interop

package interop

import (
	"fmt"
	"testing"
	"time"

	"hanse/tools/mxclient"
)

// The tests of this file stop servers that the others need: they run alone.

// cut lets nothing of federation in or out of Hanse: its proxy refuses, and nobody is there who could send.
func cut(t *testing.T) {
	t.Helper()
	hanse.CutFederation(true)
	for i := range hanse.Replicas("fedout") {
		if err := hanse.Terminate("fedout", i); err != nil {
			t.Fatal(err)
		}
	}
}

func heal(t *testing.T) {
	t.Helper()
	for i := range hanse.Replicas("fedout") {
		if err := hanse.Launch(t.Context(), "fedout", i); err != nil {
			t.Fatal(err)
		}
	}
	hanse.CutFederation(false)
}

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
	for _, e := range missed {
		guest.sees(t, room, e)
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

// A fork: both sides write state while they are apart, and resolve it alike (room versions, "State resolution").
func TestForkResolvesAlike(t *testing.T) {
	for _, version := range []string{"10", "11", "12"} {
		t.Run("version "+version, func(t *testing.T) {
			h, s := sides()
			owner, guest := newPerson(t, h), newPerson(t, s)
			room, err := owner.CreateRoom(t.Context(), mxclient.NewRoom{RoomVersion: version, Preset: "public_chat"})
			owner.must(t, "create", err)
			guest.joins(t, room, owner)
			levels := map[string]any{"users": map[string]int{owner.id: 100, guest.id: 50}, "state_default": 50, "users_default": 0}
			if version == "12" {
				levels["users"] = map[string]int{guest.id: 50}
			}
			changed, err := owner.SendState(t.Context(), room, "m.room.power_levels", "", levels)
			owner.must(t, "give power", err)
			guest.sees(t, room, changed)
			cut(t)
			for i := range 3 {
				_, err := owner.SendState(t.Context(), room, "m.room.name", "", map[string]string{"name": fmt.Sprint("Hanse's ", i)})
				owner.must(t, "name", err)
				_, err = guest.SendState(t.Context(), room, "m.room.name", "", map[string]string{"name": fmt.Sprint("Synapse's ", i)})
				guest.must(t, "name", err)
				_, err = guest.SendState(t.Context(), room, "m.room.topic", "", map[string]string{"topic": fmt.Sprint("Synapse's ", i)})
				guest.must(t, "topic", err)
			}
			// The owner takes the guest's power away meanwhile: what the guest did may not stand.
			levels["users"] = map[string]int{owner.id: 100, guest.id: 0}
			if version == "12" {
				levels["users"] = map[string]int{guest.id: 0}
			}
			_, err = owner.SendState(t.Context(), room, "m.room.power_levels", "", levels)
			owner.must(t, "take power", err)
			heal(t)
			a := owner.say(t, room, "together again")
			guest.say(t, room, "indeed")
			guest.sees(t, room, a)
			sameState(t, room, owner, guest)
		})
	}
}
