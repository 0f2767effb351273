package resolve_test

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"testing"

	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"hanse/pkg/matrix/event"
	"hanse/pkg/resolve"
	"hanse/pkg/state"
)

func (r *large) resolve(ctx context.Context, maps []state.Map, b resolve.Budget) (state.Map, resolve.Stats, error) {
	return resolve.Resolve(ctx, r.rules, r.g, maps, r, b)
}

// Neither the order of the states nor repetition matters.
func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newLarge(rapid.SampledFrom([]string{"1", "6", "11", "12"}).Draw(t, "version"), 40, 5)
		maps := r.forks(rapid.IntRange(2, 5).Draw(t, "k"), 20)
		want, _, err := r.resolve(context.Background(), maps, resolve.Budget{})
		if err != nil {
			t.Fatal(err)
		}
		shuffled := rapid.Permutation(append(slices.Clone(maps), maps...)).Draw(t, "order")
		got, _, err := r.resolve(context.Background(), shuffled, resolve.Budget{})
		if err != nil || !got.Equal(want) {
			t.Fatalf("%v, want %v (%v)", got.ID(), want.ID(), err)
		}
	})
}

// No state resolves to none, one to itself, without a look at graph or source.
func TestNothingToResolve(t *testing.T) {
	r := newLarge("12", 20, 2)
	if m, _, err := resolve.Resolve(context.Background(), r.rules, nil, nil, nil, resolve.Budget{}); err != nil || m.Len() != 0 {
		t.Errorf("%d entries, %v", m.Len(), err)
	}
	again := state.New(r.now.All())
	if m, _, err := resolve.Resolve(context.Background(), r.rules, nil, []state.Map{r.now, again}, nil, resolve.Budget{}); err != nil || !m.Equal(r.now) {
		t.Errorf("%d entries, %v", m.Len(), err)
	}
}

// The work does not grow with the size of the room, nor with its age if what differs is new: the same forks upon rooms of
// very different kind.
func TestWorkFollowsDifference(t *testing.T) {
	for _, version := range []string{"11", "12"} {
		work := func(n, levels int, newOnly bool) resolve.Stats {
			r := newLarge(version, n, levels)
			r.newOnly = newOnly
			_, stats, err := r.resolve(context.Background(), r.forks(2, 20), resolve.Budget{})
			if err != nil {
				t.Fatal(err)
			}
			return stats
		}
		for _, newOnly := range []bool{true, false} {
			small, large, old := work(100, 10, newOnly), work(5_000, 10, newOnly), work(1_000, 5_000, newOnly)
			if large.Visited > 2*small.Visited || newOnly && old.Visited > 2*small.Visited {
				t.Errorf("version %s: %+v in a small room, %+v in a large one, %+v in an old one", version, small, large, old)
			}
			if max(large.Loaded, old.Loaded) > 2*small.Loaded {
				t.Errorf("version %s: %+v in a small room, %+v in a large one, %+v in an old one", version, small, large, old)
			}
		}
	}
}

// Resolutions of one room may run beside one another.
func TestConcurrent(t *testing.T) {
	r := newLarge("12", 200, 10)
	maps := r.forks(3, 40)
	got := make([]state.Map, 4)
	var group errgroup.Group
	for i := range got {
		group.Go(func() (err error) {
			got[i], _, err = r.resolve(context.Background(), maps, resolve.Budget{})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, m := range got[1:] {
		if !m.Equal(got[0]) {
			t.Error("different results")
		}
	}
}

// Each bound of the budget ends a resolution, which says what it spent.
func TestBudget(t *testing.T) {
	r := newLarge("12", 200, 10)
	maps := r.forks(2, 60)
	_, all, err := r.resolve(context.Background(), maps, resolve.Budget{})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range []resolve.Budget{{Visits: 1}, {Visits: all.Visited - 1}, {Events: 1}, {Events: all.Loaded - 1}} {
		m, spent, err := r.resolve(context.Background(), maps, b)
		var over *resolve.BudgetError
		if !errors.As(err, &over) || !errors.Is(err, resolve.ErrBudget) || m.Len() != 0 {
			t.Errorf("%+v: %v", b, err)
			continue
		}
		if !reflect.DeepEqual(over.Spent, spent) || spent.Conflicted > all.Conflicted || spent.Visited == 0 {
			t.Errorf("%+v: spent %+v, of %+v", b, spent, all)
		}
	}
	if _, _, err := r.resolve(context.Background(), maps, resolve.Budget{Visits: all.Visited, Events: all.Loaded}); err != nil {
		t.Errorf("with all that it needs: %v", err)
	}
}

// A cancelled context ends a resolution, however large, before it reads events.
func TestCancellation(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r := newLarge("11", 3_000, 10)
	_, spent, err := r.resolve(ctx, r.forks(2, 2_500), resolve.Budget{})
	if !errors.Is(err, context.Canceled) || spent.Visited > 5_000 || spent.Loaded != 0 {
		t.Errorf("spent %+v: %v", spent, err)
	}
}

// A fork from the creation of a room, with which nothing is agreed, costs what there is and stops at its budget.
func TestForkFromCreation(t *testing.T) {
	r := newLarge("11", 1_000, 10)
	empty := state.Map{}
	for k, nid := range r.now.All() {
		if k.Type == "m.room.create" {
			empty = empty.Set(k, nid)
		}
	}
	fork := r.send(empty, owner, "m.room.member", string(owner), `{"membership":"join","displayname":"again"}`)
	maps := []state.Map{r.now, fork}
	_, all, err := r.resolve(context.Background(), maps, resolve.Budget{})
	if err != nil {
		t.Fatal(err)
	}
	if all.Visited < 1_000 || all.Visited > 100*r.g.Len() {
		t.Errorf("%+v for %d events", all, r.g.Len())
	}
	if _, _, err := r.resolve(context.Background(), maps, resolve.Budget{Visits: all.Visited / 2}); !errors.Is(err, resolve.ErrBudget) {
		t.Error(err)
	}
}

// deadEnds are two states of which one lacks a number of power levels events, each cited by as many profile changes: none
// of them leads to anything that both states have.
func (r *large) deadEnds(n int) []state.Map {
	fork := r.now
	for range n {
		fork = r.send(fork, owner, "m.room.power_levels", "", r.levels())
		for range n {
			fork = r.profile(fork, r.members[r.rng.IntN(20)])
		}
	}
	// What both have is newer than all that, so its age does not end the search.
	topic := state.Key{Type: "m.room.topic"}
	nid, _ := r.send(r.now, owner, topic.Type, "", `{"topic":"shared"}`).Get(topic)
	other := r.join(r.now, r.newUser(50))
	// The profiles are those of before, so that the storm is in no state.
	for k, before := range r.now.Type("m.room.member") {
		fork = fork.Set(k, before)
	}
	return []state.Map{fork.Set(topic, nid), other.Set(topic, nid)}
}

// Events that cite the difference and lead to nothing that is agreed are visited once, however many of the difference they
// lead back to.
func TestDeadEnds(t *testing.T) {
	r := newLarge("11", 50, 3)
	_, stats, err := r.resolve(context.Background(), r.deadEnds(40), resolve.Budget{})
	if err != nil {
		t.Fatal(err)
	}
	if stats.Full > 100 || stats.Visited < 40*40 || stats.Visited > 10*r.g.Len() {
		t.Errorf("%+v for %d events", stats, r.g.Len())
	}
}

// A state that names an event which the graph does not have, or one of another key, is an error.
func TestContradictions(t *testing.T) {
	r := newLarge("11", 20, 2)
	topic := state.Key{Type: "m.room.topic"}
	for name, c := range map[string]struct {
		fork state.Map
		want error
	}{
		"unknown event":        {r.now.Set(topic, 1<<40), resolve.ErrUnknown},
		"event of another key": {r.now.Set(topic, 2), resolve.ErrMismatch},
	} {
		if _, _, err := r.resolve(context.Background(), []state.Map{r.now, c.fork}, resolve.Budget{}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	other := newLarge("12", 20, 2)
	maps := other.forks(2, 5)
	other.events[0] = &event.PDU{ID: "$other", Type: "m.room.create", StateKey: new(string)}
	if _, _, err := other.resolve(context.Background(), maps, resolve.Budget{}); !errors.Is(err, resolve.ErrMismatch) {
		t.Errorf("create event of another room: %v", err)
	}
}

// sourceFunc is a source of few words.
type sourceFunc func(nids []int64) ([]resolve.Event, error)

func (f sourceFunc) Events(_ context.Context, nids []int64) ([]resolve.Event, error) { return f(nids) }

// A source that fails, or answers something else than was asked for, is an error.
func TestSourceErrors(t *testing.T) {
	r := newLarge("11", 20, 2)
	maps := r.forks(2, 5)
	broken := errors.New("disk")
	topic := &event.PDU{ID: "$x", Type: "m.room.topic", StateKey: new(string)}
	for name, c := range map[string]struct {
		src  sourceFunc
		want error
	}{
		"failure": {func([]int64) ([]resolve.Event, error) { return nil, broken }, broken},
		"too few": {func([]int64) ([]resolve.Event, error) { return make([]resolve.Event, 1), nil }, resolve.ErrMismatch},
		"nil":     {func(nids []int64) ([]resolve.Event, error) { return make([]resolve.Event, len(nids)), nil }, resolve.ErrMismatch},
		"something else": {func(nids []int64) ([]resolve.Event, error) {
			return slices.Repeat([]resolve.Event{{PDU: topic}}, len(nids)), nil
		}, resolve.ErrMismatch},
		"message instead": {func(nids []int64) ([]resolve.Event, error) {
			return slices.Repeat([]resolve.Event{{PDU: &event.PDU{Type: "m.room.topic"}}}, len(nids)), nil
		}, resolve.ErrMismatch},
	} {
		if _, _, err := resolve.Resolve(context.Background(), r.rules, r.g, maps, c.src, resolve.Budget{}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A chain of power levels as long as an attacker can afford, all of it in conflict, is walked and not recursed into.
func TestDeepChain(t *testing.T) {
	const depth = 20_000
	for _, version := range []string{"2", "12"} {
		r := newLarge(version, 10, 1)
		fork := r.now
		for range depth {
			fork = r.send(fork, owner, "m.room.power_levels", "", r.levels())
		}
		_, stats, err := r.resolve(context.Background(), []state.Map{r.now, fork}, resolve.Budget{})
		if err != nil || stats.Full < depth {
			t.Errorf("version %s: %+v, %v", version, stats, err)
		}
	}
}
