//go:build interop

package interop

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"hanse/tools/mxclient"
)

// moreScenarios are of rooms that are replaced, of redactions of what rules a room, of rooms that shut servers out, and of
// creators on both sides.
var moreScenarios = []scenario{
	{
		name: "upgraded on one side",
		apart: func(f *fork) {
			f.topic(f.friend, "still here")
			f.power(f.guest, map[string]any{f.friend.id: 55, f.rival.id: 20, "events_default": 10})
			f.topic(f.friend, "with new power")
			f.say(f.rival, "nobody told me")
			f.upgrade(f.boss)
		},
		after: func(f *fork) { f.move() },
	},
	{
		name: "upgraded on both sides",
		apart: func(f *fork) {
			f.topic(f.boss, "boss's")
			f.upgrade(f.boss)
			f.member(f.guest, f.clerk, "leave")
			f.upgrade(f.guest)
			f.say(f.guest, "moved")
		},
		after: func(f *fork) { f.move() },
	},
	{
		name: "what rules the room redacted",
		// Before version 11 the redacted power levels lack "invite". Synapse lets its own users act by what is left, and checks what
		// others did by what there was.
		versions: []string{"11", "12"},
		before: func(f *fork) {
			f.power(f.boss, map[string]any{"invite": 45, "redact": 45, "notifications": map[string]int{"room": 20}})
			f.rule(f.boss, "restricted", f.hall())
			f.member(f.aide, f.rival, "ban")
		},
		apart: func(f *fork) {
			for _, typ := range []string{"m.room.power_levels", "m.room.join_rules"} {
				f.redact(f.boss, f.stateID(f.boss, typ, ""))
			}
			f.redact(f.aide, f.stateID(f.aide, "m.room.member", f.rival.id))
			f.member(f.aide, f.stray, "invite")
			f.join(f.stray)
			f.power(f.boss, map[string]any{f.friend.id: 40})
			f.redact(f.boss, f.stateID(f.boss, "m.room.power_levels", ""))

			f.join(f.waif) // by the word of guest or friend
			f.redact(f.guest, f.stateID(f.guest, "m.room.member", f.waif.id))
			f.say(f.waif, "somebody let me in")
			f.power(f.guest, map[string]any{f.rival.id: 10, "ban": 55})
			f.redact(f.friend, f.stateID(f.friend, "m.room.power_levels", ""))
			f.member(f.guest, f.rival, "leave")
		},
		after: func(f *fork) { f.say(f.guest, "we are back") },
		want: func(f *fork) error {
			return errors.Join(f.sameContent("m.room.power_levels", ""), f.sameContent("m.room.join_rules", ""), f.sameContent("m.room.member", f.waif.id))
		},
	},
	{
		name: "both servers denied", gaps: true, asked: true,
		apart: func(f *fork) {
			f.set(f.boss, "m.room.server_acl", "", acl(f.guest.server))
			f.topic(f.aide, "without them")
			f.power(f.boss, map[string]any{f.rival.id: 20})
			f.set(f.guest, "m.room.server_acl", "", acl(f.boss.server))
			f.topic(f.friend, "without them")
			f.power(f.guest, map[string]any{f.clerk.id: 20})
		},
		after: func(f *fork) {
			// The servers reach each other, and take nothing for this room.
			f.title(f.aide, "still without them")
			f.say(f.friend, "still without them")
			f.reopen(f.boss, f.guest) // who opens first is not heard by the other
		},
	},
	{
		name: "denied for good until the other side relents", gaps: true, asked: true,
		before: func(f *fork) { f.set(f.guest, "m.room.server_acl", "", acl(f.guest.server)) },
		apart: func(f *fork) {
			f.say(f.friend, "we are out by our own doing")
			f.topic(f.friend, "nobody hears")
			f.member(f.boss, f.rival, "ban")
			f.say(f.aide, "peace")
		},
		after: func(f *fork) {
			f.say(f.guest, "does anybody hear us?")
			f.reopen(f.boss)
		},
		want: func(f *fork) error { return f.expectMember(f.rival, "ban") },
	},
	{
		name: "creators on both sides", versions: []string{"12"}, creators: true,
		apart: func(f *fork) {
			f.power(f.boss, map[string]any{f.friend.id: 0, f.aide.id: 100})
			f.member(f.aide, f.rival, "ban")
			f.power(f.guest, map[string]any{f.aide.id: 0, f.friend.id: 1000})
			f.member(f.friend, f.clerk, "ban")
			f.topic(f.friend, "who rules here?")
			f.topic(f.aide, "who rules here?")
			f.rule(f.boss, "invite")
			f.rule(f.guest, "public")
			f.join(f.waif)
		},
	},
}

// reopen lets people deny nobody any more, until both sides hear each other. Synapse forgets the list that it has parsed before
// the event that changes it is stored, and goes on with the old one if a request comes in between (persist_and_notify_client_events
// in handlers/message.py): so it may take another event, and its people go first, as we ask when we are let in.
func (f *fork) reopen(by ...*person) {
	slices.SortFunc(by, func(a, b *person) int { return strings.Compare(b.server.name, a.server.name) })
	var err error
	for range rounds {
		for _, p := range by {
			list := acl()
			list["deny"] = []string{fmt.Sprintf("n%d.example", everybody.Add(1))}
			f.set(p, "m.room.server_acl", "", list)
		}
		said := map[string]server{f.say(f.boss, "do you hear us?"): f.boss.server, f.say(f.guest, "do you hear us?"): f.guest.server}
		if err = within(10*time.Second, func() error { return f.heard(context.Background(), said) }); err == nil {
			return
		}
	}
	f.note("open again", err)
}

func (f *fork) redact(p *person, event string) {
	e, err := p.Redact(context.Background(), f.room, event, fmt.Sprintf("txn%d", everybody.Add(1)), "gone")
	f.note(p.id+" redacts "+event, err)
	if err == nil {
		f.add(p, e, redaction)
	}
}

// stateID is the event that somebody sees for a key of the state.
func (f *fork) stateID(p *person, typ, key string) string {
	e, err := p.StateEvent(context.Background(), f.room, typ, key)
	f.note(fmt.Sprintf("%s looks up %s %q", p.id, typ, key), err)
	if err != nil {
		return ""
	}
	return e.EventID
}

// sameContent says whether both servers show the same content, redacted or not.
func (f *fork) sameContent(typ, key string) error {
	return within(patience, func() error {
		var here, there map[string]any
		if err := f.boss.StateContent(context.Background(), f.room, typ, key, &here); err != nil {
			return err
		}
		if err := f.guest.StateContent(context.Background(), f.room, typ, key, &there); err != nil {
			return err
		}
		if !reflect.DeepEqual(here, there) {
			return fmt.Errorf("%s %q is %v on %s, %v on %s", typ, key, here, f.boss.server.name, there, f.guest.server.name)
		}
		return nil
	})
}

// upgrade replaces the room (client-server API, POST /rooms/{roomId}/upgrade).
func (f *fork) upgrade(p *person) {
	err := p.Do(context.Background(), mxclient.Call{Method: "POST", Path: "/_matrix/client/v3/rooms/" + f.room + "/upgrade",
		Body: map[string]string{"new_version": "12"}})
	f.note(p.id+" upgrades the room", err)
	if err == nil {
		f.add(p, f.stateID(p, "m.room.tombstone", ""), "tombstone")
	}
}

// move brings both sides into the room that the state says is the new one, once they agree on that.
func (f *fork) move() {
	ctx := context.Background()
	f.note("settle", f.settle(ctx))
	var c struct {
		Replacement string `json:"replacement_room"`
	}
	f.note("the tombstone", f.boss.StateContent(ctx, f.room, "m.room.tombstone", "", &c))
	for _, p := range []*person{f.boss, f.guest, f.friend} {
		_, err := p.Join(ctx, c.Replacement, f.boss.server.serverName, f.guest.server.serverName)
		f.note(p.id+" joins the new room", err)
	}
	if len(f.errs) == 0 {
		f.note("the new room", within(patience, func() error { return agree(ctx, c.Replacement, f.boss, f.guest) }))
	}
}
