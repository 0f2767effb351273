package resolve

import (
	"fmt"
	"slices"

	"hanse/pkg/authgraph"
	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/state"
)

// cell is what the resolution holds for a key.
type cell struct {
	at    authgraph.Index // None for no event
	flags uint8           // 0: not looked at yet
}

const (
	cellConflicted = 1 << iota // the states differ
	cellReplayed               // an event was replayed for a key on which they agree
	cellAgreed                 // what the states agree on
)

// held returns the event that the state under construction has for a key, None if it has none. It starts with what all
// states agree on; since version 12 with nothing, so that only what was replayed counts.
func (r *resolution) held(key authgraph.KeyIndex) (authgraph.Index, error) {
	if c := r.m.cells.get(uint32(key)); c.flags != 0 {
		return c.at, nil
	}
	at := authgraph.None
	if r.rules.StateRes != 21 {
		if nid, ok := r.smallest.Get(r.g.KeyAt(key)); ok {
			var err error
			if at, err = r.find(nid); err != nil {
				return at, err
			}
		}
	}
	*r.m.cells.at(uint32(key)) = cell{at, cellAgreed}
	return at, nil
}

func (r *resolution) hold(key authgraph.KeyIndex, at authgraph.Index) {
	c := r.m.cells.at(uint32(key))
	if c.flags&(cellConflicted|cellReplayed) == 0 {
		c.flags |= cellReplayed
		r.replayed = append(r.replayed, key)
	}
	c.at = at
}

// replay is the "iterative auth checks algorithm": it applies each of the events to the state under construction if the
// authorisation rules allow it, and ignores it otherwise.
func (r *resolution) replay(events []authgraph.Index) error {
	v := &view{r: r, ownAuth: true}
	for n, i := range events {
		allowed, known, err := v.recall(i)
		if err == nil && !known {
			allowed, err = v.judge(events[n:])
		}
		if err != nil {
			return err
		}
		if allowed {
			r.hold(r.g.KeyIndex(i), i)
		}
	}
	return nil
}

// view is the state that an event is checked against. With ownAuth, what the state under construction lacks comes from
// the event's auth events, if they are not rejected.
type view struct {
	r       *resolution
	ownAuth bool
	at      authgraph.Index
	ev      *event.PDU

	questions []question        // of the check
	foreign   bool              // it asked for a key that no event of the room has
	missing   []authgraph.Index // it asked for events of which too little was read; its outcome is void
	err       error             // the first failure; the outcome is void
}

// recallVisits is what a check counts for that is remembered.
const recallVisits = 2

// recall returns the outcome of a check of the event, if one is remembered that would be the same now: a check asks, one
// after the other, for what depends on the answers before, so it is the same if the answers are.
func (v *view) recall(i authgraph.Index) (allowed, known bool, err error) {
	r := v.r
	if err := r.visit(recallVisits); err != nil {
		return false, false, err
	}
	f := r.m.fact(i)
	if f == nil || !v.ownAuth {
		return false, false, nil
	}
	for _, t := range f.checks {
		if t == 0 {
			break
		}
		t := &r.m.traces[t]
		same := true
		for _, q := range t.questions {
			key := q.key
			if key == ownKey {
				key = r.g.KeyIndex(i)
			}
			at, ok, err := v.answer(i, key)
			if err != nil || !ok {
				return false, false, err
			}
			var c class
			if at != authgraph.None {
				answer := r.m.fact(at)
				if answer == nil {
					return false, false, nil
				}
				c = answer.class
			}
			if same = c == q.class; !same {
				break
			}
		}
		if same {
			return t.allowed, true, nil
		}
	}
	return false, false, nil
}

// answer is the event that a check of i finds for a key, None for none; ok is false if it is an auth event whose verdict was
// not read.
func (v *view) answer(i authgraph.Index, key authgraph.KeyIndex) (at authgraph.Index, ok bool, err error) {
	at, err = v.r.held(key)
	if at != authgraph.None || err != nil || !v.ownAuth {
		return at, true, err
	}
	if at = v.r.authEvent(i, key); at == authgraph.None {
		return at, true, nil
	}
	f := v.r.m.fact(at)
	if f == nil || f.verdicts != v.r.m.verdicts {
		return at, false, nil
	}
	v.r.Verdicts[v.r.g.NID(at)] = f.rejected
	if f.rejected {
		at = authgraph.None
	}
	return at, true, nil
}

// judge checks the first of the events that are to be replayed. What is not at hand is read, also for some of those behind it.
func (v *view) judge(events []authgraph.Index) (bool, error) {
	for {
		v.missing = v.missing[:0]
		if ev := v.r.events[events[0]]; ev == nil {
			v.missing = append(v.missing, events[0])
		} else if allowed, err := v.allows(events[0], ev); err != nil || len(v.missing) == 0 {
			return allowed, err
		}
		if err := v.readAhead(events); err != nil {
			return false, err
		}
	}
}

func (v *view) allows(i authgraph.Index, ev *event.PDU) (bool, error) {
	if err := v.r.visit(replayVisits); err != nil {
		return false, err
	}
	v.at, v.ev, v.questions, v.foreign = i, ev, v.questions[:0], false
	allowed := auth.Check(ev, v, auth.Options{}) == nil
	if v.err == nil && len(v.missing) == 0 && !v.foreign && v.ownAuth {
		v.r.m.remember(i, v.r.g.KeyIndex(i), v.questions, allowed)
	}
	return allowed, v.err
}

// StateEvent implements [auth.Lookup].
func (v *view) StateEvent(typ, stateKey string) *event.PDU {
	key, ok := v.r.g.FindKey(state.Key{Type: typ, StateKey: stateKey})
	if !ok {
		v.foreign = true
		return nil
	}
	ev, err := v.lookup(key)
	if err != nil && v.err == nil {
		v.err = err
	}
	return ev
}

func (v *view) lookup(key authgraph.KeyIndex) (*event.PDU, error) {
	r := v.r
	at, ok, err := v.answer(v.at, key)
	switch {
	case err != nil:
		return nil, err
	case !ok:
		v.missing = append(v.missing, at)
		return nil, nil
	case at == authgraph.None:
		v.note(key, 0)
		return nil, nil
	}
	f := r.m.fact(at)
	if f == nil {
		v.missing = append(v.missing, at)
		return nil, nil
	}
	v.note(key, f.class)
	if ev := r.m.standIn(f.class); ev != nil {
		return ev, nil
	}
	ev := r.events[at]
	if ev == nil {
		v.missing = append(v.missing, at)
		return nil, nil
	}
	if at == r.create {
		if held, err := r.held(key); err != nil || held != at {
			return ev, r.checkCreate(v.ev)
		}
	}
	return ev, nil
}

func (v *view) note(key authgraph.KeyIndex, c class) {
	if q := (question{key, c}); !slices.Contains(v.questions, q) {
		v.questions = append(v.questions, q)
	}
}

// Events are read ahead in growing numbers, as many follow where many answers have changed: at first those whose check is
// not remembered as things stand, and after some calls all.
const (
	firstAhead  = 64
	mostAhead   = 4096
	choosyCalls = 16
)

// readAhead reads what a check lacks, and what checks of the events behind it would.
func (v *view) readAhead(events []authgraph.Index) error {
	r := v.r
	r.ahead = min(max(2*r.ahead, firstAhead), mostAhead)
	batch := make([]authgraph.Index, 0, r.ahead)
	for n, i := range events[:min(r.ahead, len(events))] {
		if n > 0 && r.Calls < choosyCalls {
			if _, known, err := v.recall(i); err != nil || known {
				if err != nil {
					return err
				}
				continue
			}
		}
		batch = append(batch, i)
	}
	want := slices.Clone(v.missing)
	for _, i := range batch {
		if r.events[i] == nil {
			want = append(want, i)
		}
	}
	before := r.Loaded
	if err := r.load(want); err != nil {
		return err
	}
	if err := r.loadAnswers(batch); err != nil {
		return err
	}
	if r.Loaded == before {
		return fmt.Errorf("event %d cannot be checked", r.g.NID(events[0]))
	}
	return nil
}
