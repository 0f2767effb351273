package app_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/tidwall/gjson"

	"hanse/services/app"
)

// gateway is a push gateway, which records what it gets.
type gateway struct {
	t   *testing.T
	srv *httptest.Server

	mu  sync.Mutex
	got map[string][]gjson.Result // notifications by pushkey
}

func newGateway(t *testing.T) *gateway {
	t.Helper()
	g := &gateway{t: t, got: make(map[string][]gjson.Result)}
	g.srv = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Method != "POST" || r.URL.Path != "/_matrix/push/v1/notify" || !gjson.ValidBytes(body) {
			t.Errorf("%s %s: %s %v", r.Method, r.URL, body, err)
		}
		n := gjson.GetBytes(body, "notification")
		g.mu.Lock()
		defer g.mu.Unlock()
		key := n.Get("devices.0.pushkey").Str
		g.got[key] = append(g.got[key], n)
		_, _ = io.WriteString(rw, `{"rejected":[]}`)
	}))
	t.Cleanup(g.srv.Close)
	return g
}

// pusher gives somebody a pusher; more overrides its fields.
func (g *gateway) pusher(p *person, key string, data, more object) {
	g.t.Helper()
	q := object{"pushkey": key, "kind": "http", "app_id": "app", "app_display_name": "App", "device_display_name": "Phone", "lang": "de",
		"data": object{"url": g.srv.URL + "/_matrix/push/v1/notify"}}
	for k, v := range data {
		q["data"].(object)[k] = v
	}
	for k, v := range more {
		q[k] = v
	}
	p.do("POST", v3+"/pushers/set", q).ok()
}

func (g *gateway) all(key string) []gjson.Result {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.got[key])
}

// gets waits for the notification of an event.
func (g *gateway) gets(key, event string) (n gjson.Result) {
	g.t.Helper()
	eventually(g.t, "notification of "+key, func() bool {
		all := g.all(key)
		i := slices.IndexFunc(all, func(n gjson.Result) bool { return n.Get("event_id").Str == event })
		if i >= 0 {
			n = all[i]
		}
		return i >= 0
	})
	return n
}

// told waits until the last thing that a gateway heard of a pusher's count is so many.
func (g *gateway) told(key string, unread int64) {
	g.t.Helper()
	eventually(g.t, "count of "+key, func() bool {
		all := g.all(key)
		return len(all) > 0 && all[len(all)-1].Get("counts").Exists() && all[len(all)-1].Get("counts.unread").Int() == unread
	})
}

func (g *gateway) never(key, event string) {
	g.t.Helper()
	if slices.ContainsFunc(g.all(key), func(n gjson.Result) bool { return n.Get("event_id").Str == event }) {
		g.t.Errorf("%s was notified of %s", key, event)
	}
}

// Client-server API, "Push Notifications"; Push Gateway API. Two workers of each role.
func TestPush(t *testing.T) {
	w := newWorldOf(t, [][]string{nil, nil}, func(c *app.Config) { c.Federation.Allow = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")} })
	g := newGateway(t)
	anna, bert, carl := w.register(t, "anna"), w.register(t, "bert"), w.register(t, "carl")
	anna.do("PUT", v3+"/profile/"+anna.id+"/displayname", object{"displayname": "Anna"}).ok()
	room := anna.create(object{"preset": "public_chat", "name": "Mission Control"})
	bert.join(room)
	carl.join(room)
	g.pusher(anna, "anna", nil, nil)
	g.pusher(bert, "bert", object{"custom": 7}, nil)
	g.pusher(carl, "carl", object{"format": "event_id_only"}, object{"org.matrix.msc4076.disable_badge_count": true})
	read := func(p *person, event string) {
		t.Helper()
		p.do("POST", v3+"/rooms/"+room+"/receipt/m.read/"+event, object{}).ok()
	}

	// The pushers are new: the first event shows that they are known.
	first := anna.say(room, "hello")
	n := g.gets("bert", first)
	for path, want := range map[string]string{"room_id": room, "type": "m.room.message", "sender": anna.id, "sender_display_name": "Anna", "room_name": "Mission Control",
		"prio": "low", "content.body": "hello", "counts.unread": "1", "devices.#": "1", "devices.0.app_id": "app", "devices.0.data.custom": "7", "devices.0.data.url": "", "devices.0.tweaks": "{}"} {
		if got := n.Get(path).String(); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
	n = g.gets("carl", first)
	for _, path := range []string{"type", "sender", "content", "counts", "room_name", "devices.0.data.url", "devices.0.tweaks"} {
		if n.Get(path).Exists() {
			t.Errorf("with event_id_only and without counts: %s", n.Raw)
		}
	}
	if n.Get("room_id").Str != room || n.Get("devices.0.data.format").Str != "event_id_only" {
		t.Errorf("%s", n.Raw)
	}

	// Mentions, keywords, and the badge of what is read.
	mention := anna.send(room, "m.room.message", object{"msgtype": "m.text", "body": "you", "m.mentions": object{"user_ids": list{bert.id}}})
	if n = g.gets("bert", mention); !n.Get("devices.0.tweaks.highlight").Bool() || n.Get("devices.0.tweaks.sound").Str != "default" || n.Get("prio").Str != "high" || n.Get("counts.unread").Int() != 1 {
		t.Errorf("mention: %s", n.Raw)
	}
	g.gets("carl", mention)
	read(bert, mention)
	g.told("bert", 0)
	bert.do("PUT", v3+"/pushrules/global/content/cake", object{"pattern": "ca?e", "actions": list{"notify", object{"set_tweak": "sound", "value": "cake.wav"}}}).ok()
	cake := anna.say(room, "There is cake!")
	if n = g.gets("bert", cake); n.Get("devices.0.tweaks.sound").Str != "cake.wav" || n.Get("counts.unread").Int() != 1 {
		t.Errorf("keyword: %s", n.Raw)
	}

	// Who is not to be notified: muted rooms, ignored senders, one's own events, what the default rules pass over.
	carl.do("PUT", v3+"/pushrules/global/override/mute", object{"actions": list{}, "conditions": list{object{"kind": "event_match", "key": "room_id", "pattern": room}}}).ok()
	muted := anna.say(room, "quiet")
	g.gets("bert", muted)
	bert.do("PUT", v3+"/user/"+bert.id+"/account_data/m.ignored_user_list", object{"ignored_users": object{anna.id: object{}}}).ok()
	ignored := anna.say(room, "are you there?")
	own := bert.say(room, "mine")
	g.gets("anna", own)
	notice := carl.send(room, "m.room.message", object{"msgtype": "m.notice", "body": "beep"})
	poll := carl.send(room, "org.matrix.msc3381.poll.start", object{"body": "?"})
	last := carl.say(room, "the last one")
	g.gets("bert", poll)
	g.gets("bert", last)
	g.gets("anna", last)
	for _, e := range []string{muted, ignored, own, last} {
		g.never("carl", e)
	}
	for _, e := range []string{ignored, own, notice} {
		g.never("bert", e)
	}
	for _, e := range []string{first, mention, notice} {
		g.never("anna", e)
	}

	// An invite counts, and one that is refused does not.
	read(bert, last)
	g.told("bert", 0)
	other := carl.create(object{"invite": list{bert.id}})
	g.told("bert", 1)
	all := g.all("bert")
	if n = all[len(all)-1]; n.Get("membership").Str != "invite" || !n.Get("user_is_target").Bool() || n.Get("prio").Str != "high" {
		t.Errorf("invite: %s", n.Raw)
	}
	bert.do("POST", v3+"/rooms/"+other+"/leave", object{}).ok()
	g.told("bert", 0)

	// What is redacted does not count any more. A pusher that is off hears nothing.
	gone := carl.say(room, "oops")
	g.gets("bert", gone)
	g.pusher(anna, "anna", nil, object{"org.matrix.msc3881.enabled": false})
	carl.do("PUT", v3+"/rooms/"+room+"/redact/"+gone+"/r1", object{}).ok()
	g.told("bert", 0)
	off := carl.say(room, "to bert only")
	g.gets("bert", off)
	g.never("anna", off)
}
