package room

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/view"
	roomv1 "hanse/proto/room/v1"
)

// Ten thousand forward extremities (2,000 unless HANSE_FULL is set): all are taken in, and while nobody writes to the room
// they are merged.
func TestExtremityPileUp(t *testing.T) {
	h := newHostile(t, "12")
	before := h.a.state(h.room)
	forks, most := 2000, 0
	if os.Getenv("HANSE_FULL") != "" {
		forks = 10_000
	}
	all := forge(t, h.b, h.room, h.on, forks)
	for some := range slices.Chunk(all, 50) {
		h.a.take(h.room, two, some...)
		most = max(most, len(h.a.room(h.room).Extremities))
	}
	if most > crowdedExtremities+1 {
		t.Errorf("there were %d extremities", most)
	}
	waitFor(t, func() bool { return len(h.a.room(h.room).Extremities) <= mergeAbove })
	came := make(map[id.Event]int)
	for _, e := range h.a.timeline(h.room) {
		came[e.ID]++
	}
	for _, p := range all {
		if came[p.ID] != 1 {
			t.Fatalf("%s came %d times", p.ID, came[p.ID])
		}
	}
	h.goesOn(before)
}

// Where no local user may merge, extremities that only add to the others are not taken in; an event that names some is.
func TestExtremitiesThatNobodyMerges(t *testing.T) {
	h := newHostile(t, "10")
	ok := must[*roomv1.SendResponse](t)
	ok(h.a.setState(h.room, anna, "m.room.power_levels", "",
		`{"users":{"@anna:one.test":50,"@bert:two.test":100},"events":{"org.matrix.dummy_event":100}}`))
	h.hear()
	h.on = h.b.last(h.room)
	before := h.a.state(h.room)
	refused := 0
	all := forge(t, h.b, h.room, h.on, maxExtremities+40)
	for some := range slices.Chunk(all, 50) {
		for _, r := range h.a.receive(h.room, two, jsons(some)...) {
			if r.Error != "" {
				refused++
			}
		}
	}
	if n := len(h.a.room(h.room).Extremities); n != maxExtremities || refused != 40 {
		t.Errorf("%d extremities, %d refused", n, refused)
	}
	var some []id.Event
	for _, p := range all[:maxPrev] {
		some = append(some, p.ID)
	}
	h.a.take(h.room, two, h.message(h.on.Depth+2, some...)) // merges extremities
	if n := len(h.a.room(h.room).Extremities); n != maxExtremities-maxPrev+1 {
		t.Errorf("%d extremities after a merge", n)
	}
	h.goesOn(before)
}

// Depths are what their senders say (server-server API, "PDUs"): jumps of any size change nothing but the depth.
func TestDepthJumps(t *testing.T) {
	h := newHostile(t, "11")
	before := h.a.state(h.room)
	var sent []id.Event
	prev := h.on.ID
	for _, depth := range []int64{h.on.Depth + 100_000, 1, maxDepth, maxDepth, 0, 7} {
		pdu := h.message(depth, prev)
		h.a.take(h.room, two, pdu)
		must[*roomv1.SendResponse](t)(h.a.say(h.room, anna, "after it"))
		sent, prev = append(sent, pdu.ID), pdu.ID
	}
	// A gap whose depths lie is still filled in the order of the graph.
	first := h.message(900, prev)
	second := h.message(3, first.ID)
	last := h.message(1, second.ID)
	h.n.lie(map[string]func([]string, url.Values) any{"get_missing_events": pdus("events", second, first)})
	defer h.n.lie(nil)
	h.a.take(h.room, two, last)
	if n := h.n.askedFor("state_ids"); n != 0 {
		t.Errorf("%d states were asked for", n)
	}
	var got []id.Event
	for _, e := range h.a.timeline(h.room) {
		if e.Sender == bert && e.StateKey == nil {
			got = append(got, e.ID)
		}
	}
	if !slices.Equal(got, append(sent, first.ID, second.ID, last.ID)) {
		t.Errorf("timeline %v", got)
	}
	h.goesOn(before)
}

// A fork grows from the past of a room in which much has happened since: each event is judged, seen and answered for by
// the state before it in its own branch ("Room history visibility"; "State resolution").
func TestDeepFork(t *testing.T) {
	for _, version := range []string{"9", "12"} {
		h := newHostile(t, version)
		ok := must[*roomv1.SendResponse](t)
		ok(h.a.setState(h.room, anna, "m.room.history_visibility", "", `{"history_visibility":"joined"}`))
		h.hear()
		h.on = h.b.last(h.room)
		rules := h.b.state(h.room)["m.room.join_rules|"]
		depth := 300
		if testing.Short() {
			depth = 50
		}
		const adam = "@adam:one.test"
		ok(h.a.join(h.room, adam))
		ok(h.a.setState(h.room, anna, "m.room.history_visibility", "", `{"history_visibility":"shared"}`))
		for i := range depth {
			ok(h.a.setState(h.room, anna, "m.room.topic", "", fmt.Sprintf(`{"topic":"%d"}`, i)))
		}
		// Apart from that, on the other side, where adam never came and history is for members only.
		secret := h.message(h.on.Depth+1, h.on.ID)
		renamed := h.state("m.room.member", bert, `{"membership":"join","displayname":"apart"}`, secret.ID, rules)
		branch := []*event.PDU{secret, renamed}
		for range depth {
			branch = append(branch, h.message(h.on.Depth+2, branch[len(branch)-1].ID))
		}
		h.a.take(h.room, two, branch...)
		ctx, room := context.Background(), h.a.room(h.room)
		m, err := h.a.read.State(ctx, room.Part, room.SID)
		if err != nil {
			t.Fatal(err)
		}
		for typ, want := range map[string]string{"m.room.topic": fmt.Sprint(depth - 1), "m.room.member": "apart"} {
			key := map[string]string{"m.room.member": bert}[typ]
			e, err := h.a.read.StateEvent(ctx, room.Part, m, typ, key)
			if err != nil || !strings.Contains(string(e.Content), want) {
				t.Errorf("version %s: %s is %v, %v", version, typ, e, err)
			}
		}
		events := h.a.timeline(h.room)
		seen := make(map[id.Event]bool)
		visible, err := view.Visible(ctx, h.a.read, view.Reader{User: adam, Joined: true, CurrentSID: room.SID}, events)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range visible {
			seen[e.ID] = true
		}
		for _, e := range branch {
			if seen[e.ID] {
				t.Fatalf("version %s: %s of the other branch is shown to who was not in it", version, e.ID)
			}
		}
		topics := 0
		for _, e := range visible {
			if e.Type == "m.room.topic" {
				topics++
			}
		}
		if topics != depth {
			t.Errorf("version %s: %d of %d topics are shown", version, topics, depth)
		}
		must[*roomv1.SendResponse](t)(h.a.say(h.room, anna, "on both"))
		h.a.auditSplit(t, h.room)
	}
}
