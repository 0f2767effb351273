package auth_test

import (
	"errors"
	"testing"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
)

// The rule "If type is m.room.member".
func TestMember(t *testing.T) {
	runRules(t, []ruleTest{
		{"no state key", func(r *room) *event.PDU {
			return r.event(bob, "m.room.member", nil, content{"membership": "join"})
		}, "5.1 5.1 4.1 4.1 4.1 4.1 5.1"},
		{"no membership", func(r *room) *event.PDU {
			return r.stateEvent(bob, "m.room.member", string(bob), content{})
		}, "5.1 5.1 4.1 4.1 4.1 4.1 5.1"},
		{"membership is no string", func(r *room) *event.PDU {
			return r.stateEvent(bob, "m.room.member", string(bob), content{"membership": 1})
		}, "5.6 5.6 4.6 4.7 4.8 4.8 5.8"},
		{"unknown membership", func(r *room) *event.PDU { return r.memberEvent(bob, bob, "gone") },
			"5.6 5.6 4.6 4.7 4.8 4.8 5.8"},
		{"content is no object", func(r *room) *event.PDU {
			return r.stateEvent(bob, "m.room.member", string(bob), `"join"`)
		}, "5.1 5.1 4.1 4.1 4.1 4.1 5.1"},
		{"another case of the key", func(r *room) *event.PDU {
			return r.stateEvent(bob, "m.room.member", string(bob), content{"Membership": "join"})
		}, "5.1 5.1 4.1 4.1 4.1 4.1 5.1"},
	})
}

func TestMemberJoin(t *testing.T) {
	runRules(t, []ruleTest{
		{"creator after create", func(r *room) *event.PDU {
			r.joinRule("invite")
			delete(r.state, event.Tuple{Type: "m.room.member", StateKey: string(creator)})
			ev := r.memberEvent(creator, creator, "join")
			ev.PrevEvents = []id.Event{r.create.ID}
			return ev
		}, "ok"},
		{"another after create", func(r *room) *event.PDU {
			r.joinRule("invite")
			ev := r.memberEvent(carol, carol, "join")
			ev.PrevEvents = []id.Event{r.create.ID}
			return ev
		}, "5.2.6 5.2.6 4.2.6 4.2.6 4.3.7 4.3.7 5.3.7"},
		{"for another", func(r *room) *event.PDU { return r.memberEvent(creator, carol, "join") },
			"5.2.2 5.2.2 4.2.2 4.2.2 4.3.2 4.3.2 5.3.2"},
		{"banned", func(r *room) *event.PDU { r.member(carol, "ban"); return r.memberEvent(carol, carol, "join") },
			"5.2.3 5.2.3 4.2.3 4.2.3 4.3.3 4.3.3 5.3.3"},
		{"public", func(r *room) *event.PDU { return r.memberEvent(carol, carol, "join") }, "ok"},
		{"invite", joinWith("invite", ""), "5.2.6 5.2.6 4.2.6 4.2.6 4.3.7 4.3.7 5.3.7"},
		{"invite, invited", joinWith("invite", "invite"), "ok"},
		{"invite, joined", joinWith("invite", "join"), "ok"},
		{"invite, left", joinWith("invite", "leave"), "5.2.6 5.2.6 4.2.6 4.2.6 4.3.7 4.3.7 5.3.7"},
		{"knock, knocked", joinWith("knock", "knock"), "5.2.6 5.2.6 4.2.6 4.2.6 4.3.7 4.3.7 5.3.7"},
		{"knock, invited", joinWith("knock", "invite"), "5.2.6 5.2.6 4.2.6 ok ok ok ok"},
		{"restricted, joined", joinWith("restricted", "join"), "5.2.6 5.2.6 4.2.6 4.2.6 ok ok ok"},
		{"restricted, nothing", joinWith("restricted", ""), "5.2.6 5.2.6 4.2.6 4.2.6 4.3.5.2 4.3.5.2 5.3.5.2"},
		{"knock_restricted, invited", joinWith("knock_restricted", "invite"), "5.2.6 5.2.6 4.2.6 4.2.6 4.3.7 ok ok"},
		{"private", joinWith("private", "invite"), "5.2.6 5.2.6 4.2.6 4.2.6 4.3.7 4.3.7 5.3.7"},
		{"no join rules, invited", func(r *room) *event.PDU {
			delete(r.state, event.Tuple{Type: "m.room.join_rules"})
			r.member(carol, "invite")
			return r.memberEvent(carol, carol, "join")
		}, "ok"},
		{"join rule is no string", func(r *room) *event.PDU {
			r.put(creator, "m.room.join_rules", "", content{"join_rule": 1})
			r.member(carol, "invite")
			return r.memberEvent(carol, carol, "join")
		}, "5.2.6 5.2.6 4.2.6 4.2.6 4.3.7 4.3.7 5.3.7"},
		{"restricted, authorised", restricted(alice, "a", nil), "- - - - ok ok ok"},
		{"restricted, not signed", restricted(alice, "", nil), "- - - - 4.2.1 4.2.1 5.2.1"},
		{"restricted, authoriser not joined", restricted("@gone:a", "a", nil), "- - - - 4.3.5.2 4.3.5.2 5.3.5.2"},
		{"restricted, authoriser may not invite", restricted(bob, "b", content{"invite": 50}), "- - - - 4.3.5.2 4.3.5.2 5.3.5.2"},
		{"restricted, authoriser is no user", restricted("nobody", "a", nil), "- - - - 4.2.1 4.2.1 5.2.1"},
		{"authoriser of a leave must sign too", func(r *room) *event.PDU {
			return r.stateEvent(bob, "m.room.member", string(bob), content{"membership": "leave", "join_authorised_via_users_server": alice})
		}, "ok ok ok ok 4.2.1 4.2.1 5.2.1"},
	})
}

func (r *room) joinRule(rule string) {
	r.put(creator, "m.room.join_rules", "", content{"join_rule": rule})
}

// joinWith is @carol's join under a rule with a membership.
func joinWith(rule, membership string) func(*room) *event.PDU {
	return func(r *room) *event.PDU {
		r.joinRule(rule)
		if membership != "" {
			r.member(carol, membership)
		}
		return r.memberEvent(carol, carol, "join")
	}
}

// restricted is @carol's join by an authoriser, signed by a server.
func restricted(by id.User, signer string, levels content) func(*room) *event.PDU {
	return func(r *room) *event.PDU {
		r.joinRule("restricted")
		if levels != nil {
			r.powerLevels(levels)
		}
		ev := r.stateEvent(carol, "m.room.member", string(carol), content{"membership": "join", "join_authorised_via_users_server": by})
		if signer != "" {
			ev.JSON = []byte(`{"signatures":{"` + signer + `":{"ed25519:1":"c2ln"}}}`)
		}
		return ev
	}
}

// Rule 4.2: the caller may have the signature verified, or not asked for.
func TestAuthoriserSigned(t *testing.T) {
	r := newRoom(t, "11")
	ev := restricted(alice, "", nil)(r)
	bad := errors.New("bad")
	for want, opts := range map[string]auth.Options{
		"4.2.1": {AuthoriserSigned: func(*event.PDU, id.Server) error { return bad }},
		"ok":    {Unsigned: true},
	} {
		if got := ruleOf(t, auth.Check(ev, r.state, opts)); got != want {
			t.Errorf("rule %s, want %s", got, want)
		}
	}
	asked := id.Server("")
	opts := auth.Options{AuthoriserSigned: func(_ *event.PDU, s id.Server) error { asked = s; return nil }}
	if err := auth.Check(ev, r.state, opts); err != nil || asked != "a" {
		t.Errorf("asked for %q: %v", asked, err)
	}
}

func TestMemberInvite(t *testing.T) {
	runRules(t, []ruleTest{
		{"by a stranger", func(r *room) *event.PDU { return r.memberEvent("@x:y", carol, "invite") },
			"5.3.2 5.3.2 4.3.2 4.3.2 4.4.2 4.4.2 5.4.2"},
		{"of a member", func(r *room) *event.PDU { return r.memberEvent(alice, bob, "invite") },
			"5.3.3 5.3.3 4.3.3 4.3.3 4.4.3 4.4.3 5.4.3"},
		{"of a banned user", func(r *room) *event.PDU { r.member(carol, "ban"); return r.memberEvent(creator, carol, "invite") },
			"5.3.3 5.3.3 4.3.3 4.3.3 4.4.3 4.4.3 5.4.3"},
		{"by a member", func(r *room) *event.PDU { return r.memberEvent(bob, carol, "invite") }, "ok"},
		{"above one's level", func(r *room) *event.PDU {
			r.powerLevels(content{"invite": 50})
			return r.memberEvent(bob, carol, "invite")
		}, "5.3.5 5.3.5 4.3.5 4.3.5 4.4.5 4.4.5 5.4.5"},
	})
}

func TestMemberLeave(t *testing.T) {
	runRules(t, []ruleTest{
		{"joined", func(r *room) *event.PDU { return r.memberEvent(bob, bob, "leave") }, "ok"},
		{"invited", leaveFrom("invite"), "ok"},
		{"knocked", leaveFrom("knock"), "5.4.1 5.4.1 4.4.1 ok ok ok ok"},
		{"banned", leaveFrom("ban"), "5.4.1 5.4.1 4.4.1 4.4.1 4.5.1 4.5.1 5.5.1"},
		{"left", leaveFrom("leave"), "5.4.1 5.4.1 4.4.1 4.4.1 4.5.1 4.5.1 5.5.1"},
		{"kick by a stranger", func(r *room) *event.PDU { return r.memberEvent(carol, bob, "leave") },
			"5.4.2 5.4.2 4.4.2 4.4.2 4.5.2 4.5.2 5.5.2"},
		{"unban without the ban level", func(r *room) *event.PDU {
			r.powerLevels(content{"ban": 51})
			r.member(carol, "ban")
			return r.memberEvent(alice, carol, "leave")
		}, "5.4.3 5.4.3 4.4.3 4.4.3 4.5.3 4.5.3 5.5.3"},
		{"unban without the kick level", func(r *room) *event.PDU {
			r.powerLevels(content{"kick": 51})
			r.member(carol, "ban")
			return r.memberEvent(alice, carol, "leave")
		}, "5.4.5 5.4.5 4.4.5 4.4.5 4.5.5 4.5.5 5.5.5"},
		{"unban", func(r *room) *event.PDU { r.member(carol, "ban"); return r.memberEvent(alice, carol, "leave") }, "ok"},
		{"kick", func(r *room) *event.PDU { return r.memberEvent(alice, bob, "leave") }, "ok"},
		{"kick of an equal", func(r *room) *event.PDU {
			r.powerLevels(content{"users_default": 50})
			return r.memberEvent(alice, bob, "leave")
		}, "5.4.5 5.4.5 4.4.5 4.4.5 4.5.5 4.5.5 5.5.5"},
		{"kick by a member", func(r *room) *event.PDU { return r.memberEvent(bob, alice, "leave") },
			"5.4.5 5.4.5 4.4.5 4.4.5 4.5.5 4.5.5 5.5.5"},
		{"kick of the creator", func(r *room) *event.PDU { return r.memberEvent(alice, creator, "leave") },
			"5.4.5 5.4.5 4.4.5 4.4.5 4.5.5 4.5.5 5.5.5"},
	})
}

func leaveFrom(membership string) func(*room) *event.PDU {
	return func(r *room) *event.PDU {
		r.member(carol, membership)
		return r.memberEvent(carol, carol, "leave")
	}
}

func TestMemberBan(t *testing.T) {
	runRules(t, []ruleTest{
		{"by a stranger", func(r *room) *event.PDU { return r.memberEvent(carol, bob, "ban") },
			"5.5.1 5.5.1 4.5.1 4.5.1 4.6.1 4.6.1 5.6.1"},
		{"by a moderator", func(r *room) *event.PDU { return r.memberEvent(alice, bob, "ban") }, "ok"},
		{"of nobody yet", func(r *room) *event.PDU { return r.memberEvent(alice, carol, "ban") }, "ok"},
		{"by a member", func(r *room) *event.PDU { return r.memberEvent(bob, carol, "ban") },
			"5.5.3 5.5.3 4.5.3 4.5.3 4.6.3 4.6.3 5.6.3"},
		{"of the creator", func(r *room) *event.PDU { return r.memberEvent(alice, creator, "ban") },
			"5.5.3 5.5.3 4.5.3 4.5.3 4.6.3 4.6.3 5.6.3"},
		{"of oneself", func(r *room) *event.PDU { return r.memberEvent(alice, alice, "ban") },
			"5.5.3 5.5.3 4.5.3 4.5.3 4.6.3 4.6.3 5.6.3"},
	})
}

func TestMemberKnock(t *testing.T) {
	const unknown = "5.6 5.6 4.6 "
	runRules(t, []ruleTest{
		{"public room", knockWith("public", ""), unknown + "4.6.1 4.7.1 4.7.1 5.7.1"},
		{"knock", knockWith("knock", ""), unknown + "ok ok ok ok"},
		{"knock_restricted", knockWith("knock_restricted", ""), unknown + "4.6.1 4.7.1 ok ok"},
		{"left", knockWith("knock", "leave"), unknown + "ok ok ok ok"},
		{"invited", knockWith("knock", "invite"), unknown + "4.6.4 4.7.4 4.7.4 5.7.4"},
		{"joined", knockWith("knock", "join"), unknown + "4.6.4 4.7.4 4.7.4 5.7.4"},
		{"banned", knockWith("knock", "ban"), unknown + "4.6.4 4.7.4 4.7.4 5.7.4"},
		{"for another", func(r *room) *event.PDU {
			r.joinRule("knock")
			return r.memberEvent(bob, carol, "knock")
		}, unknown + "4.6.2 4.7.2 4.7.2 5.7.2"},
	})
}

func knockWith(rule, membership string) func(*room) *event.PDU {
	return func(r *room) *event.PDU {
		r.joinRule(rule)
		if membership != "" {
			r.member(carol, membership)
		}
		return r.memberEvent(carol, carol, "knock")
	}
}
