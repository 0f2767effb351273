package auth

import (
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/signing"
)

// checkMember is the rule for m.room.member.
func (c *check) checkMember() *Error {
	m := memberOf(c.ev)
	if c.ev.StateKey == nil {
		return c.reject(c.n.member(1), "no state_key")
	}
	if !m.hasMembership {
		return c.reject(c.n.member(1), "no membership")
	}
	if c.rules.RestrictedJoin && m.hasAuthoriser {
		if err := c.checkAuthoriserSigned(m); err != nil {
			return err
		}
	}
	target := id.User(*c.ev.StateKey)
	switch {
	case m.membership == membershipJoin:
		return c.checkJoin(m, target)
	case m.membership == membershipInvite:
		return c.checkInvite(m, target)
	case m.membership == membershipLeave:
		return c.checkLeave(target)
	case m.membership == membershipBan:
		return c.checkBan(target)
	case m.membership == membershipKnock && c.rules.Knocking:
		return c.checkKnock(target)
	}
	return c.reject(c.n.unknownMembership(), "membership %q is unknown", m.membership)
}

// checkAuthoriserSigned: since version 8, an event with
// join_authorised_via_users_server is signed by the server of that user,
// whatever its membership is.
func (c *check) checkAuthoriserSigned(m *memberInfo) *Error {
	if c.opts.Unsigned {
		return nil
	}
	user, err := id.ParseUser(string(m.authoriser))
	if err != nil {
		return c.reject(c.n.authoriser(), "join_authorised_via_users_server: %v", err)
	}
	server := user.Server()
	if verify := c.opts.AuthoriserSigned; verify != nil {
		if err := verify(c.ev, server); err != nil {
			return c.reject(c.n.authoriser(), "signature of the authorising server %s: %v", server, err)
		}
		return nil
	}
	if len(signing.SignatureKeyIDs(c.ev.JSON, server)) == 0 {
		return c.reject(c.n.authoriser(), "no signature of the authorising server %s", server)
	}
	return nil
}

func (c *check) checkJoin(m *memberInfo, target id.User) *Error {
	if len(c.ev.PrevEvents) == 1 && c.ev.PrevEvents[0] == c.create.ID && target != "" && target == createOf(c.create).creator {
		return nil
	}
	if c.ev.Sender != target {
		return c.reject(c.n.join(2), "%s cannot join as %s", c.ev.Sender, target)
	}
	current := c.membership(string(target))
	if current == membershipBan {
		return c.reject(c.n.join(3), "%s is banned", target)
	}
	expected := current == membershipJoin || current == membershipInvite
	rule := c.joinRule()
	switch {
	case rule == joinRulePublic:
		return nil
	case rule == joinRuleInvite || rule == joinRuleKnock && c.rules.Knocking:
		if expected {
			return nil
		}
	case rule == joinRuleRestricted && c.rules.RestrictedJoin, rule == joinRuleKnockRestricted && c.rules.KnockRestricted:
		if expected {
			return nil
		}
		return c.checkRestrictedJoin(m)
	}
	return c.reject(c.n.joinOtherwise(), "join rule is %q and the membership of %s is %q", rule, target, current)
}

// checkRestrictedJoin: the authorising user is joined and may invite.
func (c *check) checkRestrictedJoin(m *memberInfo) *Error {
	if !m.authoriserString || m.authoriser == "" {
		return c.reject(c.n.restrictedJoin(), "no join_authorised_via_users_server")
	}
	if current := c.membership(string(m.authoriser)); current != membershipJoin {
		return c.reject(c.n.restrictedJoin(), "authorising user %s is not joined (%q)", m.authoriser, current)
	}
	ok, level, invite, err := c.mayInvite(m.authoriser)
	if err != nil {
		return c.reject(c.n.restrictedJoin(), "invite level: %v", err)
	}
	if !ok {
		return c.reject(c.n.restrictedJoin(), "invite level is %d, authorising user %s has %d", invite, m.authoriser, level)
	}
	return nil
}

func (c *check) mayInvite(user id.User) (ok bool, level, invite int64, err error) {
	if level, err = c.power(user); err != nil {
		return false, 0, 0, err
	}
	if invite, err = c.powerLevels().Invite(); err != nil {
		return false, 0, 0, err
	}
	return level >= invite, level, invite, nil
}

func (c *check) checkInvite(m *memberInfo, target id.User) *Error {
	current := c.membership(string(target))
	if m.thirdParty {
		return c.checkInviteByThirdParty(target, current)
	}
	if s := c.membership(string(c.ev.Sender)); s != membershipJoin {
		return c.reject(c.n.invite(2), "sender %s is not joined (%q)", c.ev.Sender, s)
	}
	if current == membershipJoin || current == membershipBan {
		return c.reject(c.n.invite(3), "the membership of %s is %q", target, current)
	}
	ok, level, invite, err := c.mayInvite(c.ev.Sender)
	if err != nil {
		return c.reject(c.n.invite(5), "invite level: %v", err)
	}
	if !ok {
		return c.reject(c.n.invite(5), "invite level is %d, sender %s has %d", invite, c.ev.Sender, level)
	}
	return nil
}

func (c *check) checkLeave(target id.User) *Error {
	current := c.membership(string(c.ev.Sender))
	if c.ev.Sender == target {
		switch {
		case current == membershipInvite, current == membershipJoin:
			return nil
		case current == membershipKnock && c.rules.Knocking:
			return nil
		}
		return c.reject(c.n.leave(1), "%s cannot leave: membership is %q", target, current)
	}
	if current != membershipJoin {
		return c.reject(c.n.leave(2), "sender %s is not joined (%q)", c.ev.Sender, current)
	}
	sender, err := c.power(c.ev.Sender)
	if err != nil {
		return c.reject(c.n.leave(5), "power level of the sender: %v", err)
	}
	if c.membership(string(target)) == membershipBan {
		ban, err := c.powerLevels().Ban()
		if err != nil {
			return c.reject(c.n.leave(3), "ban level: %v", err)
		}
		if sender < ban {
			return c.reject(c.n.leave(3), "ban level is %d, sender %s has %d", ban, c.ev.Sender, sender)
		}
	}
	kick, err := c.powerLevels().Kick()
	if err != nil {
		return c.reject(c.n.leave(5), "kick level: %v", err)
	}
	if err := c.outranks(sender, kick, target); err != "" {
		return c.reject(c.n.leave(5), "kick: %s", err)
	}
	return nil
}

func (c *check) checkBan(target id.User) *Error {
	if current := c.membership(string(c.ev.Sender)); current != membershipJoin {
		return c.reject(c.n.ban(1), "sender %s is not joined (%q)", c.ev.Sender, current)
	}
	sender, err := c.power(c.ev.Sender)
	if err != nil {
		return c.reject(c.n.ban(3), "power level of the sender: %v", err)
	}
	ban, err := c.powerLevels().Ban()
	if err != nil {
		return c.reject(c.n.ban(3), "ban level: %v", err)
	}
	if err := c.outranks(sender, ban, target); err != "" {
		return c.reject(c.n.ban(3), "ban: %s", err)
	}
	return nil
}

func (c *check) checkKnock(target id.User) *Error {
	rule := c.joinRule()
	if rule != joinRuleKnock && (rule != joinRuleKnockRestricted || !c.rules.KnockRestricted) {
		return c.reject(c.n.knock(1), "join rule is %q", rule)
	}
	if c.ev.Sender != target {
		return c.reject(c.n.knock(2), "%s cannot knock as %s", c.ev.Sender, target)
	}
	switch current := c.membership(string(target)); current {
	case membershipBan, membershipInvite, membershipJoin:
		return c.reject(c.n.knock(4), "membership of %s is %q", target, current)
	}
	return nil
}
