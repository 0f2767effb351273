package fedout

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/id"
	"hanse/pkg/presence"
	"hanse/pkg/state"
	logv1 "hanse/proto/log/v1"
)

// is stores how a local user is, of which no worker hears.
func (w *world) is(user id.User, state string) {
	w.t.Helper()
	s := presence.New(w.redis, deafBus{})
	if _, err := s.Change(w.t.Context(), user, nil, presence.Put("D", state, "")); err != nil {
		w.t.Fatal(err)
	}
}

type deafBus struct{}

func (deafBus) PublishPresence(*logv1.Presence) error { return nil }

// holds makes users members of a room.
func (r *room) holds(users ...string) {
	r.w.t.Helper()
	entries := map[state.Key]int64{}
	for _, u := range users {
		nid := r.w.nextNID()
		entries[state.Key{Type: "m.room.member", StateKey: u}] = nid
		_, err := r.w.shards.For(r.part).Exec(r.w.t.Context(), `INSERT INTO event (part, event_nid, room_nid, event_id, ord, depth, type, state_key, sender, origin_ts, auth, prev, json)
			VALUES ($1, $2, $3, $4, $5, 1, 'm.room.member', $6, $6, 1, '{}', '{}', $7)`, int32(r.part), nid, r.nid, fmt.Sprintf("$%d", nid), -nid, u,
			fmt.Appendf(nil, `{"type":"m.room.member","room_id":%q,"sender":%q,"state_key":%q,"content":{"membership":"join"},"depth":1,"origin_server_ts":1,"prev_events":[],"auth_events":[],"hashes":{},"signatures":{}}`, r.id, u, u))
		if err != nil {
			r.w.t.Fatal(err)
		}
	}
	b := state.NewWriter(state.NewStore(state.DefaultConfig(), nil)).Batch()
	if _, err := b.Root(r.part, r.nid, state.New(func(yield func(state.Key, int64) bool) {
		for k, nid := range entries {
			if !yield(k, nid) {
				return
			}
		}
	})); err != nil {
		r.w.t.Fatal(err)
	}
	q := new(pgx.Batch)
	b.Queue(q)
	q.Queue(`UPDATE room SET sid = $1, joined = $2 WHERE part = $3 AND room_nid = $4`, r.nid, len(users), int32(r.part), r.nid)
	if err := r.w.shards.For(r.part).SendBatch(r.w.t.Context(), q).Close(); err != nil {
		r.w.t.Fatal(err)
	}
}

// present is what a server was told of presence, by user and in order.
func (r *remote) present() map[string][]string {
	told := map[string][]string{}
	for _, content := range r.edus(eduPresence) {
		for _, p := range gjson.Get(content, "push").Array() {
			user := p.Get("user_id").Str
			told[user] = append(told[user], p.Get("presence").Str)
		}
	}
	return told
}

// Server-server API, "Presence": who joins a room hears how those in it are, and they how it is, without a change of
// anybody's. Those who are offline, or in another room, are not told of.
func TestGreetings(t *testing.T) {
	w := newWorld(t)
	a, b := w.remote(), w.remote()
	r, other, large := w.room("r", a.name), w.room("other"), w.room("large")
	local := func(name string) string { return "@" + name + ":" + ours }
	r.holds(local("anna"), local("off"), "@x:"+a.name)
	other.holds(local("zoe"))
	large.holds(local("zoe"))
	if _, err := w.shards.For(large.part).Exec(t.Context(), `UPDATE room SET joined = $1 WHERE part = $2 AND room_nid = $3`, maxGreeted+1, int32(large.part), large.nid); err != nil {
		t.Fatal(err)
	}
	for user, state := range map[string]string{"anna": "unavailable", "zoe": "online", "bert": "online", "off": "offline"} {
		w.is(id.User(local(user)), state)
	}
	one, two := w.start("one"), w.start("two")
	w.waitFor("destinations are not shared out", func() bool {
		n := len(two.sender.follow.All())
		return n > 0 && n+len(one.sender.follow.All()) == int(w.shards.P())
	})

	large.member("@x:"+b.name, "@x:"+b.name, "", "join", false)
	r.member("@x:"+b.name, "@x:"+b.name, "", "join", false)
	b.until("not told of who is there", func() bool { return len(b.present()[local("anna")]) > 0 })
	r.member(local("bert"), local("bert"), "", "join", true)
	for _, s := range []*remote{a, b} {
		s.until("not told of who has joined", func() bool { return len(s.present()[local("bert")]) > 0 })
	}
	if got := fmt.Sprint(b.present()); got != fmt.Sprintf("map[%s:[unavailable] %s:[online]]", local("anna"), local("bert")) {
		t.Errorf("the server that has joined was told %v", got)
	}
	if got := fmt.Sprint(a.present()); got != fmt.Sprintf("map[%s:[online]]", local("bert")) {
		t.Errorf("the server that was there was told %v", got)
	}
}

// Server-server API, "Presence": what only our own workers have to know is not sent, and of what waits the newest is kept,
// however much there is.
func TestPresenceThatWaits(t *testing.T) {
	d := new(dest)
	for i := range maxPresence + 5 {
		d.addPresence(&logv1.Presence{UserId: fmt.Sprintf("@u%d:%s", i, ours), Presence: "online", VersionMs: 2})
	}
	d.addPresence(&logv1.Presence{UserId: "@u1:" + ours, Presence: "offline", VersionMs: 3})
	d.addPresence(&logv1.Presence{UserId: "@u2:" + ours, Presence: "offline", VersionMs: 1})
	if len(d.presence) != maxPresence || d.presence["@u1:"+ours].Presence != "offline" || d.presence["@u2:"+ours].Presence != "online" {
		t.Errorf("%d users, %v, %v", len(d.presence), d.presence["@u1:"+ours], d.presence["@u2:"+ours])
	}
	active := time.Now().Add(-time.Hour).UnixMilli()
	says := presenceOf(&logv1.Presence{Presence: "online", CurrentlyActive: true, LastActiveMs: active}, time.Now())
	if says["last_active_ago"] != presence.ActiveFor.Milliseconds() {
		t.Errorf("who is active: %v", says)
	}
	if says = presenceOf(&logv1.Presence{Presence: "unavailable", LastActiveMs: active}, time.Now()); says["last_active_ago"].(int64) < time.Hour.Milliseconds() {
		t.Errorf("who is not: %v", says)
	}

	w := newWorld(t)
	a := w.remote()
	r := w.room("r", a.name)
	_, err := w.shards.For(0).Exec(t.Context(), `INSERT INTO membership (part, user_id, room_id, room_part, room_nid, room_version, membership, event_nid, event_id, sender, pos, seq)
		VALUES ($1, '@a:ours.test', $2, $3, $4, '10', 'join', 1, '$e', '@a:ours.test', 1, 1)`, partOf("@a:ours.test"), r.id, int32(r.part), r.nid)
	if err != nil {
		t.Fatal(err)
	}
	w.start("one")
	a.gets(r.send("x")...)
	for i, p := range []*logv1.Presence{{Presence: "online", Quiet: true}, {Presence: "unavailable"}} {
		p.UserId, p.Local, p.VersionMs = "@a:"+ours, true, int64(i+1)
		if err := w.bus.PublishPresence(p); err != nil {
			t.Fatal(err)
		}
	}
	a.until("no presence", func() bool { return len(a.edus(eduPresence)) > 0 })
	if got := a.edus(eduPresence); len(got) != 1 || !strings.Contains(got[0], `"presence":"unavailable"`) {
		t.Errorf("presence %s", got)
	}
}
