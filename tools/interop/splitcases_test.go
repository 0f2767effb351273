//go:build interop

package interop

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"hanse/tools/mxclient"
)

// scenario is what is done to a room on both sides of a split.
type scenario struct {
	name string
	// versions of the room; nil: all of splitVersions.
	versions []string
	// before, apart and then after the healing; nil: nothing.
	before, apart, after func(f *fork)
	// want are memberships and the like that must be in force in the end, as the specification has it: what they are of.
	want func(f *fork) error
	gaps bool
	// creators: the guest is a creator, too.
	creators bool
	// asked: only where INTEROP_SPLITS asks for it, as Synapse may need some tries.
	asked bool
}

// One version for each algorithm and for each set of rules that differs much: 1 (state resolution 1, events named by
// servers), 2 (state resolution 2), 5 (aliases' rule), 10 (integers, restricted joins), 11 (redaction), 12 (state resolution
// 2.1, creators).
var splitVersions = []string{"1", "2", "5", "10", "11", "12"}

// expect checks one member of the content of a state event.
func (f *fork) expect(typ, key, member, want string) error {
	for _, p := range []*person{f.boss, f.guest} {
		var content map[string]any
		if err := p.StateContent(context.Background(), f.room, typ, key, &content); err != nil {
			return fmt.Errorf("%s %q on %s: %w", typ, key, p.server.name, err)
		}
		if got := fmt.Sprint(content[member]); got != want {
			return fmt.Errorf("%s %q on %s: %s is %s, want %s", typ, key, p.server.name, member, got, want)
		}
	}
	return nil
}

func (f *fork) expectMember(p *person, want string) error {
	return f.expect("m.room.member", p.id, "membership", want)
}

var scenarios = []scenario{
	{
		name: "topics and names",
		apart: func(f *fork) {
			for i := range 3 {
				f.title(f.aide, fmt.Sprint("aide's ", i))
				f.title(f.friend, fmt.Sprint("friend's ", i))
				f.topic(f.boss, fmt.Sprint("boss's ", i))
				f.say(f.rival, "a word")
			}
			f.topic(f.guest, "guest's")
			for _, p := range []*person{f.clerk, f.rival, f.guest} {
				f.set(p, "m.room.member", p.id, map[string]string{"membership": "join", "displayname": "Of the split"})
			}
			f.set(f.aide, "org.example.shared", "a", map[string]string{"by": "aide"})
			f.set(f.friend, "org.example.shared", "a", map[string]string{"by": "friend"})
			f.set(f.friend, "org.example.shared", "b", map[string]string{"by": "friend"})
		},
	},
	{
		name: "power taken and used",
		apart: func(f *fork) {
			f.topic(f.friend, "while I may")
			f.title(f.friend, "while I may")
			f.member(f.friend, f.clerk, "leave")
			f.power(f.boss, map[string]any{f.friend.id: 0})
			f.topic(f.aide, "after the demotion")
			f.say(f.friend, "I may still talk")
		},
		want: func(f *fork) error { return f.expect("m.room.topic", "", "topic", "after the demotion") },
	},
	{
		name: "levels of both changed",
		apart: func(f *fork) {
			f.power(f.boss, map[string]any{f.clerk.id: 60, "events_default": 5})
			f.title(f.clerk, "with new power")
			f.power(f.guest, map[string]any{f.rival.id: 70, "state_default": 40})
			f.topic(f.rival, "with new power")
			f.power(f.rival, map[string]any{f.rival.id: 60})
			f.power(f.clerk, map[string]any{f.friend.id: 55})
			f.say(f.friend, "hello")
		},
	},
	{
		name: "chains of levels",
		apart: func(f *fork) {
			for i := range 6 {
				f.power(f.boss, map[string]any{f.clerk.id: 10 + i, f.aide.id: 50 - i})
				f.power(f.guest, map[string]any{f.rival.id: 20 + i, f.friend.id: 50 + i})
				f.say(f.clerk, fmt.Sprint("step ", i))
			}
			f.power(f.guest, map[string]any{f.guest.id: 80})
			f.topic(f.guest, "with less power")
		},
	},
	{
		name: "banned while acting",
		apart: func(f *fork) {
			f.member(f.boss, f.friend, "ban")
			f.title(f.aide, "without the friend")
			f.title(f.friend, "not banned yet")
			f.topic(f.friend, "not banned yet")
			f.member(f.friend, f.clerk, "ban")
			f.say(f.friend, "words of one who is banned elsewhere")
			f.member(f.aide, f.rival, "leave")
			f.set(f.rival, "m.room.member", f.rival.id, map[string]string{"membership": "join", "displayname": "Still here"})
			f.say(f.rival, "words of one who was kicked elsewhere")
		},
		want: func(f *fork) error { return f.expectMember(f.friend, "ban") },
	},
	{
		name: "bans against each other",
		apart: func(f *fork) {
			f.power(f.boss, map[string]any{f.aide.id: 95})
			f.member(f.aide, f.guest, "ban")
			f.member(f.aide, f.friend, "ban")
			f.member(f.guest, f.aide, "ban")
			f.power(f.guest, map[string]any{f.friend.id: 85})
			f.member(f.friend, f.clerk, "ban")
			f.topic(f.friend, "who rules here?")
			f.say(f.aide, "I do")
		},
		after: func(f *fork) { f.member(f.boss, f.guest, "leave") },
	},
	{
		name: "closed while entered",
		apart: func(f *fork) {
			f.rule(f.boss, "invite")
			f.join(f.waif)
			f.say(f.waif, "I came in while it was open")
			f.set(f.waif, "m.room.member", f.waif.id, map[string]string{"membership": "join", "displayname": "Newcomer"})
			f.member(f.rival, f.rival, "leave")
			f.join(f.rival)
			f.member(f.clerk, f.clerk, "leave")
			f.topic(f.friend, "the door is open")
		},
		want: func(f *fork) error { return f.expect("m.room.join_rules", "", "join_rule", "invite") },
	},
	{
		name:   "opened while shut",
		before: func(f *fork) { f.rule(f.boss, "invite") },
		apart: func(f *fork) {
			f.rule(f.boss, "public")
			f.join(f.stray)
			f.say(f.stray, "it is open")
			f.member(f.friend, f.waif, "invite")
			f.join(f.waif)
			f.say(f.waif, "I was invited")
			f.rule(f.guest, "invite")
			f.member(f.guest, f.rival, "leave")
		},
	},
	{
		name:   "invited by one who is demoted",
		before: func(f *fork) { f.rule(f.boss, "invite"); f.power(f.boss, map[string]any{"invite": 40}) },
		apart: func(f *fork) {
			f.power(f.boss, map[string]any{f.friend.id: 0})
			f.member(f.friend, f.waif, "invite")
			f.join(f.waif)
			f.say(f.waif, "am I in?")
			f.member(f.boss, f.stray, "invite")
			f.join(f.stray)
		},
	},
	{
		name:     "vouched for by one who is demoted",
		versions: []string{"8", "9", "10", "11", "12"},
		before: func(f *fork) {
			f.rule(f.boss, "restricted", f.hall())
			f.power(f.boss, map[string]any{"invite": 40})
		},
		apart: func(f *fork) {
			f.member(f.boss, f.guest, "ban")
			f.power(f.boss, map[string]any{f.friend.id: 0})
			f.join(f.waif) // by the word of guest or friend
			f.say(f.waif, "somebody let me in")
			f.join(f.stray)
			f.say(f.stray, "me too")
		},
		after: func(f *fork) { f.member(f.boss, f.guest, "leave") },
	},
	{
		name:   "unbanned and back",
		before: func(f *fork) { f.member(f.boss, f.rival, "ban"); f.member(f.guest, f.clerk, "ban") },
		apart: func(f *fork) {
			f.member(f.guest, f.rival, "leave")
			f.join(f.rival)
			f.say(f.rival, "back")
			f.member(f.boss, f.clerk, "leave")
			f.join(f.clerk)
			f.member(f.boss, f.clerk, "ban")
			f.member(f.boss, f.clerk, "leave")
			f.join(f.clerk)
			f.say(f.clerk, "back, too")
			f.member(f.guest, f.clerk, "leave")
			f.member(f.guest, f.clerk, "ban")
		},
	},
	{
		name: "a server denied",
		apart: func(f *fork) {
			f.set(f.boss, "m.room.server_acl", "", acl(f.guest.server))
			f.say(f.boss, "without them")
			f.say(f.friend, "we do not know yet")
			f.topic(f.friend, "ours")
			f.title(f.aide, "theirs")
		},
		after: func(f *fork) {
			// Now both know of it, or only who sent it. The rule is of requests: what was said meanwhile comes later.
			f.say(f.friend, "are we heard?")
			f.reopen(f.boss)
		},
	},
	{
		name: "a tombstone",
		apart: func(f *fork) {
			f.set(f.boss, "m.room.tombstone", "", map[string]string{"body": "moved", "replacement_room": "!elsewhere:" + f.boss.server.serverName})
			f.power(f.boss, map[string]any{"events_default": 50, "invite": 50})
			f.say(f.rival, "who is there?")
			f.topic(f.friend, "not moved")
			f.set(f.guest, "m.room.tombstone", "", map[string]string{"body": "moved", "replacement_room": "!there:" + f.guest.server.serverName})
		},
	},
	{
		name:     "knocks",
		versions: []string{"7", "8", "9", "10", "11", "12"},
		before:   func(f *fork) { f.rule(f.boss, "knock") },
		apart: func(f *fork) {
			f.note("knock", f.waif.Knock(context.Background(), f.room, "please", f.guest.server.serverName))
			f.member(f.guest, f.waif, "invite")
			f.join(f.waif)
			f.say(f.waif, "I knocked")
			f.note("knock", f.stray.Knock(context.Background(), f.room, "please", f.boss.server.serverName))
			f.rule(f.boss, "invite")
			f.member(f.aide, f.stray, "leave")
		},
	},
	{
		name: "redactions and own keys",
		apart: func(f *fork) {
			mine, yours := f.say(f.rival, "mine"), f.say(f.clerk, "yours")
			for _, r := range []struct {
				by *person
				e  string
			}{{f.rival, mine}, {f.aide, yours}} {
				e, err := r.by.Redact(context.Background(), f.room, r.e, fmt.Sprintf("txn%d", everybody.Add(1)), "gone")
				f.note("redact", err)
				f.add(r.by, e, redaction)
			}
			f.power(f.boss, map[string]any{f.friend.id: 0, "redact": 60})
			topic := f.topic(f.guest, "to be redacted")
			e, err := f.guest.Redact(context.Background(), f.room, topic, fmt.Sprintf("txn%d", everybody.Add(1)), "gone")
			f.note("redact", err)
			f.add(f.guest, e, redaction)
			f.set(f.friend, "org.example.own", f.friend.id, map[string]string{"of": "friend"})
			f.set(f.aide, "org.example.own", f.aide.id, map[string]string{"of": "aide"})
			f.set(f.guest, "m.room.history_visibility", "", map[string]string{"history_visibility": "invited"})
			f.set(f.boss, "m.room.history_visibility", "", map[string]string{"history_visibility": "joined"})
			f.set(f.guest, "m.room.history_visibility", "", map[string]string{"history_visibility": "shared"})
			f.set(f.boss, "m.room.history_visibility", "", map[string]string{"history_visibility": "shared"})
		},
	},
	{
		name:     "let in by the other server while the fork is open",
		versions: []string{"8", "9", "10", "11", "12"},
		before: func(f *fork) {
			f.rule(f.boss, "restricted", f.hall())
			f.power(f.boss, map[string]any{"invite": 95}) // only boss may vouch
		},
		apart: func(f *fork) {
			f.topic(f.boss, "boss's")
			f.topic(f.friend, "friend's")
			f.power(f.guest, map[string]any{f.rival.id: 10})
			f.member(f.aide, f.aide, "leave")
		},
		after: func(f *fork) {
			f.note("restricted join", within(patience, func() error {
				_, err := f.waif.Join(context.Background(), f.room, f.boss.server.serverName)
				return err
			}))
			f.join(f.stray)
			f.say(f.waif, "they let me in")
			f.say(f.stray, "me too")
		},
		want: func(f *fork) error {
			return errors.Join(f.expectMember(f.waif, "join"), f.expectMember(f.stray, "join"))
		},
	},
	{
		name:     "invited and knocking while the fork is open",
		versions: []string{"7", "8", "9", "10", "11", "12"},
		before:   func(f *fork) { f.rule(f.boss, "knock") },
		apart: func(f *fork) {
			f.topic(f.boss, "boss's")
			f.topic(f.friend, "friend's")
			f.member(f.guest, f.clerk, "ban")
			f.power(f.boss, map[string]any{f.aide.id: 60})
			f.note("knock", f.stray.Knock(context.Background(), f.room, "please", f.boss.server.serverName))
		},
		after: func(f *fork) {
			f.note("invite", within(patience, func() error { return f.aide.Invite(context.Background(), f.room, f.waif.id) }))
			f.note("join by invitation", within(patience, func() error {
				_, err := f.waif.Join(context.Background(), f.room, f.boss.server.serverName)
				return err
			}))
			f.say(f.waif, "I was invited from afar")
			f.note("invite", within(patience, func() error { return f.guest.Invite(context.Background(), f.room, f.stray.id) }))
			f.note("join by invitation", within(patience, func() error {
				_, err := f.stray.Join(context.Background(), f.room, f.guest.server.serverName)
				return err
			}))
		},
		want: func(f *fork) error {
			return errors.Join(f.expectMember(f.waif, "join"), f.expectMember(f.stray, "join"), f.expectMember(f.clerk, "ban"))
		},
	},
	{
		name: "all of one side leave", gaps: true,
		apart: func(f *fork) {
			f.topic(f.friend, "goodbye")
			for _, p := range []*person{f.rival, f.friend, f.guest} {
				f.member(p, p, "leave")
			}
			f.topic(f.aide, "where are they?")
			f.power(f.boss, map[string]any{f.rival.id: 20})
		},
		after: func(f *fork) { f.join(f.guest, f.boss.server.serverName) },
	},
}

// hall makes a room of those who are in no fork at first, boss and guest, for restricted rooms.
func (f *fork) hall() string {
	ctx := context.Background()
	room, err := f.guest.CreateRoom(ctx, mxclient.NewRoom{RoomVersion: f.version, Preset: "public_chat"})
	f.note("make a hall", err)
	for _, p := range []*person{f.waif, f.boss, f.stray} {
		_, err := p.Join(ctx, room, f.guest.server.serverName)
		f.note("enter the hall", err)
	}
	f.note("the hall", within(patience, func() error { return agree(ctx, room, f.boss, f.guest) }))
	return room
}

// acl denies servers.
func acl(deny ...server) map[string]any {
	hosts := []string{}
	for _, s := range deny {
		hosts = append(hosts, strings.Split(s.serverName, ":")[0])
	}
	return map[string]any{"allow": []string{"*"}, "deny": hosts, "allow_ip_literals": true}
}
