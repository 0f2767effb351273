//go:build interop

package interop

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"

	"hanse/tools/mxclient"
)

// Rooms in which people do anything, on both sides of several splits. The seed is in the room's name.
func TestRandomSplits(t *testing.T) {
	const inOneSplit, splits = 48, 3
	seeds, first := number(t, "INTEROP_SEEDS", 6), number(t, "INTEROP_SEED", 1)
	h, s := sides()
	casts := []cast{newCast(t, h, s), newCast(t, s, h)}
	var halls []string
	for i := range casts {
		halls = append(halls, hall(t, &casts[i]))
	}
	for from := first; from < first+seeds; from += inOneSplit {
		var forks []*fork
		rngs := make(map[*fork]*chance)
		for seed := from; seed < min(from+inOneSplit, first+seeds); seed++ {
			version, on := splitVersions[seed%len(splitVersions)], seed/len(splitVersions)%2
			f := &fork{name: fmt.Sprintf("seed %d, version %s, made on %s", seed, version, casts[on].boss.server.name), version: version, cast: casts[on]}
			forks = append(forks, f)
			rngs[f] = &chance{fork: f, rng: rand.New(rand.NewPCG(uint64(seed), 1)), hall: halls[on]}
		}
		openAll(t, forks, func(f *fork) {})
		for range splits {
			split(t, forks, func(f *fork) { rngs[f].act(4 + rngs[f].rng.IntN(14)) }, func(f *fork) { rngs[f].act(rngs[f].rng.IntN(4)) })
		}
		for _, f := range forks {
			t.Run(f.name, func(t *testing.T) { f.check(t) })
		}
	}
}

func number(t *testing.T, name string, otherwise int) int {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// hall is a room that everybody of a cast is in, for restricted rooms.
func hall(t *testing.T, c *cast) string {
	room, err := c.boss.CreateRoom(t.Context(), mxclient.NewRoom{RoomVersion: "11", Preset: "public_chat"})
	c.boss.must(t, "create", err)
	for _, p := range c.all()[1:] {
		_, err := p.Join(t.Context(), room, c.boss.server.serverName)
		p.must(t, "join", err)
	}
	sameState(t, room, c.boss, c.guest)
	return room
}

func (c *cast) all() []*person {
	return []*person{c.boss, c.aide, c.clerk, c.stray, c.guest, c.friend, c.rival, c.waif}
}

// chance does things to a fork that nobody planned. Boss and guest stay in the room, with more power than all others: so that
// both servers are in it, and somebody of each may speak.
type chance struct {
	*fork
	rng  *rand.Rand
	hall string
	n    int
}

// act lets somebody do something, some times. Much is forbidden, which is as good.
func (c *chance) act(times int) {
	for range times {
		p := c.all()[c.rng.IntN(8)]
		what, eventID, err := c.do(p)
		c.n++
		var refused *mxclient.Error
		switch {
		case err == nil && eventID != "":
			c.add(p, eventID, what)
		case err == nil, errors.As(err, &refused) && (refused.Status < 500 || refused.Status > 500):
		default:
			c.note(p.id+" "+what, err)
		}
	}
}

// pick takes one of a list.
func pick[T any](c *chance, list ...T) T { return list[c.rng.IntN(len(list))] }

// target is somebody to whom something is done.
func (c *chance) target() *person {
	return pick(c, c.aide, c.clerk, c.stray, c.friend, c.rival, c.waif)
}

func (c *chance) do(p *person) (what, eventID string, err error) {
	ctx := context.Background()
	set := func(typ, key string, content any) (string, string, error) {
		e, err := p.SendState(ctx, c.room, typ, key, content)
		return fmt.Sprintf("%s %q", typ, key), e, err
	}
	member := func(target *person, membership string) (string, string, error) {
		content := map[string]string{"membership": membership, "reason": fmt.Sprint("number ", c.n)}
		return set("m.room.member", target.id, content)
	}
	switch c.rng.IntN(16) {
	case 0:
		text := fmt.Sprint("number ", c.n)
		e, err := p.SendText(ctx, c.room, fmt.Sprintf("txn%d", everybody.Add(1)), text)
		return text, e, err
	case 1:
		return set("m.room.topic", "", map[string]string{"topic": fmt.Sprint("number ", c.n)})
	case 2:
		return set(pick(c, "org.example.a", "org.example.b"), pick(c, "", "x", p.id, c.target().id), map[string]int{"number": c.n})
	case 3:
		return set("m.room.member", p.id, map[string]string{"membership": "join", "displayname": fmt.Sprint("Number ", c.n)})
	case 4, 5, 6:
		return c.levels(p)
	case 7:
		return member(c.target(), "ban")
	case 8:
		return member(c.target(), "leave")
	case 9:
		return member(c.target(), "invite")
	case 10, 11:
		_, err := p.Join(ctx, c.room)
		return "join", "", err
	case 12:
		if p == c.boss || p == c.guest {
			return member(c.target(), "leave")
		}
		return member(p, "leave")
	case 13:
		return c.rule(p)
	case 14:
		if p == c.boss || p == c.guest {
			return set("m.room.server_acl", "", map[string]any{"allow": []string{"*"}, "deny": []string{fmt.Sprintf("n%d.example", c.n)}, "allow_ip_literals": true})
		}
		if !c.newer() {
			return member(c.target(), "leave")
		}
		return "knock", "", p.Knock(ctx, c.room, "please", p.server.serverName)
	default:
		if len(c.sent) == 0 {
			return set("m.room.name", "", map[string]string{"name": fmt.Sprint("number ", c.n)})
		}
		target := pick(c, c.sent...)
		if strings.HasPrefix(c.what[target].what, "m.room.server_acl") { // redacted, it denies all servers
			return redaction, "", nil
		}
		e, err := p.Redact(ctx, c.room, target, fmt.Sprintf("txn%d", everybody.Add(1)), "")
		return redaction, e, err
	}
}

// levels changes something of the power levels.
func (c *chance) levels(p *person) (what, eventID string, err error) {
	var now map[string]any
	if err := p.StateContent(context.Background(), c.room, "m.room.power_levels", "", &now); err != nil {
		return "levels", "", err
	}
	switch c.rng.IntN(6) {
	case 0:
		now[pick(c, "ban", "kick", "redact", "state_default")] = pick(c, 0, 25, 50, 60, 80)
	case 1:
		now[pick(c, "invite", "users_default", "events_default")] = pick(c, 0, 1, 25, 50)
	case 2:
		events, _ := now["events"].(map[string]any)
		if events == nil {
			events = make(map[string]any)
		}
		events[pick(c, "m.room.topic", "m.room.power_levels", "org.example.a", "m.room.join_rules")] = pick(c, 0, 25, 50, 60, 80)
		now["events"] = events
	default:
		users, _ := now["users"].(map[string]any)
		if users == nil {
			users = make(map[string]any)
		}
		if target := c.target().id; c.rng.IntN(6) == 0 {
			delete(users, target)
		} else {
			users[target] = pick(c, 0, 25, 50, 55, 60, 75, 85)
		}
		now["users"] = users
	}
	e, err := p.SendState(context.Background(), c.room, "m.room.power_levels", "", now)
	return "levels", e, err
}

// newer says whether the room version has knocks and restricted rooms.
func (c *chance) newer() bool { return len(c.version) == 2 }

// rule changes who may come in.
func (c *chance) rule(p *person) (what, eventID string, err error) {
	rules := []string{"public", "public", "public", "invite", "invite", "private"}
	if c.newer() {
		rules = append(rules, "knock", "restricted", "restricted", "knock_restricted")
	}
	rule := pick(c, rules...)
	content := map[string]any{"join_rule": rule}
	if rule == "restricted" || rule == "knock_restricted" {
		content["allow"] = []map[string]string{{"type": "m.room_membership", "room_id": c.hall}}
	}
	e, err := p.SendState(context.Background(), c.room, "m.room.join_rules", "", content)
	return "rule " + rule, e, err
}
