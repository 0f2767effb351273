package roomgen

import (
	"fmt"
	"maps"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/stateres"
)

// The people of the cases.
const (
	creator = id.User("@creator:s0")
	alice   = id.User("@alice:s1")
	bob     = id.User("@bob:s2")
	charlie = id.User("@charlie:s3")
)

// script is a room that is told what happens, one event after the other. An event that is refused is a mistake in the
// script, and panics.
type script struct{ *Room }

// newScript starts a public room with power levels.
func newScript(version string, users Content) *script {
	r, err := New(version, creator, nil)
	if err != nil {
		panic(fmt.Sprintf("script: %v", err))
	}
	s := &script{r}
	s.join(creator)
	s.levels(creator, users)
	s.joinRule(creator, "public")
	return s
}

func (s *script) send(sender id.User, typ, key string, content Content, prev ...*event.PDU) *event.PDU {
	var ids []id.Event
	for _, p := range prev {
		ids = append(ids, p.ID)
	}
	ev, err := s.Send(sender, typ, &key, content, ids...)
	if err != nil {
		panic(fmt.Sprintf("script: %s by %s: %v", typ, sender, err))
	}
	return ev
}

func (s *script) member(sender, target id.User, membership string, prev ...*event.PDU) *event.PDU {
	return s.send(sender, "m.room.member", string(target), Content{"membership": membership}, prev...)
}

func (s *script) join(u id.User, prev ...*event.PDU) *event.PDU {
	return s.member(u, u, "join", prev...)
}

// rename is a change of profile.
func (s *script) rename(u id.User, prev ...*event.PDU) *event.PDU {
	return s.send(u, "m.room.member", string(u), Content{"membership": "join", "displayname": "renamed"}, prev...)
}

func (s *script) joinRule(by id.User, rule string, prev ...*event.PDU) *event.PDU {
	return s.send(by, "m.room.join_rules", "", Content{"join_rule": rule}, prev...)
}

func (s *script) topic(by id.User, topic string, prev ...*event.PDU) *event.PDU {
	return s.send(by, "m.room.topic", "", Content{"topic": topic}, prev...)
}

// levels gives users levels; the creator has 100 where it may be named.
func (s *script) levels(by id.User, users Content, prev ...*event.PDU) *event.PDU {
	all := maps.Clone(users)
	if all == nil {
		all = Content{}
	}
	if !s.Rules.PrivilegedCreators {
		all[string(creator)] = 100
	}
	return s.send(by, "m.room.power_levels", "", Content{"users": all}, prev...)
}

// after are the states after events.
func (s *script) after(events ...*event.PDU) []stateres.Set {
	sets := make([]stateres.Set, len(events))
	for i, ev := range events {
		sets[i] = s.After[ev.ID]
	}
	return sets
}

// with is a state in which one key is from an event of the past: what a server with a faulty idea of the state answers to
// /state_ids.
func with(s stateres.Set, old *event.PDU) stateres.Set {
	s = maps.Clone(s)
	s[old.Tuple()] = old.ID
	return s
}
