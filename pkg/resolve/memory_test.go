package resolve_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"hanse/pkg/authgraph"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/matrix/stateres"
	"hanse/pkg/matrix/stateres/roomgen"
	"hanse/pkg/resolve"
	"hanse/pkg/state"
)

// beginning is the state of a room when only its owner was there.
func (r *large) beginning() (first state.Map) {
	for _, key := range []state.Key{{Type: "m.room.create"}, {Type: "m.room.member", StateKey: string(owner)}} {
		for i := range r.g.Len() {
			if at := authgraph.Index(i); r.g.Key(at) == key {
				first = first.Set(key, r.g.NID(at))
				break
			}
		}
	}
	return first
}

// fierce is a change that decides about others, or one that others decide about.
func (r *large) fierce(m state.Map) state.Map {
	member := r.members[r.rng.IntN(len(r.members))]
	switch r.rng.IntN(9) {
	case 0:
		return r.send(m, owner, "m.room.power_levels", "", r.levels())
	case 1:
		rule := [...]string{"public", "invite", "knock", "odd"}[r.rng.IntN(4)]
		return r.send(m, owner, "m.room.join_rules", "", fmt.Sprintf(`{"join_rule":%q}`, rule))
	case 2:
		return r.send(m, owner, "m.room.member", string(member), `{"membership":"ban"}`)
	case 3:
		return r.send(m, owner, "m.room.member", string(member), `{"membership":"invite"}`)
	case 4:
		return r.send(m, owner, "m.room.member", string(member), `{"membership":"leave"}`)
	case 5:
		return r.send(m, r.mod(), "m.room.topic", "", `{"topic":"t"}`)
	case 6:
		return r.send(m, member, "m.room.member", string(member), `{"membership":"odd"}`)
	default:
		return r.profile(m, member)
	}
}

// A resolver whose room grows, at its end and by branches from its beginning, so that all that it knows is asked for again and
// again upon other states, has the oracle's results and those of a resolution that remembers nothing.
func TestRemembered(t *testing.T) {
	for _, version := range []string{"1", "2", "6", "11", "12"} {
		r := newLarge(version, 400, 8)
		known := resolve.NewResolver(r.g)
		first := r.beginning()
		tips := []state.Map{r.now, first, first}
		for step := range 60 {
			n := r.rng.IntN(len(tips))
			tips[n] = r.fierce(tips[n])
			if step%20 == 10 { // by turns a few of what is known, and all of it
				known.VerdictsChanged()
			}
			states := tips
			if step%3 == 0 {
				states = []state.Map{tips[0], r.fierce(tips[0])}
			}
			want, err := stateres.Resolve(r.rules, r.sets(states), r)
			if err != nil {
				t.Fatal(err)
			}
			m, stats, err := known.Resolve(context.Background(), r.rules, states, r, resolve.Budget{}, 1<<30)
			if err != nil {
				t.Fatal(err)
			}
			if got := r.sets([]state.Map{m})[0]; !maps.Equal(got, want) {
				t.Fatalf("version %s, step %d: %s", version, step, differences(got, want))
			}
			_, fresh, err := r.resolve(context.Background(), states, resolve.Budget{})
			if err != nil {
				t.Fatal(err)
			}
			if err := covers(stats.Verdicts, fresh.Verdicts); err != nil {
				t.Fatalf("version %s, step %d: %v", version, step, err)
			}
		}
	}
}

// What was resolved once is resolved again without a call of the source, but for events that answer as a whole; and one more
// event that decides about nothing costs a few. A memory that is too large is given up.
func TestRememberedReads(t *testing.T) {
	for _, version := range []string{"11", "12"} {
		r := newLarge(version, 3_000, usualLevels)
		known := resolve.NewResolver(r.g)
		first := r.beginning()
		fork := r.profile(first, owner)
		run := func(fork state.Map, most int64) resolve.Stats {
			t.Helper()
			_, stats, err := known.Resolve(context.Background(), r.rules, []state.Map{r.now, first, fork}, r, resolve.Budget{}, most)
			if err != nil {
				t.Fatal(err)
			}
			return stats
		}
		if s := run(fork, 1<<30); s.Loaded < 3_000 {
			t.Errorf("version %s: %+v at first", version, s)
		}
		if s := run(fork, 1<<30); s.Loaded != 0 {
			t.Errorf("version %s: %+v again", version, s)
		}
		if s := run(r.send(fork, owner, "m.room.topic", "", `{"topic":"x"}`), 1<<30); s.Loaded == 0 || s.Loaded > 20 {
			t.Errorf("version %s: %+v with one more event", version, s)
		}
		if s := run(r.send(fork, owner, "m.room.power_levels", "", r.levels()), 1<<30); s.Loaded > 1_000 || s.Calls > 20 {
			t.Errorf("version %s: %+v with other power levels", version, s)
		}
		known.VerdictsChanged()
		if s := run(r.send(fork, owner, "m.room.topic", "", `{"topic":"y"}`), known.Bytes()-r.g.Bytes()); s.Loaded > 1_000 {
			t.Errorf("version %s: %+v after a verdict has changed", version, s)
		}
		if per := (known.Bytes() - r.g.Bytes()) / int64(r.g.Len()); per < 20 || per > 100 {
			t.Errorf("version %s: %d bytes for each of %d events", version, per, r.g.Len())
		}
		run(fork, 1_000)
		if got := known.Bytes() - r.g.Bytes(); got > 10_000 {
			t.Errorf("version %s: %d bytes after all was forgotten", version, got)
		}
		if s := run(fork, 1<<30); s.Loaded < 3_000 {
			t.Errorf("version %s: %+v after all was forgotten", version, s)
		}
	}
}

// Events of the same time whose ids begin alike are ordered by the rest of these.
func TestTies(t *testing.T) {
	for _, version := range []string{"2", "12"} {
		r := newLarge(version, 30, 3)
		known := resolve.NewResolver(r.g)
		for round := range 20 {
			maps := r.forks(3, 25)
			for n, ev := range r.events {
				if n == 0 || ev.OriginServerTS == 0 {
					continue
				}
				was := ev.ID
				ev.OriginServerTS, ev.ID = 0, id.Event(fmt.Sprintf("$the same %08x", uint32(n)*2654435761))
				delete(r.byID, was)
				delete(r.nids, was)
				r.byID[ev.ID], r.nids[ev.ID] = ev, int64(n+1)
			}
			for _, ev := range r.events {
				ev.AuthEvents = ev.AuthEvents[:0]
				for _, a := range r.g.Auth(r.g.Find(r.nids[ev.ID])) {
					ev.AuthEvents = append(ev.AuthEvents, r.events[r.g.NID(a)-1].ID)
				}
			}
			r.compare(t, maps)
			want, _, err := r.resolve(context.Background(), maps, resolve.Budget{})
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				got, _, err := known.Resolve(context.Background(), r.rules, maps, r, resolve.Budget{}, 1<<30)
				if err != nil || !got.Equal(want) {
					t.Fatalf("version %s, round %d: %v", version, round, err)
				}
			}
		}
	}
}

// After a verdict has changed, what is remembered is what a new resolution finds.
func TestVerdictsChange(t *testing.T) {
	changed := 0
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 3))
		for _, version := range roomversion.Supported() {
			w, err := roomgen.NewWild(rng, version, 5+rng.IntN(50))
			if err != nil {
				t.Fatal(err)
			}
			r, err := newGraphed(w.Rules, w.Events, w)
			if err != nil {
				t.Fatal(err)
			}
			r.flipped = make(map[int64]bool)
			sets := w.States(2 + rng.IntN(3))
			var before stateres.Set
			for range 4 {
				want, stats, err := r.resolve(sets)
				if err != nil {
					t.Fatal(err)
				}
				got, known, err := r.again(sets)
				if err != nil || !maps.Equal(got, want) {
					t.Fatalf("version %s: %s, %v", version, differences(got, want), err)
				}
				if err := covers(known.Verdicts, stats.Verdicts); err != nil {
					t.Fatal(err)
				}
				if before != nil && !maps.Equal(before, want) {
					changed++
				}
				before = want
				for nid := range r.byNID {
					r.flipped[nid] = rng.IntN(2) == 0
				}
				r.known.VerdictsChanged()
			}
		}
	})
	if changed == 0 {
		t.Error("no verdict mattered")
	}
}
