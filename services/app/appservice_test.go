package app_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tidwall/gjson"

	"hanse/services/app"
)

// bridge is an application service, which records what it gets by the kind of it.
type bridge struct {
	srv *httptest.Server

	mu   sync.Mutex
	seen map[string]bool
	got  map[string][]gjson.Result
}

func newBridge(t *testing.T) *bridge {
	b := &bridge{seen: make(map[string]bool), got: make(map[string][]gjson.Result)}
	b.srv = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		txn, ok := strings.CutPrefix(r.URL.Path, "/_matrix/app/v1/transactions/")
		if err != nil || !ok || !gjson.ValidBytes(body) || r.Header.Get("Authorization") != "Bearer hs-irc" {
			http.Error(rw, "no", http.StatusNotFound)
			return
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		if !b.seen[txn] {
			b.seen[txn] = true
			all := gjson.ParseBytes(body)
			for _, kind := range []string{"events", "ephemeral", "to_device"} {
				b.got[kind] = append(b.got[kind], all.Get(kind).Array()...)
			}
			for _, kind := range []string{"device_lists", "device_one_time_keys_count", "device_unused_fallback_key_types"} {
				if v := all.Get(kind); v.Exists() {
					b.got[kind] = append(b.got[kind], v)
				}
			}
		}
		_, _ = io.WriteString(rw, "{}")
	}))
	t.Cleanup(b.srv.Close)
	return b
}

// find returns the first thing of a kind that has these values.
func (b *bridge) find(kind string, values map[string]string) (gjson.Result, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.IndexFunc(b.got[kind], func(v gjson.Result) bool {
		for path, want := range values {
			if v.Get(path).String() != want {
				return false
			}
		}
		return true
	})
	if i < 0 {
		return gjson.Result{}, false
	}
	return b.got[kind][i], true
}

func (b *bridge) gets(t *testing.T, kind string, values map[string]string) (found gjson.Result) {
	t.Helper()
	eventually(t, fmt.Sprintf("the bridge gets %s %v", kind, values), func() bool {
		v, ok := b.find(kind, values)
		found = v
		return ok
	})
	return found
}

// as is the path of a request that the bridge makes as one of its users.
func as(user, path string) string {
	if strings.Contains(path, "?") {
		return path + "&user_id=" + url.QueryEscape(user)
	}
	return path + "?user_id=" + url.QueryEscape(user)
}

// Application service API, "Pushing events", "Pushing ephemeral data"; MSC4203 and MSC3202: what a bridge is told of the rooms that
// its users are in, and of its users, and what it is not told.
func TestApplicationService(t *testing.T) {
	b := newBridge(t)
	file := filepath.Join(t.TempDir(), "irc.yaml")
	err := os.WriteFile(file, fmt.Appendf(nil, `{id: irc, url: "%s", as_token: as-irc, hs_token: hs-irc, sender_localpart: ircbot, rate_limited: false,
receive_ephemeral: true, org.matrix.msc3202: true, namespaces: {users: [{exclusive: true, regex: "@_irc_.*"}], aliases: [{exclusive: true, regex: "#_irc_.*"}]}}`, b.srv.URL), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorldOf(t, [][]string{nil, nil}, func(c *app.Config) { c.AppServices.Files = []string{file} })
	irc := &person{t: t, w: w, token: "as-irc"}
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	ghost := &person{t: t, w: w}
	r := irc.do("POST", v3+"/register", object{"type": "m.login.application_service", "username": "_irc_ghost"}).ok()
	ghost.id, ghost.token = r.str("user_id"), r.str("access_token")
	device := r.str("device_id")

	room := anna.create(object{"preset": "public_chat"})
	before := anna.say(room, "nobody of yours is here")
	irc.do("POST", as(ghost.id, in(room, "join")), object{}).ok()
	b.gets(t, "events", map[string]string{"type": "m.room.member", "state_key": ghost.id, "content.membership": "join", "room_id": room})
	said := anna.say(room, "hello")
	if e := b.gets(t, "events", map[string]string{"event_id": said}); e.Get("sender").String() != anna.id || !e.Get("unsigned.age").Exists() || e.Get("content.body").String() != "hello" {
		t.Errorf("%s", e.Raw)
	}
	anna.set(room, "m.room.topic", "", object{"topic": "one"})
	topic := anna.set(room, "m.room.topic", "", object{"topic": "two"})
	if e := b.gets(t, "events", map[string]string{"event_id": topic}); e.Get("unsigned.prev_content.topic").String() != "one" {
		t.Errorf("%s", e.Raw)
	}
	other := bert.create(object{"preset": "public_chat"})
	hidden := bert.say(other, "nothing for a bridge")

	// An invite comes with the state that an invited user is shown.
	private := anna.create(object{"preset": "private_chat", "name": "Secret", "invite": list{ghost.id}})
	if e := b.gets(t, "events", map[string]string{"type": "m.room.member", "state_key": ghost.id, "content.membership": "invite", "room_id": private}); e.Get(`unsigned.invite_room_state.#(type=="m.room.name").content.name`).String() != "Secret" {
		t.Errorf("%s", e.Raw)
	}
	// An alias in a namespace is enough.
	named := bert.create(object{"preset": "public_chat"})
	irc.do("PUT", v3+"/directory/room/"+url.PathEscape("#_irc_channel:"+w.name), object{"room_id": named}).ok()
	eventually(t, "the events of a room with an alias of the bridge", func() bool {
		said := bert.say(named, "by its alias")
		_, ok := b.find("events", map[string]string{"event_id": said})
		return ok
	})

	anna.do("PUT", in(room, "typing", anna.id), object{"typing": true, "timeout": 30000}).ok()
	b.gets(t, "ephemeral", map[string]string{"type": "m.typing", "room_id": room, "content.user_ids.0": anna.id})
	anna.do("PUT", in(room, "typing", anna.id), object{"typing": false}).ok()
	b.gets(t, "ephemeral", map[string]string{"type": "m.typing", "room_id": room, "content.user_ids.#": "0"})
	anna.do("POST", in(room, "receipt", "m.read", topic), object{}).ok()
	receipt := b.gets(t, "ephemeral", map[string]string{"type": "m.receipt", "room_id": room})
	if !gjson.Parse(receipt.Get("content").Get(strings.ReplaceAll(topic, ".", `\.`)).Raw).Get(`m\.read`).IsObject() {
		t.Errorf("%s", receipt.Raw)
	}
	anna.do("PUT", v3+"/presence/"+anna.id+"/status", object{"presence": "unavailable", "status_msg": "tea"}).ok()
	b.gets(t, "ephemeral", map[string]string{"type": "m.presence", "sender": anna.id, "content.status_msg": "tea"})

	// Encryption: messages to devices of the bridge's users, what they have left of keys, and whose devices have changed.
	key := func(name string) object {
		return object{"key": name, "signatures": object{ghost.id: object{"ed25519:" + device: "x"}}}
	}
	ghost.do("POST", v3+"/keys/upload", object{
		"device_keys": object{"user_id": ghost.id, "device_id": device, "algorithms": list{"m.olm.v1.curve25519-aes-sha2"},
			"keys": object{"ed25519:" + device: "k", "curve25519:" + device: "c"}, "signatures": object{ghost.id: object{"ed25519:" + device: "x"}}},
		"one_time_keys": object{"signed_curve25519:A": key("a"), "signed_curve25519:B": key("b")},
	}).ok()
	b.gets(t, "device_one_time_keys_count", map[string]string{escaped(ghost.id) + "." + device + ".signed_curve25519": "2"})
	b.gets(t, "device_lists", map[string]string{"changed.0": ghost.id})
	anna.do("PUT", v3+"/sendToDevice/x.test/1", object{"messages": object{ghost.id: object{device: object{"n": 1}}}}).ok()
	if m := b.gets(t, "to_device", map[string]string{"to_user_id": ghost.id, "to_device_id": device, "type": "x.test"}); m.Get("sender").String() != anna.id || m.Get("content.n").Int() != 1 {
		t.Errorf("%s", m.Raw)
	}
	anna.do("POST", v3+"/keys/claim", object{"one_time_keys": object{ghost.id: object{device: "signed_curve25519"}}}).ok()
	b.gets(t, "device_one_time_keys_count", map[string]string{escaped(ghost.id) + "." + device + ".signed_curve25519": "1"})
	if a := ghost.do("GET", v3+"/sync", nil).ok(); len(a.get("to_device.events").Array()) > 0 {
		t.Errorf("it comes twice: %s", a.get("to_device").Raw)
	}

	// Who has left hears no more.
	irc.do("POST", as(ghost.id, in(room, "leave")), object{}).ok()
	b.gets(t, "events", map[string]string{"type": "m.room.member", "state_key": ghost.id, "content.membership": "leave"})
	after := anna.say(room, "are you gone?")
	last := bert.say(named, "the last one")
	b.gets(t, "events", map[string]string{"event_id": last})
	for _, e := range []string{before, hidden, after} {
		if v, ok := b.find("events", map[string]string{"event_id": e}); ok {
			t.Errorf("the bridge got %s", v.Raw)
		}
	}
	if n := len(b.got["to_device"]); n != 1 {
		t.Errorf("%d to-device messages", n)
	}
}

// escaped is a user id in a path of gjson.
func escaped(user string) string { return strings.ReplaceAll(user, ".", `\.`) }
