package app_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
)

// Client-server API, modules "Client Config" and "Room Tagging".
func testSyncAccountData(t *testing.T, w *world) {
	anna := w.register(t, "anna")
	room := anna.create(object{})
	c := anna.client("")
	c.poll(0)
	user := v3 + "/user/" + anna.id
	anna.do("PUT", user+"/account_data/x.y", object{"n": 1}).ok()
	r := c.until("account data", func(r *reply) bool { return find(r.get("account_data.events"), "x.y", "").Exists() })
	if r.get("rooms").Exists() {
		t.Errorf("rooms without news: %s", r.raw)
	}
	anna.do("PUT", user+"/rooms/"+room+"/account_data/x.z", object{"n": 2}).ok()
	anna.do("PUT", user+"/rooms/"+room+"/tags/m.favourite", object{"order": 0.5}).ok()
	var told []string
	c.until("account data of the room", func(r *reply) bool {
		for _, e := range r.room("join", room).Get("account_data.events").Array() {
			told = append(told, e.Get("type").Str)
		}
		return slices.Contains(told, "x.z") && slices.Contains(told, "m.tag")
	})
	if r := c.poll(0); r.get("account_data").Exists() || r.get("rooms").Exists() {
		t.Errorf("told again: %s", r.raw)
	}
	r = anna.client("").poll(0)
	if !find(r.get("account_data.events"), "x.y", "").Exists() || !find(r.room("join", room).Get("account_data.events"), "m.tag", "").Exists() {
		t.Errorf("initial: %s", r.raw)
	}
}

func toDevice(t *testing.T, from, to *person, device, body string) {
	t.Helper()
	from.do("PUT", v3+"/sendToDevice/x.test/"+fmt.Sprintf("td%d", txns.Add(1)), object{"messages": object{to.id: object{device: object{"body": body}}}}).ok()
}

func arrived(r *reply) []string { return r.texts("to_device.events.#.content.body") }

// Client-server API, module "Send-to-Device messaging": delivered until acknowledged by the next token, then never again.
func testSyncToDevice(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	c := bert.client("")
	c.poll(0)
	old := c.since
	toDevice(t, anna, bert, bert.device(), "1")
	r := c.until("message", func(r *reply) bool { return len(arrived(r)) > 0 })
	if r.get("to_device.events.0.sender").Str != anna.id || r.get("to_device.events.0.type").Str != "x.test" {
		t.Errorf("message: %s", r.raw)
	}
	for range 3 { // the answer was lost
		if got := arrived(c.ask(old, 0).ok()); !slices.Equal(got, []string{"1"}) {
			t.Errorf("repeated: %v", got)
		}
	}
	if got := arrived(c.poll(0)); got != nil { // acknowledges
		t.Errorf("told again: %v", got)
	}
	if got := arrived(c.ask(old, 0).ok()); got != nil {
		t.Errorf("told after it was acknowledged: %v", got)
	}
	if got := arrived(bert.client("").poll(0)); got != nil {
		t.Errorf("an initial sync tells what was acknowledged: %v", got)
	}
	toDevice(t, anna, bert, "*", "2")
	toDevice(t, anna, bert, "OTHER", "3")
	c.until("message to all", func(r *reply) bool { return slices.Equal(arrived(r), []string{"2"}) })
}

// The same with more messages than an answer carries, while everything else goes on.
func testSyncManyToDevice(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	c := bert.client("")
	c.poll(0)
	device, want := bert.device(), []string{}
	for i := range 230 {
		toDevice(t, anna, bert, device, fmt.Sprint(i))
		want = append(want, fmt.Sprint(i))
	}
	said := anna.say(room, "after them")
	var got []string
	c.until("messages", func(r *reply) bool {
		now := arrived(r)
		if len(now) > 100 {
			t.Errorf("%d messages at once", len(now))
		}
		got = append(got, now...)
		return len(got) >= len(want)
	})
	c.sees(room, said)
	if !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	if now := arrived(c.poll(0)); now != nil {
		t.Errorf("told again: %v", now)
	}
	c.once()
}

// Long messages are told some at a time, too: an answer is not longer than what one request may send, and a little.
func testSyncLongToDevice(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	c := bert.client("")
	c.poll(0)
	device := bert.device()
	long := strings.Repeat("x", 400<<10)
	var want, got []string
	for i := range 8 {
		toDevice(t, anna, bert, device, fmt.Sprint(i, long))
		want = append(want, fmt.Sprint(i, long))
	}
	c.until("messages", func(r *reply) bool {
		if n := len(r.get("to_device").Raw); n > 1<<20+600<<10 {
			t.Errorf("an answer with %d bytes of messages", n)
		}
		got = append(got, arrived(r)...)
		return len(got) >= len(want)
	})
	if !slices.Equal(got, want) {
		t.Errorf("got %d messages, in another order or others", len(got))
	}
}

func deviceKeys(p *person, device string) object {
	return object{"device_keys": object{"user_id": p.id, "device_id": device, "algorithms": list{"m.megolm.v1.aes-sha2"},
		"keys": object{"ed25519:" + device: "abc", "curve25519:" + device: "def"}, "signatures": object{p.id: object{"ed25519:" + device: "sig"}}}}
}

// Client-server API, module "End-to-end encryption", "Extensions to /sync": changed and left.
func testSyncDeviceLists(t *testing.T, w *world) {
	anna, bert, carl := w.register(t, "anna"), w.register(t, "bert"), w.register(t, "carl")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	c, stranger := anna.client(""), carl.client("")
	c.poll(0)
	stranger.poll(0)
	bert.do("POST", v3+"/keys/upload", deviceKeys(bert, bert.device())).ok()
	c.until("changed device", func(r *reply) bool { return slices.Contains(r.texts("device_lists.changed"), bert.id) })
	carl.join(room)
	c.until("newcomer", func(r *reply) bool { return slices.Contains(r.texts("device_lists.changed"), carl.id) })
	stranger.until("all members of a room that was joined", func(r *reply) bool {
		changed := r.texts("device_lists.changed")
		return slices.Contains(changed, bert.id) && slices.Contains(changed, anna.id)
	})
	second := anna.create(object{"preset": "public_chat"})
	carl.join(second)
	anna.everywhere(second, anna.say(second, "carl is here"))
	bert.do("POST", in(room, "leave"), object{}).ok()
	c.until("who left", func(r *reply) bool {
		if slices.Contains(r.texts("device_lists.left"), carl.id) {
			t.Error("carl did not leave")
		}
		return slices.Contains(r.texts("device_lists.left"), bert.id)
	})
	carl.do("POST", in(room, "leave"), object{}).ok()
	r := c.until("leaving", func(r *reply) bool { return strings.Contains(string(r.raw), `"leave"`) })
	if slices.Contains(r.texts("device_lists.left"), carl.id) {
		t.Errorf("a room is still shared with who left one: %s", r.raw)
	}
	anna.do("POST", in(second, "leave"), object{}).ok()
	c.until("those of a room that was left", func(r *reply) bool { return slices.Contains(r.texts("device_lists.left"), carl.id) })
}

// Client-server API, "Tracking the device list for a user", GET /keys/changes: what counts is what happened between two tokens,
// not how their ends differ; and what happened in all rooms, whatever the filter says of them.
func testSyncDeviceListsBetween(t *testing.T, w *world) {
	anna, bert, carl := w.register(t, "anna"), w.register(t, "bert"), w.register(t, "carl")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	carl.join(room)
	anna.everywhere(room, anna.say(room, "all are here"))
	type told struct{ changed, left []string }
	// ask asks by each means what happened since a token, until that is as expected.
	ask := func(what, since string, ok func(told) bool) {
		t.Helper()
		for how, filter := range map[string]string{"": "", "&full_state=true": "", "&filtered": `{"room":{"rooms":[]}}`} {
			c := anna.client(filter)
			c.extra = how
			eventually(t, what+" in /sync"+how, func() bool {
				r := c.ask(since, 0).ok()
				return ok(told{r.texts("device_lists.changed"), r.texts("device_lists.left")})
			})
		}
		eventually(t, what+" in /keys/changes", func() bool {
			r := anna.do("GET", v3+"/keys/changes?from="+since, nil).ok()
			return ok(told{r.texts("changed"), r.texts("left")})
		})
	}
	since := anna.client("").poll(0).str("next_batch")
	carl.do("PUT", v3+"/profile/"+carl.id+"/displayname", object{"displayname": "another name"}).ok()
	bert.do("POST", in(room, "leave"), object{}).ok()
	bert.do("POST", v3+"/keys/upload", deviceKeys(bert, bert.device())).ok() // of which nobody in the room hears
	bert.join(room)
	ask("who left and came back", since, func(x told) bool {
		if slices.Contains(x.changed, carl.id) {
			t.Error("a change of the profile is no change of devices")
		}
		return slices.Contains(x.changed, bert.id) && !slices.Contains(x.left, bert.id)
	})

	since = anna.client("").poll(0).str("next_batch")
	bert.do("POST", in(room, "leave"), object{}).ok()
	anna.do("POST", in(room, "leave"), object{}).ok()
	ask("who left before oneself", since, func(x told) bool {
		return slices.Contains(x.left, bert.id) && slices.Contains(x.left, carl.id) && !slices.Contains(x.left, anna.id)
	})

	since = anna.client("").poll(0).str("next_batch")
	anna.join(room)
	ask("oneself", since, func(x told) bool { return slices.Contains(x.changed, anna.id) && slices.Contains(x.changed, carl.id) })
}

// Client-server API, module "End-to-end encryption", "Extensions to /sync": device_one_time_keys_count and
// device_unused_fallback_key_types.
func testSyncOneTimeKeys(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	device := anna.device()
	c := anna.client("")
	c.poll(0)
	key := func(n int) object {
		return object{"key": fmt.Sprint("k", n), "signatures": object{anna.id: object{"ed25519:" + device: "s"}}}
	}
	anna.do("POST", v3+"/keys/upload", object{"one_time_keys": object{"signed_curve25519:A": key(1), "signed_curve25519:B": key(2)},
		"fallback_keys": object{"signed_curve25519:F": key(3)}}).ok()
	count := func(r *reply) int64 { return r.get("device_one_time_keys_count.signed_curve25519").Int() }
	r := c.until("keys", func(r *reply) bool { return count(r) == 2 })
	if got := r.texts("device_unused_fallback_key_types"); !slices.Equal(got, []string{"signed_curve25519"}) {
		t.Errorf("fallback keys: %v", got)
	}
	claim := object{"one_time_keys": object{anna.id: object{device: "signed_curve25519"}}}
	bert.do("POST", v3+"/keys/claim", claim).ok()
	c.until("claimed key", func(r *reply) bool { return count(r) == 1 })
	bert.do("POST", v3+"/keys/claim", claim).ok()
	bert.do("POST", v3+"/keys/claim", claim).ok()
	c.until("used fallback key", func(r *reply) bool { return count(r) == 0 && len(r.texts("device_unused_fallback_key_types")) == 0 })
}

func counts(v gjson.Result) [2]int64 {
	return [2]int64{v.Get("notification_count").Int(), v.Get("highlight_count").Int()}
}

// unread polls until the counts of a room are as expected, and checks that an initial sync says the same.
func (c *client) unread(what, room string, notifications, highlights int64) {
	c.t.Helper()
	want := [2]int64{notifications, highlights}
	c.until(fmt.Sprintf("%s: counts %v", what, want), func(r *reply) bool {
		v := r.room("join", room).Get("unread_notifications")
		return v.Exists() && counts(v) == want
	})
	eventually(c.t, fmt.Sprintf("%s: counts %v in an initial sync", what, want), func() bool {
		return counts(c.person.client(c.filter).poll(0).room("join", room).Get("unread_notifications")) == want
	})
}

func mention(users ...string) object {
	var list list
	for _, u := range users {
		list = append(list, u)
	}
	return object{"msgtype": "m.text", "body": "hey", "m.mentions": object{"user_ids": list}}
}

// Client-server API, "Receiving notifications": notification_count and highlight_count since the read receipt.
func testSyncUnread(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	c := bert.client("")
	c.poll(0)
	anna.say(room, "1")
	c.unread("one", room, 1, 0)
	second := anna.say(room, "2")
	anna.send(room, "m.room.message", object{"msgtype": "m.notice", "body": "notices do not notify"})
	anna.send(room, "m.room.message", mention(bert.id))
	c.unread("a mention", room, 3, 1)
	bert.do("POST", in(room, "receipt", "m.read", second), object{}).ok()
	c.unread("read up to the second", room, 1, 1)
	bert.say(room, "own messages do not notify")
	last := anna.say(room, "last")
	c.unread("own", room, 2, 1)
	bert.do("POST", in(room, "receipt", "m.read.private", last), object{}).ok()
	c.unread("all read", room, 0, 0)
	anna.send(room, "m.room.message", object{"msgtype": "m.text", "body": "all", "m.mentions": object{"room": true}})
	c.unread("the whole room", room, 1, 1)
	// What is redacted is nothing to be read any more.
	gone := []string{anna.say(room, "oops"), anna.send(room, "m.room.message", mention(bert.id))}
	c.unread("before they are redacted", room, 3, 2)
	for i, e := range gone {
		anna.do("PUT", in(room, "redact", e, fmt.Sprint("r", i)), object{}).ok()
	}
	c.unread("after", room, 1, 1)
	if got := counts(bert.client("").poll(0).room("join", room).Get("unread_notifications")); got != [2]int64{1, 1} {
		t.Errorf("initial: %v", got)
	}
	if got := bert.client(`{"room":{"timeline":{"unread_thread_notifications":true}}}`).poll(0).room("join", room).Get("unread_notifications"); counts(got) != [2]int64{1, 1} {
		t.Errorf("by thread: %s", got.Raw)
	}
}

// Client-server API, "Push Rules": rooms that are muted, keywords, no notifications at all.
func testSyncUnreadRules(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	quiet, mute, words := anna.create(object{"preset": "public_chat"}), anna.create(object{"preset": "public_chat"}), anna.create(object{"preset": "public_chat"})
	for _, room := range []string{quiet, mute, words} {
		bert.join(room)
	}
	rules := v3 + "/pushrules/global/"
	bert.do("PUT", rules+"room/"+quiet, object{"actions": list{}}).ok()
	bert.do("PUT", rules+"override/"+mute, object{"actions": list{}, "conditions": list{object{"kind": "event_match", "key": "room_id", "pattern": mute}}}).ok()
	c := bert.client("")
	c.poll(0)
	for _, room := range []string{quiet, mute, words} {
		anna.say(room, "x")
		anna.send(room, "m.room.message", mention(bert.id))
	}
	check := func(room string, want [2]int64) {
		t.Helper()
		eventually(t, fmt.Sprint("counts ", want), func() bool {
			return counts(bert.client("").poll(0).room("join", room).Get("unread_notifications")) == want
		})
	}
	check(quiet, [2]int64{1, 1})
	check(mute, [2]int64{})
	// What came while a room was muted does not begin to count when it is no more ("Receiving notifications").
	bert.do("DELETE", rules+"room/"+quiet, nil).ok()
	bert.do("PUT", rules+"override/"+mute+"/enabled", object{"enabled": false}).ok()
	check(quiet, [2]int64{1, 1})
	check(mute, [2]int64{})
	anna.say(quiet, "heard again")
	anna.say(mute, "heard again")
	check(quiet, [2]int64{2, 1})
	check(mute, [2]int64{1, 0})
	for _, room := range []string{quiet, mute} {
		for _, p := range []*person{anna, bert} {
			if r := p.client("").poll(0).room("join", room); strings.Contains(r.Get("ephemeral").Raw, "hanse.muted") {
				t.Errorf("a mark is told: %s", r.Raw)
			}
		}
	}
	bert.do("PUT", rules+"room/"+quiet, object{"actions": list{}}).ok()
	bert.do("PUT", rules+"override/"+mute+"/enabled", object{"enabled": true}).ok()
	check(quiet, [2]int64{1, 1})
	check(mute, [2]int64{0, 0})
	check(words, [2]int64{2, 1})
	bert.do("PUT", rules+"content/herring", object{"pattern": "herring", "actions": list{"notify", object{"set_tweak": "highlight"}}}).ok()
	c.until("rules", func(r *reply) bool { return find(r.get("account_data.events"), "m.push_rules", "").Exists() })
	anna.say(words, "fresh herring")
	c.unread("a keyword", words, 3, 2)
	check(quiet, [2]int64{1, 1})
	check(mute, [2]int64{0, 0})
	// "Receiving notifications": what came while everything was muted does not begin to count, and what was unread before counts
	// again, also for a user who has the default rules, and for a client that polls all the time.
	carl := w.register(t, "carl")
	carl.join(words)
	anna.say(words, "before")
	polling := carl.client("")
	of := func(p *person) [2]int64 {
		return counts(p.client("").poll(0).room("join", words).Get("unread_notifications"))
	}
	is := func(what string, ofBert, ofCarl [2]int64) {
		t.Helper()
		eventually(t, what, func() bool { return of(bert) == ofBert && of(carl) == ofCarl })
	}
	is("before", [2]int64{4, 2}, [2]int64{1, 0})
	polling.poll(0)
	for range 3 {
		for _, p := range []*person{bert, carl} {
			p.do("PUT", rules+"override/.m.rule.master/enabled", object{"enabled": true}).ok()
		}
		is("muted", [2]int64{}, [2]int64{})
		anna.say(words, "herring while muted")
		anna.send(words, "m.room.message", mention(carl.id))
		for _, p := range []*person{bert, carl} {
			p.do("PUT", rules+"override/.m.rule.master/enabled", object{"enabled": false}).ok()
		}
		is("heard again", [2]int64{4, 2}, [2]int64{1, 0})
	}
	anna.say(words, "herring after")
	is("after", [2]int64{5, 3}, [2]int64{2, 0})
	polling.unread("who polls", words, 2, 0)
}

// Client-server API, "Threaded read receipts" and unread_thread_notifications.
func testSyncThreads(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	c := bert.client(`{"room":{"timeline":{"unread_thread_notifications":true}}}`)
	c.poll(0)
	threaded := func(root string, content object) string {
		content["m.relates_to"] = object{"rel_type": "m.thread", "event_id": root}
		return anna.send(room, "m.room.message", content)
	}
	root := anna.say(room, "root")
	threaded(root, object{"msgtype": "m.text", "body": "1"})
	last := threaded(root, mention(bert.id))
	check := func(what string, main, thread [2]int64) {
		t.Helper()
		is := func(r *reply) bool {
			v := r.room("join", room)
			return v.Exists() && counts(v.Get("unread_notifications")) == main && counts(v.Get("unread_thread_notifications."+escape(root))) == thread
		}
		c.until(what, is)
		eventually(t, what+" in an initial sync", func() bool { return is(bert.client(c.filter).poll(0)) })
	}
	check("root and thread", [2]int64{1, 0}, [2]int64{2, 1})
	eventually(t, "counts without threads", func() bool {
		return counts(bert.client("").poll(0).room("join", room).Get("unread_notifications")) == [2]int64{3, 1}
	})
	bert.do("POST", in(room, "receipt", "m.read", root), object{"thread_id": "main"}).ok()
	check("main timeline read", [2]int64{0, 0}, [2]int64{2, 1})
	bert.do("POST", in(room, "receipt", "m.read", last), object{"thread_id": root}).ok()
	check("thread read", [2]int64{0, 0}, [2]int64{0, 0})
	threaded(root, object{"msgtype": "m.text", "body": "2"})
	anna.say(room, "main")
	check("both again", [2]int64{1, 0}, [2]int64{1, 0})
	bert.do("POST", in(room, "receipt", "m.read", anna.say(room, "end")), object{}).ok()
	check("all read", [2]int64{0, 0}, [2]int64{0, 0})
}

// Client-server API, module "Receipts": private ones are for their owner only; threads are named.
func testSyncReceipts(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	first, second, third := anna.say(room, "1"), anna.say(room, "2"), anna.say(room, "3")
	a, b := anna.client(""), bert.client("")
	a.poll(0)
	b.poll(0)
	bert.do("POST", in(room, "receipt", "m.read.private", second), object{}).ok()
	bert.do("POST", in(room, "receipt", "m.read", first), object{}).ok()
	bert.do("POST", in(room, "receipt", "m.read", third), object{"thread_id": "main"}).ok()
	receipts := func(r *reply) gjson.Result {
		return find(r.room("join", room).Get("ephemeral.events"), "m.receipt", "").Get("content")
	}
	at := func(r *reply, event, typ string) gjson.Result {
		return receipts(r).Get(escape(event) + "." + escape(typ) + "." + escape(bert.id))
	}
	a.until("receipts", func(r *reply) bool {
		if at(r, second, "m.read.private").Exists() {
			t.Error("a private receipt is told to others")
		}
		return at(r, third, "m.read").Get("thread_id").Str == "main"
	})
	b.until("own receipts", func(r *reply) bool { return at(r, third, "m.read").Exists() })
	for name, p := range map[*person]bool{anna: false, bert: true} {
		r := name.client("").poll(0)
		if at(r, second, "m.read.private").Exists() != p || at(r, first, "m.read").Get("ts").Int() == 0 || at(r, third, "m.read").Get("thread_id").Str != "main" {
			t.Errorf("initial: %s", receipts(r).Raw)
		}
	}
}

// MSC4102, "Clarifying precedence in threaded and unthreaded read receipts in EDUs": of a user's receipts for one event
// the unthreaded one is told, whichever came last.
func testSyncUnthreadedReceipts(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	for i, bodies := range [][]object{{{}, {"thread_id": "main"}}, {{"thread_id": "main"}, {}}} {
		c := anna.client("")
		c.poll(0)
		event := anna.say(room, fmt.Sprint(i))
		for _, body := range bodies {
			bert.do("POST", in(room, "receipt", "m.read", event), body).ok()
		}
		told := func(r *reply) gjson.Result {
			return find(r.room("join", room).Get("ephemeral.events"), "m.receipt", "").Get("content." + escape(event) + "." + escape("m.read") + "." + escape(bert.id))
		}
		marker := anna.say(room, "behind the receipts")
		anna.everywhere(room, marker)
		if r := c.poll(0); !told(r).Exists() || told(r).Get("thread_id").Exists() {
			t.Errorf("incremental, %v: %s", bodies, r.raw)
		}
		if r := anna.client("").poll(0); !told(r).Exists() || told(r).Get("thread_id").Exists() {
			t.Errorf("initial, %v: %s", bodies, r.raw)
		}
	}
}
