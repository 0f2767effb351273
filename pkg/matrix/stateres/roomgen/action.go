package roomgen

import (
	"encoding/json"
	"fmt"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/stateres"
)

// action is an event that somebody might send.
type action struct {
	sender   id.User
	typ      string
	stateKey *string
	content  Content
}

// action draws something to try in a state.
func (g *Generator) action(before stateres.Set) action {
	sender, target := g.user(), g.user()
	member := func(on id.User, membership string) action {
		return action{sender, "m.room.member", Key(string(on)), Content{"membership": membership}}
	}
	state := func(typ, key string, c Content) action { return action{sender, typ, Key(key), c} }
	switch g.rand.IntN(16) {
	case 0, 1, 2:
		a := member(sender, "join")
		a.content["displayname"] = g.name()
		return a
	case 3:
		return g.restrictedJoin(before, sender)
	case 4:
		return member(sender, "leave")
	case 5, 6:
		return member(target, "invite")
	case 7:
		return member(sender, "knock")
	case 8:
		return member(target, "leave")
	case 9:
		return member(target, "ban")
	case 10, 11:
		return state("m.room.power_levels", "", g.powerLevels(before))
	case 12:
		return state("m.room.join_rules", "", g.joinRule())
	case 13:
		return state("m.room.topic", "", Content{"topic": g.name()})
	case 14:
		return state("org.example.note", g.pick("", string(sender), "a", "b"), g.text())
	}
	return action{sender, "m.room.message", nil, g.text()}
}

func (g *Generator) user() id.User { return g.Users[g.rand.IntN(len(g.Users))] }

func (g *Generator) pick(of ...string) string { return of[g.rand.IntN(len(of))] }

func (g *Generator) name() string {
	g.n++
	return fmt.Sprintf("n%d", g.n)
}

func (g *Generator) text() Content { return Content{"body": g.name(), "msgtype": "m.text"} }

// joinRule draws among the rules of the room version.
func (g *Generator) joinRule() Content {
	rules := []string{"public", "public", "invite"}
	if g.Rules.Knocking {
		rules = append(rules, "knock")
	}
	if g.Rules.RestrictedJoin {
		rules = append(rules, "restricted")
	}
	if g.Rules.KnockRestricted {
		rules = append(rules, "knock_restricted")
	}
	c := Content{"join_rule": g.pick(rules...)}
	if c["join_rule"] == "restricted" || c["join_rule"] == "knock_restricted" {
		c["allow"] = []Content{{"type": "m.room_membership", "room_id": "!other:s0.example.org"}}
	}
	return c
}

// restrictedJoin is a join that a joined user authorises.
func (g *Generator) restrictedJoin(before stateres.Set, sender id.User) action {
	c := Content{"membership": "join"}
	if g.Rules.RestrictedJoin {
		for range g.Users {
			u := g.user()
			if ev := g.Lookup(before).StateEvent("m.room.member", string(u)); ev != nil && ev.Membership() == "join" {
				c["join_authorised_via_users_server"] = u
				break
			}
		}
	}
	return action{sender, "m.room.member", Key(string(sender)), c}
}

// powerLevels changes one thing in the current power levels.
func (g *Generator) powerLevels(before stateres.Set) Content {
	c := Content{}
	if ev := g.Lookup(before).StateEvent("m.room.power_levels", ""); ev != nil {
		if err := json.Unmarshal(ev.Content, &c); err != nil {
			panic(fmt.Sprintf("content of our own event: %v", err))
		}
	}
	level := []int{0, 0, 25, 50, 50, 75, 100}[g.rand.IntN(7)]
	change := func(name, key string) {
		m, _ := c[name].(map[string]any)
		if m == nil {
			m = Content{}
		}
		if g.rand.IntN(4) == 0 {
			delete(m, key)
		} else {
			m[key] = level
		}
		c[name] = m
	}
	switch g.rand.IntN(6) {
	case 0:
		c[g.pick("ban", "kick", "invite", "redact", "state_default", "users_default")] = level
	case 1:
		change("events", g.pick("m.room.topic", "m.room.join_rules", "org.example.note", "m.room.power_levels"))
	case 2:
		change("notifications", "room")
	default:
		if u := g.user(); !g.creator(u) {
			change("users", string(u))
		}
	}
	return c
}

func (g *Generator) creator(u id.User) bool {
	for _, c := range auth.Creators(g.Create) {
		if c == u {
			return true
		}
	}
	return false
}
