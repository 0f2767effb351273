package auth

import (
	"strings"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
)

// Lookup is a state of a room: the event for a (type, state key) pair, or nil.
type Lookup interface {
	StateEvent(typ, stateKey string) *event.PDU
}

// State is a [Lookup] over a map.
type State map[event.Tuple]*event.PDU

// StateEvent implements [Lookup].
func (s State) StateEvent(typ, stateKey string) *event.PDU {
	return s[event.Tuple{Type: typ, StateKey: stateKey}]
}

// Events is a [Lookup] over a few events, such as the auth events of an event.
// Of two events with the same pair the last one counts.
type Events []*event.PDU

// StateEvent implements [Lookup].
func (s Events) StateEvent(typ, stateKey string) *event.PDU {
	for i := len(s) - 1; i >= 0; i-- {
		if ev := s[i]; ev != nil && ev.StateKey != nil && ev.Type == typ && *ev.StateKey == stateKey {
			return ev
		}
	}
	return nil
}

// Options adjust a check. The zero value is right for events whose signatures
// were verified on receipt.
type Options struct {
	// Rejected tells whether an event was rejected on receipt. It is asked for
	// auth events and, since version 12, for the create event. Nil means that
	// none was.
	Rejected func(id.Event) bool
	// AuthoriserSigned verifies that the event carries a valid signature of the
	// server of join_authorised_via_users_server. Nil means that the caller has
	// verified all signatures that the event needs (PDU.SigningServers), and
	// that a signature of that server merely has to be there.
	AuthoriserSigned func(ev *event.PDU, server id.Server) error
	// Unsigned is for an event that is still to be signed, such as the template
	// of a restricted join: no signature is asked for.
	Unsigned bool
}

// check is one event against one state.
type check struct {
	ev    *event.PDU
	rules *roomversion.Rules
	n     numbering
	st    Lookup
	opts  Options

	create *event.PDU
	levels *event.PDU // once asked: see currentLevels
	asked  bool
}

// Check applies the authorisation rules of the event's room version, except
// for those that consider its auth_events ([CheckAuthEvents]), to an event and
// a state. A refusal is an [*Error].
func Check(ev *event.PDU, st Lookup, opts Options) error {
	c := check{ev: ev, rules: ev.Rules, n: numbering{ev.Rules}, st: st, opts: opts}
	if err := c.run(); err != nil {
		return err
	}
	return nil
}

func (c *check) run() *Error {
	if c.ev.Overlong {
		return c.reject("size limits", "the type or the state key has more than %d bytes", event.MaxFieldBytes)
	}
	if c.ev.Type == typeCreate {
		return c.checkCreate()
	}
	if err := c.findCreate(); err != nil {
		return err
	}
	if !createOf(c.create).federate && c.ev.Sender.Server() != c.create.Sender.Server() {
		return c.reject(c.n.federate(), "the room does not federate with %s", c.ev.Sender.Server())
	}
	if c.rules.SpecialAliasesAuth && c.ev.Type == typeAliases {
		return c.checkAliases()
	}
	if c.ev.Type == typeMember {
		return c.checkMember()
	}
	if m := c.membership(string(c.ev.Sender)); m != membershipJoin {
		return c.reject(c.n.notJoined(), "sender %s is not joined (%q)", c.ev.Sender, m)
	}
	sender, err := c.power(c.ev.Sender)
	if err != nil {
		return c.reject(c.n.requiredLevel(), "power level of the sender: %v", err)
	}
	if c.ev.Type == typeThirdPartyInvite {
		return c.checkThirdPartyInviteLevel(sender)
	}
	return c.checkSend(sender)
}

// checkSend is everything after the membership rules.
func (c *check) checkSend(sender int64) *Error {
	required, err := c.powerLevels().Required(c.ev.Type, c.ev.StateKey != nil)
	if err != nil {
		return c.reject(c.n.requiredLevel(), "required power level: %v", err)
	}
	if required > sender {
		return c.reject(c.n.requiredLevel(), "%s needs power level %d, sender %s has %d", c.ev.Type, required, c.ev.Sender, sender)
	}
	if k := c.ev.StateKey; k != nil {
		if err := c.checkStateKey(*k, sender); err != nil {
			return err
		}
	}
	switch {
	case c.ev.Type == typePowerLevels:
		return c.checkPowerLevels(sender)
	case c.ev.Type == typeRedaction && c.rules.RedactionAuthRule:
		return c.checkRedaction(sender)
	}
	return nil
}

// checkStateKey refuses state keys that belong to others.
func (c *check) checkStateKey(key string, sender int64) *Error {
	isUser := strings.HasPrefix(key, "@")
	switch {
	case !c.rules.OwnedState && isUser && key != string(c.ev.Sender):
		return c.reject(c.n.stateKey(), "state key %q is not the sender", key)
	case c.rules.OwnedState && isUser:
		return c.checkOwner(key, sender)
	case c.rules.OwnedState && len(key) > event.MaxFieldBytes:
		return c.reject(c.n.stateKey(), "the state key has more than %d bytes", event.MaxFieldBytes)
	}
	return nil
}

// maxOwnedSuffix is how many bytes may follow the owner in a state key, the _ included.
const maxOwnedSuffix = 256

// checkOwner is the rule of MSC3757: a state key begins with the id of its owner, behind which a _ may follow and anything. It is for
// the owner, and for who has more power.
func (c *check) checkOwner(key string, sender int64) *Error {
	owner, suffix := key, ""
	if colon := strings.IndexByte(key, ':'); colon >= 0 {
		if n := strings.IndexByte(key[colon:], '_'); n >= 0 {
			owner, suffix = key[:colon+n], key[colon+n:]
		}
	}
	user, err := id.ParseUser(owner)
	switch {
	case err != nil:
		return c.reject(c.n.stateKey(), "state key %q begins with no user id", key)
	case len(suffix) > maxOwnedSuffix:
		return c.reject(c.n.stateKey(), "more than %d bytes follow the owner in the state key", maxOwnedSuffix)
	case user == c.ev.Sender:
		return nil
	}
	level, err := c.power(user)
	if err != nil {
		return c.reject(c.n.stateKey(), "power level of the owner: %v", err)
	}
	if sender <= level {
		return c.reject(c.n.stateKey(), "state key %q is of a user with power level %d, sender %s has %d", key, level, c.ev.Sender, sender)
	}
	return nil
}

// findCreate finds the create event of the room. To version 11 it is one of
// the auth events (rules 2.4 and 2.5), since version 12 the room ID names it
// (rule 2).
func (c *check) findCreate() *Error {
	c.create = c.st.StateEvent(typeCreate, "")
	if c.rules.RoomIDIsCreateHash {
		if c.create == nil || !namesCreate(c.ev.RoomID, c.create.ID) {
			return c.reject(c.n.roomID(), "room %s is not named by an m.room.create event", c.ev.RoomID)
		}
		if c.opts.Rejected != nil && c.opts.Rejected(c.create.ID) {
			return c.reject(c.n.roomID(), "the create event %s was rejected", c.create.ID)
		}
		return nil
	}
	if c.create == nil {
		return c.reject(c.n.authEventsCreate(), "no m.room.create event")
	}
	if c.create.RoomID != c.ev.RoomID {
		return c.reject(c.n.authEventsRoom(), "m.room.create event of room %s in room %s", c.create.RoomID, c.ev.RoomID)
	}
	return nil
}

// namesCreate: the room ID is the ID of the create event with another sigil.
func namesCreate(room id.Room, create id.Event) bool {
	return len(room) > 1 && len(room) == len(create) && room[0] == '!' && create[0] == '$' && string(room[1:]) == string(create[1:])
}

// CreateEventID returns the ID of the create event that a room ID of version
// 12 or later names.
func CreateEventID(room id.Room) id.Event {
	if room == "" {
		return ""
	}
	return id.Event("$" + string(room[1:]))
}

func (c *check) reject(rule, format string, args ...any) *Error {
	return reject(c.rules, rule, format, args...)
}

// membership is a user's current membership, "" if there is none.
func (c *check) membership(user string) string {
	if ev := c.st.StateEvent(typeMember, user); ev != nil {
		return memberOf(ev).membership
	}
	return ""
}

func (c *check) power(user id.User) (int64, error) {
	return powerOf(user, c.create, c.currentLevels())
}

// currentLevels is the power levels event of the state. Only rules that need it look it up: what a check depends on is what it
// asked for (package resolve).
func (c *check) currentLevels() *event.PDU {
	if !c.asked {
		c.levels, c.asked = c.st.StateEvent(typePowerLevels, ""), true
	}
	return c.levels
}

func (c *check) powerLevels() *PowerLevels {
	if levels := c.currentLevels(); levels != nil {
		return project(levels).power
	}
	return nil
}

// joinRule is the current join rule; a room without one is for the invited.
func (c *check) joinRule() string {
	if ev := c.st.StateEvent(typeJoinRules, ""); ev != nil {
		return project(ev).joinRule
	}
	return joinRuleInvite
}

// checkAliases is rule 4 of versions 1 to 5.
func (c *check) checkAliases() *Error {
	if c.ev.StateKey == nil {
		return c.reject(c.n.aliases(1), "no state_key")
	}
	if string(c.ev.Sender.Server()) != *c.ev.StateKey {
		return c.reject(c.n.aliases(2), "state key %q is not the sender's server", *c.ev.StateKey)
	}
	return nil
}

// checkThirdPartyInviteLevel: allow if and only if the sender may invite.
func (c *check) checkThirdPartyInviteLevel(sender int64) *Error {
	invite, err := c.powerLevels().Invite()
	if err != nil {
		return c.reject(c.n.thirdPartyInvite(), "invite level: %v", err)
	}
	if sender < invite {
		return c.reject(c.n.thirdPartyInvite(), "invite level is %d, sender %s has %d", invite, c.ev.Sender, sender)
	}
	return nil
}

// checkRedaction is rule 11 of versions 1 and 2.
func (c *check) checkRedaction(sender int64) *Error {
	redact, err := c.powerLevels().Redact()
	if err != nil {
		return c.reject(c.n.redaction(3), "redact level: %v", err)
	}
	if sender >= redact {
		return nil
	}
	if server := domain(string(c.ev.ID)); server != "" && server == domain(string(c.ev.Redacts)) {
		return nil
	}
	return c.reject(c.n.redaction(3), "redact level is %d, sender %s has %d, and the event is of another server", redact, c.ev.Sender, sender)
}

// domain is what follows the first colon of an identifier.
func domain(identifier string) string {
	_, server, _ := strings.Cut(identifier, ":")
	return server
}
