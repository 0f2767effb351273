package resolve_test

import (
	"context"
	gomaps "maps"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/matrix/stateres"
	"hanse/pkg/matrix/stateres/roomgen"
	"hanse/pkg/resolve"
	"hanse/pkg/state"
)

// drawn lets rapid choose, and shrink, what a generator does.
type drawn struct{ t *rapid.T }

func (d drawn) IntN(n int) int { return rapid.IntRange(0, n-1).Draw(d.t, "") }

// states is how many states are resolved: mostly few, seldom so many that more are different than a word has bits.
func states(rand roomgen.Rand) int {
	switch rand.IntN(16) {
	case 0:
		return 2 + rand.IntN(20)
	case 1:
		return 2 + rand.IntN(150)
	}
	return 2 + rand.IntN(3)
}

// The result is the oracle's in rooms in which servers claim what they like.
func wildRoom(t *rapid.T) {
	version := rapid.SampledFrom(roomversion.Supported()).Draw(t, "version")
	compareWild(t, drawn{t}, version)
}

func compareWild(t rapid.TB, rand roomgen.Rand, version string) {
	t.Helper()
	w, err := roomgen.NewWild(rand, version, 5+rand.IntN(50))
	if err != nil {
		t.Fatal(err)
	}
	r, err := newGraphed(w.Rules, w.Events, w)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := r.compare(w.States(states(rand))); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWildRooms(t *testing.T) { rapid.Check(t, wildRoom) }

// The result is the oracle's in rooms of servers that keep to the rules, with the states of branches, and with mixed ones.
func honestRoom(t *rapid.T) {
	version := rapid.SampledFrom(roomversion.Supported()).Draw(t, "version")
	compareHonest(t, drawn{t}, version)
}

func compareHonest(t rapid.TB, rand roomgen.Rand, version string) {
	t.Helper()
	g, err := roomgen.Random(rand, roomgen.Config{Version: version, Events: 30})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		g.Reject(g.Events[rand.IntN(len(g.Events))].ID)
	}
	r, err := newGraphed(g.Rules, g.Events, g)
	if err != nil {
		t.Fatal(err)
	}
	for _, sets := range [][]stateres.Set{g.Branches(states(rand)), g.MixedStates(states(rand)), g.States()} {
		if _, err := r.compare(sets); err != nil {
			t.Fatal(err)
		}
	}
}

func TestHonestRooms(t *testing.T) { rapid.Check(t, honestRoom) }

// TestManyRooms draws seeds only, which makes it quick: -rapid.checks=20000 compares 240,000 rooms.
func TestManyRooms(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		for _, version := range roomversion.Supported() {
			compareWild(t, rng, version)
		}
	})
}

// The verdicts that a resolution says it depends on are all: those on other events may be any.
func TestVerdicts(t *testing.T) {
	asked, depends := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 2))
		for _, version := range roomversion.Supported() {
			w, err := roomgen.NewWild(rng, version, 5+rng.IntN(50))
			if err != nil {
				t.Fatal(err)
			}
			r, err := newGraphed(w.Rules, w.Events, w)
			if err != nil {
				t.Fatal(err)
			}
			sets := w.States(2 + rng.IntN(3))
			want, stats, err := r.resolve(sets)
			if err != nil {
				t.Fatal(err)
			}
			r.flipped = make(map[int64]bool)
			for nid, eventID := range r.byNID {
				if rejected, ok := stats.Verdicts[nid]; !ok {
					r.flipped[nid] = rng.IntN(2) == 0
				} else if rejected != w.Rejected(eventID) {
					t.Fatalf("%s: rejected %v", eventID, rejected)
				}
			}
			if got, _, err := r.resolve(sets); err != nil || !gomaps.Equal(got, want) {
				t.Fatalf("version %s: with other verdicts on events that do not matter: %s, %v", version, differences(got, want), err)
			}
			r.flipped = make(map[int64]bool)
			for nid := range stats.Verdicts {
				r.flipped[nid] = true
			}
			if got, _, err := r.resolve(sets); err != nil {
				t.Fatal(err)
			} else if asked++; !gomaps.Equal(got, want) {
				depends++
			}
		}
	})
	t.Logf("in %d of %d resolutions the verdicts mattered", depends, asked)
	if depends == 0 {
		t.Errorf("no verdict mattered in any of %d resolutions", asked)
	}
}

// The result is the oracle's in rooms of some size, too, whose states are trees; and in version 12 where all states lack
// the create event, which only the room ID names.
func TestLargeRooms(t *testing.T) {
	for _, version := range roomversion.Supported() {
		for _, k := range []int{2, 3, 70} {
			r := newLarge(version, 150, 20)
			maps := r.forks(k, 75)
			r.compare(t, maps)
			for i := range maps {
				maps[i] = maps[i].Delete(state.Key{Type: "m.room.create"})
			}
			if r.rules.RoomIDIsCreateHash {
				r.compare(t, maps)
			}
		}
	}
}

func (r *large) compare(t *testing.T, maps []state.Map) {
	t.Helper()
	want, err := stateres.Resolve(r.rules, r.sets(maps), r)
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := r.resolve(context.Background(), maps, resolve.Budget{})
	if err != nil {
		t.Fatal(err)
	}
	if got := r.sets([]state.Map{m})[0]; !gomaps.Equal(got, want) {
		t.Errorf("version %s, %d states: %s", r.rules.Version, len(maps), differences(got, want))
	}
}
