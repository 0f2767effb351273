package stateres_test

import (
	"maps"
	"testing"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/stateres"
	"hanse/pkg/matrix/stateres/roomgen"
)

const (
	creator = id.User("@creator:s0")
	alice   = id.User("@alice:s1")
	bob     = id.User("@bob:s2")
	charlie = id.User("@charlie:s3")
)

// script sends events one after the other and fails the test if one is
// refused.
type script struct {
	t *testing.T
	*roomgen.Room
}

func newScript(t *testing.T, version string) *script {
	t.Helper()
	r, err := roomgen.New(version, creator, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &script{t, r}
	s.join(creator)
	return s
}

func (s *script) send(sender id.User, typ, key string, content roomgen.Content, prev ...*event.PDU) *event.PDU {
	s.t.Helper()
	var ids []id.Event
	for _, p := range prev {
		ids = append(ids, p.ID)
	}
	ev, err := s.Send(sender, typ, &key, content, ids...)
	if err != nil {
		s.t.Fatal(err)
	}
	return ev
}

func (s *script) member(sender, target id.User, membership string, prev ...*event.PDU) *event.PDU {
	s.t.Helper()
	return s.send(sender, "m.room.member", string(target), roomgen.Content{"membership": membership}, prev...)
}

func (s *script) join(u id.User) *event.PDU { s.t.Helper(); return s.member(u, u, "join") }

func (s *script) joinRule(by id.User, rule string) *event.PDU {
	s.t.Helper()
	return s.send(by, "m.room.join_rules", "", roomgen.Content{"join_rule": rule})
}

// levels gives users levels; the creator has 100 where it may be named.
func (s *script) levels(by id.User, users roomgen.Content, prev ...*event.PDU) *event.PDU {
	s.t.Helper()
	all := maps.Clone(users)
	if !s.Rules.PrivilegedCreators {
		all[string(creator)] = 100
	}
	return s.send(by, "m.room.power_levels", "", roomgen.Content{"users": all}, prev...)
}

// with is a state in which one key is from an event of the past: what a server
// with a faulty idea of the state answers to /state_ids.
func with(s stateres.Set, old *event.PDU) stateres.Set {
	s = maps.Clone(s)
	s[old.Tuple()] = old.ID
	return s
}

func (s *script) resolve(sets ...stateres.Set) stateres.Set {
	s.t.Helper()
	got, err := stateres.Resolve(s.Rules, sets, s)
	if err != nil {
		s.t.Fatal(err)
	}
	return got
}

var (
	joinRulesKey   = event.Tuple{Type: "m.room.join_rules"}
	powerLevelsKey = event.Tuple{Type: "m.room.power_levels"}
)

// MSC4297, "Problem A: Conflicting events can be unauthorised by the
// unconflicted state". Alice set both join rules and left; a state with the
// outdated ones makes them conflict. v2 replays them on a state in which Alice
// is gone, and the room ends up without join rules.
func TestMSC4297ProblemA(t *testing.T) {
	for version, keeps := range map[string]bool{"11": false, "12": true} {
		s := newScript(t, version)
		s.levels(creator, roomgen.Content{string(alice): 50})
		s.joinRule(creator, "public")
		s.join(alice)
		old := s.joinRule(alice, "invite")
		current := s.joinRule(alice, "public")
		s.join(bob)
		left := s.member(alice, alice, "leave")

		state := s.After[left.ID]
		got := s.resolve(state, with(state, old))
		e, ok := got[joinRulesKey]
		if keeps && e != current.ID {
			t.Errorf("version %s: join rules %s, want the current %s", version, e, current.ID)
		}
		if !keeps && ok {
			t.Errorf("version %s: v2 is known to lose the join rules, but has %s", version, e)
		}
	}
}

// MSC4297, "Problem B: Conflicting events need extra unconflicted events in
// order to be authorised". Alice promotes Bob, Bob promotes Charlie; a state
// with the levels from before conflicts. v2 does not replay Bob's promotion,
// which both auth chains have, and so does not allow Charlie's.
func TestMSC4297ProblemB(t *testing.T) {
	for version, keeps := range map[string]bool{"11": false, "12": true} {
		s := newScript(t, version)
		s.levels(creator, roomgen.Content{string(alice): 100})
		s.joinRule(creator, "public")
		for _, u := range []id.User{alice, bob, charlie} {
			s.join(u)
		}
		old := s.levels(alice, roomgen.Content{string(alice): 100, string(bob): 0})
		s.levels(alice, roomgen.Content{string(alice): 100, string(bob): 50})
		current := s.levels(bob, roomgen.Content{string(alice): 100, string(bob): 50, string(charlie): 50})
		last := s.member(charlie, charlie, "join")

		state := s.After[last.ID]
		got := s.resolve(state, with(state, old))[powerLevelsKey]
		if keeps && got != current.ID {
			t.Errorf("version %s: power levels %s, want the current %s", version, got, current.ID)
		}
		if !keeps && got != old.ID {
			t.Errorf("version %s: v2 is known to fall back to %s, but has %s", version, old.ID, got)
		}
	}
}

// A ban wins over what the banned user does at the same time ("Soft failure",
// the example, with power events first), in every version but the first.
func TestBanWinsOverConcurrentEvents(t *testing.T) {
	for _, version := range []string{"2", "6", "11", "12"} {
		s := newScript(t, version)
		s.levels(creator, roomgen.Content{string(alice): 50, string(bob): 40})
		s.joinRule(creator, "public")
		s.join(alice)
		fork := s.join(bob)
		banned := s.member(alice, bob, "ban", fork)
		topic := s.send(bob, "m.room.member", string(bob), roomgen.Content{"membership": "join", "displayname": "b"}, fork)
		got := s.resolve(s.After[banned.ID], s.After[topic.ID])
		if e := got[banned.Tuple()]; e != banned.ID {
			t.Errorf("version %s: %s, want the ban %s", version, e, banned.ID)
		}
	}
}

// Creators outrank everybody in the power ordering (MSC4289): of two concurrent
// power levels that of the creator comes first, and undoes the other.
func TestCreatorComesFirstInPowerOrdering(t *testing.T) {
	s := newScript(t, "12")
	s.levels(creator, roomgen.Content{string(alice): 1<<53 - 1})
	s.joinRule(creator, "public")
	fork := s.join(alice)
	s.Now -= 1000
	early := s.levels(alice, roomgen.Content{string(alice): 1<<53 - 1, string(bob): 100}, fork)
	s.Now += 5000
	demotion := s.levels(creator, roomgen.Content{}, fork)
	got := s.resolve(s.After[early.ID], s.After[demotion.ID])[powerLevelsKey]
	if got != demotion.ID {
		t.Errorf("power levels %s, want the creator's %s", got, demotion.ID)
	}
}

// What the state lacks comes from an event's auth events, unless they are
// rejected: here the join of the sender of both topics.
func TestRejectedAuthEventIsNotUsed(t *testing.T) {
	s := newScript(t, "12")
	s.levels(creator, roomgen.Content{string(alice): 50})
	s.joinRule(creator, "public")
	joined := s.join(alice)
	a := s.send(alice, "m.room.topic", "", roomgen.Content{"topic": "a"}, joined)
	b := s.send(alice, "m.room.topic", "", roomgen.Content{"topic": "b"}, joined)
	sets := []stateres.Set{s.After[a.ID], s.After[b.ID]}
	for _, set := range sets {
		delete(set, joined.Tuple())
	}
	if got := s.resolve(sets...)[a.Tuple()]; got != b.ID {
		t.Errorf("topic %s, want the later %s", got, b.ID)
	}
	s.Reject(joined.ID)
	if got, ok := s.resolve(sets...)[a.Tuple()]; ok {
		t.Errorf("topic %s of a sender whose join was rejected", got)
	}
}
