package resolve_test

import (
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/matrix/stateres"
	"hanse/pkg/matrix/stateres/roomgen"
)

// drawn lets rapid choose, and shrink, what a generator does.
type drawn struct{ t *rapid.T }

func (d drawn) IntN(n int) int { return rapid.IntRange(0, n-1).Draw(d.t, "") }

// states is how many states are resolved: mostly few, sometimes more than a word has bits.
func states(rand roomgen.Rand) int {
	if rand.IntN(8) == 0 {
		return 2 + rand.IntN(69)
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
