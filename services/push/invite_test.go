package push

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/partition"
)

// outside writes the membership of a user in a room that this server is not in, as the room role does, and returns its event's id.
func (w *world) outside(user id.User, room id.Room, membership string) id.Event {
	w.t.Helper()
	key, err := signing.NewKey()
	if err != nil {
		w.t.Fatal(err)
	}
	rules, _ := roomversion.Get("11")
	target := string(user)
	pdu, err := event.Build(event.Draft{RoomID: room, Type: "m.room.member", Sender: "@inviter:far.test", StateKey: &target,
		Content: fmt.Appendf(nil, `{"membership":%q}`, membership), OriginServerTS: w.nid.Add(1), Depth: 1}, rules, "far.test", key)
	if err != nil {
		w.t.Fatal(err)
	}
	stripped := `[{"type":"m.room.name","state_key":"","sender":"@inviter:far.test","content":{"name":"Far away"}},
		{"type":"m.room.member","state_key":"@inviter:far.test","sender":"@inviter:far.test","content":{"membership":"join","displayname":"Ina"}}]`
	part := partition.Of(target)
	w.exec(part, `INSERT INTO membership (part, user_id, room_id, room_part, room_nid, room_version, membership, event_nid, event_id, sender, pos, stripped, event, seq)
		VALUES ($1, $2, $3, $4, 0, '11', $5, 0, $6, $7, 1, $8, $9, 1)
		ON CONFLICT (part, user_id, room_id) DO UPDATE SET membership = excluded.membership, event_id = excluded.event_id, event = excluded.event`,
		int32(part), target, string(room), int32(partition.Of(string(room))), membership, string(pdu.ID), string(pdu.Sender), []byte(stripped), pdu.JSON)
	w.exec(part, `INSERT INTO push_invite (part, user_id, room_id, event_id) VALUES ($1, $2, $3, $4)
		ON CONFLICT (part, user_id, room_id) DO UPDATE SET event_id = excluded.event_id`, int32(part), target, string(room), string(pdu.ID))
	if err := w.bus.WakePush(part, []id.User{user}); err != nil {
		w.t.Fatal(err)
	}
	return pdu.ID
}

// last returns the newest notification.
func (g *testGateway) last() gjson.Result {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.raw) == 0 {
		return gjson.Result{}
	}
	return gjson.GetBytes(g.raw[len(g.raw)-1], "notification")
}

// Client-server API, "Push Rules", .m.rule.invite_for_me: an invite by a user of another server, to a room that nobody here is in,
// notifies the invited user, once, and counts until it ends. Two of them count twice. Whoever hides invites (MSC4155) hears nothing.
func TestInviteFromElsewhere(t *testing.T) {
	w := newWorld(t)
	g := w.gateway()
	anna, bert := id.User("@anna:"+ours), id.User("@bert:"+ours)
	for _, u := range []id.User{anna, bert} {
		w.pusher(u, g.address())
		data, err := json.Marshal(map[string]string{"url": g.address()})
		if err != nil {
			t.Fatal(err)
		}
		w.exec(partition.Of(string(u)), `UPDATE pusher SET data = $1`, data)
	}
	part := partition.Of(string(bert))
	w.exec(part, `INSERT INTO account_data (part, user_id, room_id, type, content, seq) VALUES ($1, $2, '', 'm.invite_permission_config', '{"default_action":"block"}', 1)`,
		int32(part), string(bert))
	k := w.start("one")
	w.share(k)

	hidden := w.outside(bert, "!hidden:far.test", "invite")
	first := w.outside(anna, "!first:far.test", "invite")
	w.until("the invite was not told", func() bool { return slices.Contains(g.of(anna), string(first)) })
	n := g.last()
	for path, want := range map[string]string{"type": "m.room.member", "membership": "invite", "user_is_target": "true", "sender": "@inviter:far.test",
		"sender_display_name": "Ina", "room_name": "Far away", "room_id": "!first:far.test", "content.membership": "invite", "counts.unread": "1"} {
		if got := n.Get(path).String(); got != want {
			t.Errorf("%s is %q, not %q", path, got, want)
		}
	}
	second := w.outside(anna, "!second:far.test", "invite")
	w.until("the second invite was not told", func() bool { return slices.Contains(g.of(anna), string(second)) })
	if got := g.last().Get("counts.unread").Int(); got != 2 {
		t.Errorf("the count is %d", got)
	}
	w.outside(anna, "!first:far.test", "leave")
	w.until("the count does not fall", func() bool { return g.last().Get("counts.unread").Int() == 1 })

	two := w.start("two") // nobody is told again
	k.Kill()
	w.share(two)
	third := w.outside(anna, "!third:far.test", "invite")
	w.until("the third invite was not told", func() bool { return slices.Contains(g.of(anna), string(third)) })
	w.until("rows are left", func() bool {
		return w.number(`SELECT count(*) FROM push_invite`)+w.number(`SELECT count(*) FROM push_pending`) == 0
	})
	if got := g.of(anna); !slices.Equal(got, []string{string(first), string(second), string(third)}) {
		t.Errorf("told %q", got)
	}
	if got := g.of(bert); len(got) != 0 {
		t.Errorf("%s was told of %q, and %s is hidden", bert, got, hidden)
	}
}
