package stateres_test

import (
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/matrix/stateres"
	"hanse/pkg/matrix/stateres/roomgen"
)

// drawn lets rapid choose, and shrink, what a generator does.
type drawn struct{ t *rapid.T }

func (d drawn) IntN(n int) int { return rapid.IntRange(0, n-1).Draw(d.t, "") }

func drawRoom(t *rapid.T, events int) *roomgen.Generator {
	version := rapid.SampledFrom(roomversion.Supported()).Draw(t, "version")
	g, err := roomgen.Random(drawn{t}, roomgen.Config{Version: version, Events: events})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func drawSets(t *rapid.T, g *roomgen.Generator) []stateres.Set {
	n := rapid.IntRange(2, 4).Draw(t, "sets")
	if rapid.Bool().Draw(t, "mixed") {
		return g.MixedStates(n)
	}
	return g.Branches(n)
}

func mustResolve(t rapid.TB, g *roomgen.Generator, sets []stateres.Set) stateres.Set {
	t.Helper()
	s, err := stateres.Resolve(g.Rules, sets, g)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The resolution is of a set of states: neither their order nor repetition
// matters, nor does Resolve change them.
func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := drawRoom(t, 25)
		sets := drawSets(t, g)
		var before []stateres.Set
		for _, s := range sets {
			before = append(before, maps.Clone(s))
		}
		want := mustResolve(t, g, sets)
		for i := range sets {
			if !maps.Equal(sets[i], before[i]) {
				t.Fatalf("set %d was changed", i)
			}
		}
		shuffled := rapid.Permutation(append(slices.Clone(sets), sets[0])).Draw(t, "order")
		if got := mustResolve(t, g, shuffled); !maps.Equal(got, want) {
			t.Fatalf("%v, want %v", got, want)
		}
	})
}

// Equal states resolve to themselves.
func TestResolveOfEqualSetsIsIdentity(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := drawRoom(t, 15)
		s := g.After[g.Events[rapid.IntRange(0, len(g.Events)-1).Draw(t, "at")].ID]
		n := rapid.IntRange(1, 4).Draw(t, "n")
		if got := mustResolve(t, g, slices.Repeat([]stateres.Set{s}, n)); !maps.Equal(got, s) {
			t.Fatalf("%v, want %v", got, s)
		}
	})
}

// What all states agree on stays; nothing appears that is not in a state or, in
// v2, in its auth chain; every event stands under its own key.
func TestResultIsMadeOfTheInput(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := drawRoom(t, 25)
		sets := drawSets(t, g)
		got := mustResolve(t, g, sets)
		for k, e := range sets[0] {
			if agreed(sets, k, e) && got[k] != e {
				t.Fatalf("%v: %s, but all have %s", k, got[k], e)
			}
		}
		known := chains(t, g, sets)
		for k, e := range got {
			ev, err := g.Event(e)
			if err != nil || ev.Tuple() != k {
				t.Fatalf("%v: %s (%v)", k, e, err)
			}
			if !known[e] {
				t.Fatalf("%v: %s comes from nowhere", k, e)
			}
		}
	})
}

func agreed(sets []stateres.Set, k event.Tuple, e id.Event) bool {
	for _, s := range sets {
		if s[k] != e {
			return false
		}
	}
	return true
}

func chains(t rapid.TB, g *roomgen.Generator, sets []stateres.Set) map[id.Event]bool {
	known := map[id.Event]bool{}
	var work []id.Event
	for _, s := range sets {
		work = slices.AppendSeq(work, maps.Values(s))
	}
	for len(work) > 0 {
		e := work[len(work)-1]
		work = work[:len(work)-1]
		if known[e] {
			continue
		}
		known[e] = true
		ev, err := g.Event(e)
		if err != nil {
			t.Fatal(err)
		}
		work = append(work, ev.AuthEvents...)
	}
	return known
}

// The result is authorised: what was in conflict and came out is allowed by the
// auth events that it was checked with in the resolution, which are those of
// the result or its own.
func TestResultIsAuthorised(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := drawRoom(t, 25)
		if g.Rules.StateRes == 1 {
			return // v1 falls back on events that are not
		}
		got := mustResolve(t, g, g.Branches(2))
		for k, e := range got {
			ev, err := g.Event(e)
			if err != nil {
				t.Fatal(err)
			}
			own := auth.Events{g.Create}
			for _, a := range ev.AuthEvents {
				aev, err := g.Event(a)
				if err != nil {
					t.Fatal(err)
				}
				own = append(own, aev)
			}
			if err := auth.Check(ev, own, auth.Options{}); err != nil {
				t.Fatalf("%v: %s is not allowed by its auth events: %v", k, e, err)
			}
		}
	})
}

// A missing event is an error that names it, whichever it is.
func TestMissingEvents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := drawRoom(t, 20)
		sets := drawSets(t, g)
		gone := g.Events[rapid.IntRange(0, len(g.Events)-1).Draw(t, "gone")].ID
		want := mustResolve(t, g, sets)
		got, err := stateres.Resolve(g.Rules, sets, without{g, gone})
		var missing *stateres.MissingError
		switch {
		case err == nil:
			if !maps.Equal(got, want) {
				t.Fatalf("%v, want %v", got, want)
			}
		case !errors.As(err, &missing) || !errors.Is(err, stateres.ErrMissing):
			t.Fatalf("not a missing event: %v", err)
		case !slices.Equal(missing.IDs, []id.Event{gone}):
			t.Fatalf("missing %v, want %s", missing.IDs, gone)
		}
	})
}

type without struct {
	stateres.Source
	gone id.Event
}

func (w without) Event(e id.Event) (*event.PDU, error) {
	if e == w.gone {
		return nil, nil
	}
	return w.Source.Event(e)
}

// A source that fails is not a missing event.
func TestSourceError(t *testing.T) {
	g, err := roomgen.Random(rand.New(rand.NewPCG(1, 2)), roomgen.Config{Version: "11"})
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("disk")
	_, err = stateres.Resolve(g.Rules, g.MixedStates(3), failing{g, broken})
	if !errors.Is(err, broken) || errors.Is(err, stateres.ErrMissing) {
		t.Errorf("%v", err)
	}
}

type failing struct {
	stateres.Source
	err error
}

func (f failing) Event(id.Event) (*event.PDU, error) { return nil, f.err }

func TestNothingToResolve(t *testing.T) {
	rules, _ := roomversion.Get("11")
	if s, err := stateres.Resolve(rules, nil, nil); err != nil || len(s) != 0 {
		t.Errorf("%v, %v", s, err)
	}
}
