package view

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

// world is a room in memory.
type world struct {
	states map[int64]state.Map
	byNID  map[int64]*roomdb.Event
	events []*roomdb.Event // the timeline
	loads  int
}

func (w *world) State(_ context.Context, _ uint32, sid int64) (state.Map, error) {
	w.loads++
	return w.states[sid], nil
}

func (w *world) Events(_ context.Context, _ uint32, nids []int64) (map[int64]*roomdb.Event, error) {
	found := make(map[int64]*roomdb.Event)
	for _, nid := range nids {
		if e := w.byNID[nid]; e != nil {
			found[nid] = e
		}
	}
	return found, nil
}

// literal is the rule of the section "Room history visibility", event by event, with a look at the state before each.
func (w *world) literal(r Reader) []*roomdb.Event {
	var seen []*roomdb.Event
	for _, e := range w.events {
		m := w.states[e.SID]
		history, membership := "shared", ""
		if nid, ok := m.Get(state.Key{Type: "m.room.history_visibility"}); ok {
			history = field(w.byNID[nid], "history_visibility")
		}
		if nid, ok := m.Get(state.Key{Type: "m.room.member", StateKey: string(r.User)}); ok {
			membership = field(w.byNID[nid], "membership")
		}
		permits := func(history, membership string) bool {
			switch {
			case history == "world_readable", membership == "join":
				return true
			case history == "shared":
				return r.Joined || r.JoinedUntil != 0 && e.Place() <= r.JoinedUntil
			case history == "invited":
				return membership == "invite"
			}
			return false
		}
		ok := permits(history, membership)
		switch {
		case e.Is("m.room.history_visibility", ""):
			ok = ok || permits(field(e, "history_visibility"), membership)
		case e.Is("m.room.member", string(r.User)):
			ok = ok || permits(history, field(e, "membership"))
		}
		if ok || r.Joined && r.CurrentSID != 0 && e.SID == r.CurrentSID {
			seen = append(seen, e)
		}
	}
	return seen
}

func field(e *roomdb.Event, name string) string {
	var content map[string]string
	if err := json.Unmarshal(e.Content, &content); err != nil {
		panic(err)
	}
	return content[name]
}

// tip is an end of the graph that is being made.
type tip struct {
	nid   int64
	after int64 // snapshot behind it
}

// build makes a room of n events: mostly a line, now and then a fork, and merges whose state is that of either side.
func build(rng *rand.Rand, n int) *world {
	w := &world{states: map[int64]state.Map{0: {}}, byNID: make(map[int64]*roomdb.Event)}
	tips := []tip{{}}
	users := []id.User{"@a:x", "@b:x"}
	for i := range n {
		e := &roomdb.Event{PDU: &event.PDU{ID: id.Event(fmt.Sprint("$", i))}, NID: int64(100 + i), Ord: int64(i + 1)}
		at := rng.IntN(len(tips))
		prev := tips[at]
		e.SID = prev.after
		set := func(typ, key string, content map[string]string) {
			e.Type, e.StateKey = typ, &key
			e.Content, _ = json.Marshal(content)
		}
		switch what := rng.IntN(10); {
		case i == 0:
			set("m.room.create", "", map[string]string{})
		case what < 2:
			set("m.room.history_visibility", "", map[string]string{"history_visibility": pick(rng, "shared", "invited", "joined", "world_readable")})
		case what < 5:
			set("m.room.member", string(pick(rng, users...)), map[string]string{"membership": pick(rng, "join", "leave", "invite", "ban")})
		default:
			e.Type, e.Content = "m.room.message", []byte(`{}`)
		}
		if i > 0 {
			e.Prev, e.PrevEvents = []int64{prev.nid}, []id.Event{"$prev"}
		}
		if i > 0 && rng.IntN(12) == 0 { // one that we lack came before it as well, and another server told the state
			e.PrevEvents = append(e.PrevEvents, "$lacking")
			e.SID = pick(rng, slices.Sorted(maps.Keys(w.states))...)
		}
		merged := len(tips) > 1 && rng.IntN(2) == 0
		if merged {
			other := tips[1-at%2]
			e.Prev, e.PrevEvents = append(e.Prev, other.nid), append(e.PrevEvents, "$other")
			e.SID = pick(rng, prev.after, other.after)
		}
		if e.SID == 0 && i > 0 {
			e.SID = 1
			w.states[1] = state.Map{}
		}
		after := e.SID
		if e.StateKey != nil {
			after = int64(1000 + i)
			w.states[after] = w.states[e.SID].Set(state.Key{Type: e.Type, StateKey: *e.StateKey}, e.NID)
		}
		next := tip{e.NID, after}
		switch {
		case merged:
			tips = []tip{next}
		case len(tips) == 1 && rng.IntN(8) == 0:
			tips = append(tips, next)
		default:
			tips[at] = next
		}
		w.byNID[e.NID] = e
		if rng.IntN(20) > 0 { // the timeline may lack some: a filter, or one that was refused
			w.events = append(w.events, e)
		}
	}
	return w
}

func pick[T any](rng *rand.Rand, of ...T) T { return of[rng.IntN(len(of))] }

// Client-server API, "Room history visibility": what follows from one event to the next is what a look at each state
// says, whoever reads; and what somebody may see who was no member at any event, every member may see.
func TestVisibleIsTheLiteralRule(t *testing.T) {
	for seed := range uint64(3000) {
		rng := rand.New(rand.NewPCG(seed, 1))
		w := build(rng, 2+rng.IntN(40))
		if len(w.events) == 0 {
			continue
		}
		r := Reader{User: "@a:x", Joined: rng.IntN(2) == 0}
		if r.Joined && rng.IntN(2) == 0 {
			r.CurrentSID = w.events[rng.IntN(len(w.events))].SID
		}
		if !r.Joined {
			r.JoinedUntil = roomdb.At(int64(rng.IntN(40)))
		}
		got, err := visible(context.Background(), w, r, w.events)
		if err != nil {
			t.Fatal(err)
		}
		if want := w.literal(r); !slices.Equal(got, want) {
			t.Fatalf("seed %d, %+v: sees %v, want %v", seed, r, ords(got), ords(want))
		}
		open, err := visible(context.Background(), w, Reader{Joined: true}, w.events)
		if err != nil {
			t.Fatal(err)
		}
		member := w.literal(Reader{User: "@a:x", Joined: true})
		for _, e := range open {
			if !slices.Contains(member, e) {
				t.Fatalf("seed %d: everybody sees %d, but a member does not", seed, e.Ord)
			}
		}
	}
}

func ords(events []*roomdb.Event) []int64 {
	out := make([]int64, len(events))
	for i, e := range events {
		out[i] = e.Ord
	}
	return out
}

// Bases names what Visible looks into: for a line, one snapshot.
func TestBases(t *testing.T) {
	for seed := range uint64(500) {
		rng := rand.New(rand.NewPCG(seed, 2))
		w := build(rng, 30)
		bases := Bases(w.events)
		w.loads = 0
		if _, err := visible(context.Background(), w, Reader{Joined: true}, w.events); err != nil {
			t.Fatal(err)
		}
		slices.Sort(bases)
		if w.loads != len(slices.Compact(bases)) {
			t.Fatalf("seed %d: looks into %d snapshots, Bases names %d", seed, w.loads, len(bases))
		}
	}
	line := build(rand.New(rand.NewPCG(1, 2)), 1)
	for i := range 20 {
		line.events = append(line.events, &roomdb.Event{
			PDU: &event.PDU{Type: "m.room.message", PrevEvents: []id.Event{"$"}}, SID: 7, NID: int64(101 + i), Ord: int64(i + 2), Prev: []int64{int64(100 + i)},
		})
	}
	if bases := Bases(line.events); len(bases) != 0 {
		t.Errorf("a room from its beginning needs no look, not %v", bases)
	}
}
