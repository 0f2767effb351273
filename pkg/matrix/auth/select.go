package auth

import (
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
)

// Event types that the rules name.
const (
	typeCreate           = "m.room.create"
	typeMember           = "m.room.member"
	typePowerLevels      = "m.room.power_levels"
	typeJoinRules        = "m.room.join_rules"
	typeThirdPartyInvite = "m.room.third_party_invite"
	typeAliases          = "m.room.aliases"
	typeRedaction        = "m.room.redaction"
)

// Needed lists the state that an event with these fields should cite as auth
// events, without duplicates: "Auth events selection" of the server-server
// API. Pairs that the room does not have are left out by the caller. Content
// that is malformed selects nothing.
func Needed(rules *roomversion.Rules, typ string, stateKey *string, sender id.User, content []byte) []event.Tuple {
	if typ == typeCreate {
		return nil
	}
	var m *memberInfo
	if typ == typeMember && stateKey != nil {
		m = parseMember(content)
	}
	return needed(rules, stateKey, sender, content, m, make([]event.Tuple, 0, 6))
}

// NeededBy is [Needed] for an event that exists.
func NeededBy(ev *event.PDU) []event.Tuple {
	return appendNeeded(make([]event.Tuple, 0, 6), ev)
}

// NeededByDraft is [Needed] for an event that is about to be built.
func NeededByDraft(d *event.Draft, rules *roomversion.Rules) []event.Tuple {
	return Needed(rules, d.Type, d.StateKey, d.Sender, d.Content)
}

func appendNeeded(to []event.Tuple, ev *event.PDU) []event.Tuple {
	if ev.Type == typeCreate {
		return to
	}
	var m *memberInfo
	if ev.Type == typeMember && ev.StateKey != nil {
		m = memberOf(ev)
	}
	return needed(ev.Rules, ev.StateKey, ev.Sender, ev.Content, m, to)
}

// needed appends the selection; m is set for state events of type
// m.room.member only.
func needed(rules *roomversion.Rules, stateKey *string, sender id.User, content []byte, m *memberInfo, to []event.Tuple) []event.Tuple {
	if !rules.RoomIDIsCreateHash {
		to = append(to, event.Tuple{Type: typeCreate})
	}
	to = append(to, event.Tuple{Type: typePowerLevels}, event.Tuple{Type: typeMember, StateKey: string(sender)})
	if m == nil {
		return to
	}
	if *stateKey != string(sender) {
		to = append(to, event.Tuple{Type: typeMember, StateKey: *stateKey})
	}
	switch m.membership {
	case membershipJoin, membershipInvite, membershipKnock:
		to = append(to, event.Tuple{Type: typeJoinRules})
	}
	if m.membership == membershipInvite && m.thirdParty {
		if token, ok := thirdPartyToken(content); ok {
			to = append(to, event.Tuple{Type: typeThirdPartyInvite, StateKey: token})
		}
	}
	if m.membership == membershipJoin && rules.RestrictedJoin && m.authoriserString {
		if a := string(m.authoriser); a != string(sender) && a != *stateKey {
			to = append(to, event.Tuple{Type: typeMember, StateKey: a})
		}
	}
	return to
}
