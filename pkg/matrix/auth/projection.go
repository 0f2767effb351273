package auth

import (
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
)

const (
	membershipJoin   = "join"
	membershipInvite = "invite"
	membershipLeave  = "leave"
	membershipBan    = "ban"
	membershipKnock  = "knock"
)

const (
	joinRulePublic          = "public"
	joinRuleInvite          = "invite"
	joinRuleKnock           = "knock"
	joinRuleRestricted      = "restricted"
	joinRuleKnockRestricted = "knock_restricted"
)

// memberInfo is what the rules read of an m.room.member event.
type memberInfo struct {
	membership       string // "" if absent or not a string
	hasMembership    bool
	authoriser       id.User // join_authorised_via_users_server
	hasAuthoriser    bool
	authoriserString bool // it is a string
	thirdParty       bool // content has third_party_invite
}

// createInfo is what the rules read of an m.room.create event.
type createInfo struct {
	federate bool      // not m.federate: false
	creator  id.User   // content.creator to version 10, sender since 11
	creators []id.User // version 12: all who have infinite power
}

// projection is the parsed form of one state event. Only the part that
// belongs to the event's type is set.
type projection struct {
	member   *memberInfo
	create   *createInfo
	power    *PowerLevels
	joinRule string
}

// project parses an event once and keeps the result beside it. Two goroutines
// that come first at the same time both parse; the results are equal.
func project(ev *event.PDU) *projection {
	if p, ok := ev.Projection().(*projection); ok {
		return p
	}
	p := new(projection)
	switch ev.Type {
	case typeMember:
		p.member = parseMember(ev.Content)
	case typeCreate:
		p.create = parseCreate(ev)
	case typePowerLevels:
		p.power, _ = ParsePowerLevels(ev.Content, ev.Rules)
	case typeJoinRules:
		p.joinRule = parseJoinRule(ev.Content)
	}
	ev.SetProjection(p)
	return p
}

// Warm parses what the rules read of a state event, so that the first check
// against it does not have to.
func Warm(ev *event.PDU) {
	switch ev.Type {
	case typeMember, typeCreate, typePowerLevels, typeJoinRules:
		project(ev)
	}
}

// Aspect is what [Check] reads of a state event that it looks up, where that is less than the event: the membership of a
// member, the join rule. Events of one type with the same aspect can stand for each other in the state that an event is checked
// against. There are few aspects: ok is false where the value is none that the specification knows, and for other types.
func Aspect(ev *event.PDU) (value string, ok bool) {
	switch ev.Type {
	case typeMember:
		value = memberOf(ev).membership
		switch value {
		case "", membershipJoin, membershipInvite, membershipLeave, membershipBan, membershipKnock:
			return value, true
		}
	case typeJoinRules:
		value = project(ev).joinRule
		switch value {
		case "", joinRulePublic, joinRuleInvite, joinRuleKnock, joinRuleRestricted, joinRuleKnockRestricted:
			return value, true
		}
	}
	return "", false
}

func memberOf(ev *event.PDU) *memberInfo {
	if m := project(ev).member; m != nil {
		return m
	}
	return new(memberInfo)
}

func createOf(ev *event.PDU) *createInfo {
	if c := project(ev).create; c != nil {
		return c
	}
	return new(createInfo)
}

// known returns the constant for a known membership, so that projections do
// not hold on to a copy each.
func known(membership string) string {
	switch membership {
	case membershipJoin:
		return membershipJoin
	case membershipInvite:
		return membershipInvite
	case membershipLeave:
		return membershipLeave
	case membershipBan:
		return membershipBan
	case membershipKnock:
		return membershipKnock
	}
	return membership
}

func parseMember(content []byte) *memberInfo {
	m := new(memberInfo)
	c, ok := object(content)
	if !ok {
		return m
	}
	if raw, ok := c.Get("membership"); ok {
		m.hasMembership = true
		s, _ := text(raw)
		m.membership = known(s)
	}
	if raw, ok := c.Get("join_authorised_via_users_server"); ok {
		m.hasAuthoriser = true
		var s string
		s, m.authoriserString = text(raw)
		m.authoriser = id.User(s)
	}
	_, m.thirdParty = c.Get("third_party_invite")
	return m
}

// parseJoinRule returns "invite" if there is no join_rule, and "" (which
// admits nobody) if it is not a string.
func parseJoinRule(content []byte) string {
	c, ok := object(content)
	if !ok {
		return ""
	}
	raw, ok := c.Get("join_rule")
	if !ok {
		return joinRuleInvite
	}
	s, _ := text(raw)
	switch s {
	case joinRulePublic:
		return joinRulePublic
	case joinRuleInvite:
		return joinRuleInvite
	case joinRuleKnock:
		return joinRuleKnock
	case joinRuleRestricted:
		return joinRuleRestricted
	case joinRuleKnockRestricted:
		return joinRuleKnockRestricted
	}
	return s
}

func parseCreate(ev *event.PDU) *createInfo {
	c, _ := object(ev.Content)
	federate, _ := c.Get("m.federate")
	info := &createInfo{federate: string(federate) != "false", creator: ev.Sender}
	if !ev.Rules.ImplicitCreator {
		s, _ := c.String("creator")
		info.creator = id.User(s)
	}
	if ev.Rules.PrivilegedCreators {
		additional, _ := c.Get("additional_creators")
		info.creators = creatorsOf(ev.Sender, additional)
	}
	return info
}

// creatorsOf is the note on room creators of version 12: the sender of the
// create event and its additional creators.
func creatorsOf(sender id.User, additional []byte) []id.User {
	creators := []id.User{sender}
	elements, ok := list(additional)
	if !ok {
		return creators
	}
	for _, raw := range elements {
		if s, ok := text(raw); ok {
			creators = append(creators, id.User(s))
		}
	}
	return creators
}

func (c *createInfo) isCreator(user id.User) bool {
	for _, u := range c.creators {
		if u == user {
			return true
		}
	}
	return false
}

// Creators lists the users with infinite power, by the create event of a room
// of version 12 or later; nil for rooms of other versions.
func Creators(create *event.PDU) []id.User {
	return append([]id.User(nil), createOf(create).creators...)
}
