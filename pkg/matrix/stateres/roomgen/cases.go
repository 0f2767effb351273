package roomgen

import (
	"fmt"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/stateres"
)

// Case is a resolution whose result the specification names, or all implementations share.
type Case struct {
	Name string // the section, and the room version
	*Room
	Sets []stateres.Set
	Key  event.Tuple
	Want id.Event // "" if the result has no event for the key
}

// Cases are the examples of the room version pages and the problems of MSC4297. Every implementation of state resolution
// must solve them.
func Cases() []Case {
	var cases []Case
	add := func(name string, versions []string, make func(version string) Case) {
		for _, v := range versions {
			c := make(v)
			c.Name = fmt.Sprintf("%s, version %s", name, v)
			cases = append(cases, c)
		}
	}
	v2on := []string{"2", "6", "11", "12"}
	add("MSC4297, Problem A", []string{"11", "12"}, problemA)
	add("MSC4297, Problem B", []string{"11", "12"}, problemB)
	add("Soft failure, example: a ban wins", v2on, banWins)
	add("Reverse topological power ordering: the creator comes first", []string{"12"}, creatorFirst)
	add("Reverse topological power ordering: the greater power comes first", v2on, demotionFirst)
	add("Mainline ordering: the later power levels win", v2on, laterLevelsWin)
	add("Mainline ordering: the later time wins", v2on, laterTimeWins)
	add("Iterative auth checks: an auth event stands in", v2on, func(v string) Case { return authEventStandsIn(v, false) })
	add("Iterative auth checks: a rejected auth event does not", v2on, func(v string) Case { return authEventStandsIn(v, true) })
	add("Definitions, unconflicted state map: a key that a state lacks is in conflict", v2on, keyOfOneState)
	add("Auth difference: unconflicted state is in all auth chains", v2on, unconflictedBetween)
	add("Algorithm, step 1: a path outside the full conflicted set", v2on, pathOutside)
	add("v1: power levels are allowed one after the other", []string{"1"}, levelsByDepth)
	add("v1: the topic with the highest depth that is allowed", []string{"1"}, topicByDepth)
	return cases
}

func (s *script) resolving(sets []stateres.Set, key event.Tuple, want id.Event) Case {
	return Case{Room: s.Room, Sets: sets, Key: key, Want: want}
}

// problemA: "Conflicting events can be unauthorised by the unconflicted state". Alice set both join rules and left; a
// state with the outdated ones makes them conflict. v2 replays them on a state in which Alice is gone, and the room ends up
// without join rules.
func problemA(version string) Case {
	s := newScript(version, Content{string(alice): 50})
	s.join(alice)
	old := s.joinRule(alice, "invite")
	current := s.joinRule(alice, "public")
	s.join(bob)
	state := s.After[s.member(alice, alice, "leave").ID]
	c := s.resolving([]stateres.Set{state, with(state, old)}, old.Tuple(), current.ID)
	if s.Rules.StateRes == 2 {
		c.Want = ""
	}
	return c
}

// problemB: "Conflicting events need extra unconflicted events in order to be authorised". Alice promotes Bob, Bob
// promotes Charlie; a state with the levels from before conflicts. v2 does not replay Bob's promotion, which both auth
// chains have, and so does not allow Charlie's.
func problemB(version string) Case {
	s := newScript(version, Content{string(alice): 100})
	for _, u := range []id.User{alice, bob, charlie} {
		s.join(u)
	}
	old := s.levels(alice, Content{string(alice): 100, string(bob): 0})
	s.levels(alice, Content{string(alice): 100, string(bob): 50})
	current := s.levels(bob, Content{string(alice): 100, string(bob): 50, string(charlie): 50})
	state := s.After[s.join(charlie).ID]
	c := s.resolving([]stateres.Set{state, with(state, old)}, old.Tuple(), current.ID)
	if s.Rules.StateRes == 2 {
		c.Want = old.ID
	}
	return c
}

// banWins: a ban is a power event, and so comes before what the banned user does at the same time.
func banWins(version string) Case {
	s := newScript(version, Content{string(alice): 50, string(bob): 40})
	s.join(alice)
	fork := s.join(bob)
	banned := s.member(alice, bob, "ban", fork)
	profile := s.rename(bob, fork)
	return s.resolving(s.after(banned, profile), banned.Tuple(), banned.ID)
}

// creatorFirst: creators outrank everybody in the power ordering (MSC4289): of two concurrent power levels that of the
// creator comes first, and undoes the other.
func creatorFirst(version string) Case {
	s := newScript(version, Content{string(alice): 1<<53 - 1})
	fork := s.join(alice)
	s.Now -= 1000
	early := s.levels(alice, Content{string(alice): 1<<53 - 1, string(bob): 100}, fork)
	s.Now += 5000
	demotion := s.levels(creator, nil, fork)
	return s.resolving(s.after(early, demotion), early.Tuple(), demotion.ID)
}

// demotionFirst: of a demotion and a ban by the one who is demoted, the event of the greater power comes first, although
// it is later. The ban is not allowed after it.
func demotionFirst(version string) Case {
	s := newScript(version, Content{string(alice): 50})
	s.join(alice)
	fork := s.join(bob)
	ban := s.member(alice, bob, "ban", fork)
	s.Now += 1000
	demotion := s.levels(creator, nil, fork)
	return s.resolving(s.after(ban, demotion), ban.Tuple(), fork.ID)
}

// laterLevelsWin: the topic that cites the later power levels is applied last, although it is earlier.
func laterLevelsWin(version string) Case {
	s := newScript(version, Content{string(alice): 50})
	fork := s.join(alice)
	later := s.levels(creator, Content{string(alice): 60}, fork)
	wins := s.topic(alice, "wins", later)
	s.Now += 1000
	loses := s.topic(alice, "loses", fork)
	return s.resolving(s.after(wins, loses), wins.Tuple(), wins.ID)
}

// laterTimeWins: with the same power levels the later topic is applied last.
func laterTimeWins(version string) Case {
	s := newScript(version, Content{string(alice): 50})
	fork := s.join(alice)
	s.Now += 1000
	wins := s.topic(alice, "wins", fork)
	s.Now -= 500
	loses := s.topic(alice, "loses", fork)
	return s.resolving(s.after(wins, loses), wins.Tuple(), wins.ID)
}

// authEventStandsIn: what the state lacks comes from an event's auth events, unless they are rejected: here the join of
// the sender of both topics.
func authEventStandsIn(version string, rejected bool) Case {
	s := newScript(version, Content{string(alice): 50})
	joined := s.join(alice)
	a := s.topic(alice, "a", joined)
	b := s.topic(alice, "b", joined)
	sets := s.after(a, b)
	for _, set := range sets {
		delete(set, joined.Tuple())
	}
	if !rejected {
		return s.resolving(sets, a.Tuple(), b.ID)
	}
	s.Reject(joined.ID)
	return s.resolving(sets, a.Tuple(), "")
}

// keyOfOneState: Bob joined on one branch only. His join is in conflict, is allowed, and stays.
func keyOfOneState(version string) Case {
	s := newScript(version, Content{string(alice): 50})
	fork := s.join(alice)
	joined := s.join(bob, fork)
	topic := s.topic(alice, "t", fork)
	return s.resolving(s.after(joined, topic), joined.Tuple(), joined.ID)
}

// unconflictedBetween: the creator renames herself under a join rule of Bob's, and sets another one, which cites her new
// membership. That is in both states, but only in one of them does another event cite it: it is not in the difference all
// the same, and so nothing tells that Bob's rule, of less power, came before hers. In version 12 it lies between the two. Seen
// beside Synapse.
func unconflictedBetween(version string) Case {
	s := newScript(version, Content{string(alice): 90, string(bob): 50})
	s.join(alice)
	s.join(bob)
	open := s.joinRule(bob, "public")
	fork := s.rename(creator)
	levels := s.levels(alice, Content{string(alice): 90, string(bob): 50, string(charlie): 10}, s.rename(alice, fork))
	closed := s.joinRule(creator, "invite", fork)
	c := s.resolving(s.after(levels, closed), open.Tuple(), open.ID)
	if s.Rules.StateRes == 21 {
		c.Want = closed.ID
	}
	return c
}

// pathOutside: Bob's join rule cites power levels, which are agreed upon and cite a membership of Alice's that is in conflict.
// It is not replayed with the rule, before which it would come, but later, when the rule forbids it. In version 12 the power
// levels are between, and so in the full conflicted set.
func pathOutside(version string) Case {
	s := newScript(version, Content{string(alice): 90, string(bob): 50})
	s.join(alice)
	s.join(bob)
	renamed := s.rename(alice)
	fork := s.levels(alice, Content{string(alice): 90, string(bob): 50, string(charlie): 10})
	again := s.rename(alice, fork)
	closed := s.joinRule(bob, "private", fork)
	c := s.resolving(s.after(again, closed), renamed.Tuple(), "")
	if s.Rules.StateRes == 21 {
		c.Want = renamed.ID
	}
	return c
}

// levelsByDepth: Alice's power levels are the deeper ones, and are allowed after the creator's.
func levelsByDepth(version string) Case {
	s := newScript(version, Content{string(alice): 100})
	fork := s.join(alice)
	first := s.levels(creator, Content{string(alice): 100, string(bob): 10}, fork)
	between := s.topic(alice, "t", fork)
	second := s.levels(alice, Content{string(alice): 100, string(bob): 20}, between)
	return s.resolving(s.after(first, second), first.Tuple(), second.ID)
}

// topicByDepth: the deepest topic is by somebody who is banned in the resolved state; the next one is picked.
func topicByDepth(version string) Case {
	s := newScript(version, Content{string(alice): 50, string(bob): 50, string(charlie): 60})
	s.join(alice)
	s.join(charlie)
	fork := s.join(bob)
	picked := s.topic(alice, "picked", fork)
	banned := s.member(charlie, bob, "ban", picked)
	rename := s.send(bob, "org.example.note", "", Content{}, fork)
	deep := s.topic(bob, "deep", s.send(bob, "org.example.note", "", Content{"n": 2}, rename))
	return s.resolving(s.after(banned, deep), picked.Tuple(), picked.ID)
}
