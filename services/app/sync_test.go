package app_test

import (
	"fmt"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/tidwall/gjson"
)

// /sync of a cluster of two processes over two shards: each client goes from one to the other with each poll.
func TestSync(t *testing.T) {
	w := newWorld(t)
	for name, test := range map[string]func(*testing.T, *world){
		"initial": testSyncInitial, "incremental": testSyncIncremental, "long poll": testSyncLongPoll, "gap": testSyncGap,
		"limit 0": testSyncLimitZero, "filters": testSyncFilters, "lazy loading": testSyncLazy, "full state": testSyncFullState,
		"state after": testSyncStateAfter, "tokens": testSyncTokens, "bad input": testSyncBadInput, "redaction": testSyncRedaction,
		"invites": testSyncInvites, "knocks": testSyncKnocks, "leaves": testSyncLeaves, "bans": testSyncBans, "rejoin": testSyncRejoin,
		"forgotten": testSyncForgotten, "kicked while polling": testSyncKicked, "ignored users": testSyncIgnored,
		"account data": testSyncAccountData, "to-device": testSyncToDevice, "many to-device": testSyncManyToDevice, "long to-device": testSyncLongToDevice,
		"device lists between": testSyncDeviceListsBetween,
		"device lists":         testSyncDeviceLists, "one-time keys": testSyncOneTimeKeys, "unread": testSyncUnread,
		"unread by rules": testSyncUnreadRules, "threads": testSyncThreads, "receipts": testSyncReceipts, "empty": testSyncEmpty, "unthreaded receipts": testSyncUnthreadedReceipts, "typing": testSyncTyping,
		"notifications": testNotifications, "presence": testSyncPresence, "presence of devices": testSyncPresenceOfDevices, "first": testSyncFirst,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, w)
		})
	}
}

// Client-server API, "Syncing": without since all rooms, the newest events and the state before them.
func testSyncInitial(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	var rooms []string
	for i := range 5 {
		rooms = append(rooms, anna.create(object{"preset": "public_chat", "name": fmt.Sprint("Room ", i)}))
	}
	bert.join(rooms[0])
	last := bert.say(rooms[0], "hello")
	anna.everywhere(rooms[0], last)
	c := anna.client("")
	r := c.poll(0)
	for _, room := range rooms {
		v := r.room("join", room)
		both := append(ids(v.Get("timeline.events")), ids(v.Get("state.events"))...)
		slices.Sort(both)
		if len(slices.Compact(both)) != len(both) || len(both) < 6 {
			t.Errorf("%s: timeline and state tell twice, or too little: %s", room, v.Raw)
		}
		if !v.Get("timeline.prev_batch").Exists() || v.Get("unread_notifications.notification_count").Raw == "" || v.Get("summary.m\\.joined_member_count").Int() < 1 {
			t.Errorf("%s: %s", room, v.Raw)
		}
	}
	timeline := ids(r.room("join", rooms[0]).Get("timeline.events"))
	if timeline[len(timeline)-1] != last {
		t.Errorf("the newest event is not the last one: %v", timeline)
	}
	if !find(r.get("account_data.events"), "m.push_rules", "").Exists() || r.get("device_one_time_keys_count.signed_curve25519").Raw != "0" {
		t.Errorf("account data and keys: %s", r.raw)
	}
	heroes := r.room("join", rooms[0]).Get("summary")
	if heroes.Get("m\\.heroes").Exists() || heroes.Get("m\\.joined_member_count").Int() != 2 {
		t.Errorf("summary of a room with a name: %s", heroes.Raw)
	}
}

// Client-server API, "Syncing": each event once and in order; unsigned.transaction_id for the device that sent it only.
func testSyncIncremental(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	c := bert.client(`{"room":{"timeline":{"limit":50}}}`)
	c.poll(0)
	c.events = map[string][]string{}
	var sent []string
	for i := range 20 {
		sent = append(sent, []*person{anna, bert}[i%2].say(room, fmt.Sprint(i)))
		if i%3 == 0 {
			c.poll(0)
		}
	}
	r := c.sees(room, sent[19])
	if !slices.Equal(c.events[room], sent) {
		t.Errorf("told %v, sent %v", c.events[room], sent)
	}
	events := r.room("join", room).Get("timeline.events").Array()
	if e := events[len(events)-1]; !e.Get("unsigned.transaction_id").Exists() || e.Get("unsigned.age").Raw == "" || e.Get("room_id").Exists() {
		t.Errorf("own event: %s", e.Raw)
	}
	if r := c.poll(0); r.get("rooms").Exists() {
		t.Errorf("there is nothing to tell: %s", r.raw)
	}
	name := anna.set(room, "m.room.name", "", object{"name": "A"})
	if r := c.sees(room, name); len(r.room("join", room).Get("state.events").Array()) != 0 {
		t.Errorf("state that is in the timeline: %s", r.raw)
	}
}

// Client-server API, "Syncing": a poll with a timeout is answered when something happens.
func testSyncLongPoll(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	for _, do := range []func(){
		func() { anna.say(room, "wake up") },
		func() { bert.do("PUT", v3+"/user/"+bert.id+"/account_data/x.y", object{"n": 1}).ok() },
		func() { anna.create(object{"invite": list{bert.id}}) },
		func() { anna.do("PUT", in(room, "receipt", "m.read", anna.say(room, "x")), nil) },
	} {
		c := bert.client(`{"presence":{"types":[]}}`) // bert's own ends a poll, too
		c.poll(0)
		c.poll(time.Millisecond)
		answers := make(chan *reply)
		go func() { answers <- c.ask(c.since, time.Minute) }()
		do()
		if r := <-answers; r.status != 200 || len(r.get("rooms").Map())+len(r.get("account_data.events").Array()) == 0 {
			t.Errorf("the poll ended without what happened: %s", r.raw)
		}
	}
}

// Client-server API, "Syncing": a limited timeline goes on in /messages where it ends, and meets the last one there.
func testSyncGap(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	c := bert.client(`{"room":{"timeline":{"limit":4}}}`)
	c.poll(0)
	old := c.since
	c.events = map[string][]string{}
	var sent []string
	for i := range 15 {
		sent = append(sent, anna.say(room, fmt.Sprint(i)))
	}
	name := anna.set(room, "m.room.name", "", object{"name": "hidden in the gap"})
	sent = append(sent, name)
	for i := range 4 {
		sent = append(sent, anna.say(room, fmt.Sprint(i)))
	}
	// The log reaches a worker a moment after it was written.
	eventually(t, "all events in one answer", func() bool {
		c.since, c.events = old, map[string][]string{}
		v := c.poll(0).room("join", room)
		told := ids(v.Get("timeline.events"))
		if !slices.Equal(told, sent[16:]) {
			return false
		}
		if !v.Get("timeline.limited").Bool() || find(v.Get("state.events"), "m.room.name", "").Get("event_id").Str != name {
			t.Errorf("gap: %s", v.Raw)
		}
		page := bert.page(room, "?dir=b&limit=100&from="+url.QueryEscape(v.Get("timeline.prev_batch").Str)+"&to="+url.QueryEscape(old))
		before := page.texts("chunk.#.event_id")
		slices.Reverse(before)
		if !slices.Equal(before, sent[:16]) {
			t.Errorf("before the gap: %v, want %v", before, sent[:16])
		}
		return true
	})
}

// Client-server API, "Filtering", limit: 0 tells of no event, but that there were some, and where.
func testSyncLimitZero(t *testing.T, w *world) {
	anna := w.register(t, "anna")
	room := anna.create(object{})
	c := anna.client(`{"room":{"timeline":{"limit":0}}}`)
	r := c.poll(0)
	if v := r.room("join", room); len(v.Get("timeline.events").Array()) != 0 || !v.Get("timeline.limited").Bool() || len(v.Get("state.events").Array()) < 6 {
		t.Errorf("initial: %s", v.Raw)
	}
	sent := anna.say(room, "x")
	r = c.until("gap", func(r *reply) bool { return r.room("join", room).Exists() })
	v := r.room("join", room)
	if len(v.Get("timeline.events").Array()) != 0 || !v.Get("timeline.limited").Bool() {
		t.Errorf("incremental: %s", v.Raw)
	}
	page := anna.page(room, "?dir=b&limit=1&from="+url.QueryEscape(v.Get("timeline.prev_batch").Str))
	if got := page.texts("chunk.#.event_id"); !slices.Equal(got, []string{sent}) {
		t.Errorf("from prev_batch: %v, want %s", got, sent)
	}
}

// Client-server API, "Filtering".
func testSyncFilters(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room, other := anna.create(object{"preset": "public_chat"}), anna.create(object{"name": "other"})
	bert.join(room)
	fromBert := bert.say(room, "from bert")
	image := anna.send(room, "m.room.message", object{"msgtype": "m.image", "body": "i", "url": "mxc://a/b"})
	anna.do("PUT", v3+"/user/"+anna.id+"/account_data/x.y", object{"n": 1}).ok()
	anna.everywhere(room, image)
	timeline := func(filter string) []string {
		t.Helper()
		return ids(anna.client(filter).poll(0).room("join", room).Get("timeline.events"))
	}
	for filter, want := range map[string][]string{
		`{"room":{"timeline":{"senders":["` + bert.id + `"],"types":["m.room.message"]}}}`:                 {fromBert},
		`{"room":{"timeline":{"not_senders":["` + bert.id + `"],"types":["m.room.mess*"]}}}`:               {image},
		`{"room":{"timeline":{"contains_url":true}}}`:                                                      {image},
		`{"room":{"timeline":{"types":["m.room.message"],"contains_url":false}}}`:                          {fromBert},
		`{"room":{"timeline":{"types":["m.*"],"not_types":["m.room.[!m]*","m.room.message","m.room.*"]}}}`: nil,
		`{"room":{"timeline":{"types":[]}}}`:                                                               nil,
		`{"room":{"timeline":{"not_rooms":["` + room + `"]}}}`:                                             nil,
	} {
		if got := timeline(filter); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", filter, got, want)
		}
	}
	for filter, want := range map[string][2]bool{
		`{"room":{"rooms":["` + room + `"]}}`:                                 {true, false},
		`{"room":{"not_rooms":["` + room + `"]}}`:                             {false, true},
		`{"room":{"rooms":["` + room + `"],"not_rooms":["` + room + `"]}}`:    {false, false},
		`{"room":{"rooms":[]}}`:                                               {false, false},
		`{"account_data":{"types":["x.y"]},"room":{"state":{"types":["x"]}}}`: {true, true},
	} {
		r := anna.client(filter).poll(0)
		if got := [2]bool{r.room("join", room).Exists(), r.room("join", other).Exists()}; got != want {
			t.Errorf("%s: rooms %v, want %v", filter, got, want)
		}
	}
	r := anna.client(`{"account_data":{"types":["x.y"]},"room":{"state":{"types":["m.room.name"]}}}`).poll(0)
	if len(r.get("account_data.events").Array()) != 1 || len(r.room("join", other).Get("state.events").Array()) > 1 {
		t.Errorf("types of account data and state: %s", r.raw)
	}
	stored := anna.do("POST", v3+"/user/"+anna.id+"/filter", object{"room": object{"timeline": object{"limit": 1}}}).ok().str("filter_id")
	if got := timeline(stored); !slices.Equal(got, []string{image}) {
		t.Errorf("stored filter: %v", got)
	}
	e := anna.client(`{"event_fields":["type","content.body"],"room":{"timeline":{"limit":1}}}`).poll(0).room("join", room).Get("timeline.events.0")
	if e.Raw != `{"content":{"body":"i"},"type":"m.room.message"}` {
		t.Errorf("event_fields: %s", e.Raw)
	}
	e = anna.client(`{"event_format":"federation","room":{"timeline":{"limit":1}}}`).poll(0).room("join", room).Get("timeline.events.0")
	if !e.Get("auth_events").Exists() || !e.Get("signatures").Exists() {
		t.Errorf("event_format: %s", e.Raw)
	}
}

// Client-server API, "Lazy-loading room members": members' events come with the first of their messages, and are not
// repeated; the user's own and those of the heroes always come at first.
func testSyncLazy(t *testing.T, w *world) {
	anna, bert, carl := w.register(t, "anna"), w.register(t, "bert"), w.register(t, "carl")
	room := anna.create(object{"preset": "public_chat", "name": "named"})
	bert.join(room)
	carl.join(room)
	anna.everywhere(room, carl.say(room, "hello"))
	c := anna.client(`{"room":{"timeline":{"limit":1},"state":{"lazy_load_members":true}}}`)
	state := c.poll(0).room("join", room).Get("state.events")
	if !find(state, "m.room.member", carl.id).Exists() || !find(state, "m.room.member", anna.id).Exists() || find(state, "m.room.member", bert.id).Exists() {
		t.Errorf("members at first: %s", state.Raw)
	}
	r := c.sees(room, bert.say(room, "I am here"))
	if !find(r.room("join", room).Get("state.events"), "m.room.member", bert.id).Exists() {
		t.Errorf("the sender is unknown: %s", r.raw)
	}
	full := anna.client(`{"room":{"timeline":{"limit":1}}}`).poll(0).room("join", room).Get("state.events")
	if !find(full, "m.room.member", bert.id).Exists() {
		t.Errorf("without lazy loading: %s", full.Raw)
	}
	unnamed := anna.create(object{"preset": "private_chat", "invite": list{bert.id}})
	c = anna.client(`{"room":{"timeline":{"limit":1},"state":{"lazy_load_members":true}}}`)
	anna.everywhere(unnamed, anna.say(unnamed, "x"))
	v := c.poll(0).room("join", unnamed)
	if !find(v.Get("state.events"), "m.room.member", bert.id).Exists() || v.Get("summary.m\\.heroes.0").Str != bert.id {
		t.Errorf("heroes: %s", v.Raw)
	}
}

// Client-server API, "Syncing", full_state.
func testSyncFullState(t *testing.T, w *world) {
	anna := w.register(t, "anna")
	room := anna.create(object{"name": "A"})
	c := anna.client("")
	c.poll(0)
	c.extra = "&full_state=true"
	v := c.poll(time.Minute).room("join", room) // does not wait
	if len(v.Get("timeline.events").Array()) != 0 || !find(v.Get("state.events"), "m.room.create", "").Exists() || !find(v.Get("state.events"), "m.room.name", "").Exists() {
		t.Errorf("full state: %s", v.Raw)
	}
	c.once()
}

// Client-server API, "Syncing", use_state_after: the state at the end of the timeline.
func testSyncStateAfter(t *testing.T, w *world) {
	anna := w.register(t, "anna")
	room := anna.create(object{})
	anna.everywhere(room, anna.set(room, "m.room.topic", "", object{"topic": "old"}))
	c := anna.client(`{"room":{"timeline":{"limit":2}}}`)
	c.extra = "&use_state_after=true"
	v := c.poll(0).room("join", room)
	if v.Get("state").Exists() || find(v.Get("state_after.events"), "m.room.topic", "").Get("content.topic").Str != "old" {
		t.Errorf("initial: %s", v.Raw)
	}
	topic := anna.set(room, "m.room.topic", "", object{"topic": "new"})
	v = c.sees(room, topic).room("join", room)
	if find(v.Get("state_after.events"), "m.room.topic", "").Get("event_id").Str != topic {
		t.Errorf("incremental: %s", v.Raw)
	}
	// By its name in MSC4222, as /versions announces it.
	c = anna.client(`{"room":{"timeline":{"limit":2}}}`)
	c.extra = "&org.matrix.msc4222.use_state_after=true"
	v = c.poll(0).room("join", room)
	if v.Get("state").Exists() || v.Get("state_after").Exists() || find(v.Get(`org\.matrix\.msc4222\.state_after.events`), "m.room.topic", "").Get("content.topic").Str != "new" {
		t.Errorf("unstable: %s", v.Raw)
	}
	v = c.sees(room, anna.set(room, "m.room.topic", "", object{"topic": "newer"})).room("join", room)
	if find(v.Get(`org\.matrix\.msc4222\.state_after.events`), "m.room.topic", "").Get("content.topic").Str != "newer" {
		t.Errorf("unstable, incremental: %s", v.Raw)
	}
	anna.do("GET", v3+"/sync?org.matrix.msc4222.use_state_after=x", nil).fails(400, "M_INVALID_PARAM")
}

// Client-server API, "Syncing": what is empty, as clients of the field expect it from Synapse, and what is not told at all.
func testSyncEmpty(t *testing.T, w *world) {
	anna, bert, carl := w.register(t, "anna"), w.register(t, "bert"), w.register(t, "carl")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	c := anna.client(`{"room":{"timeline":{"unread_thread_notifications":true}}}`)
	first := c.poll(0).room("join", room)
	next := c.sees(room, bert.say(room, "x")).room("join", room)
	for what, v := range map[string]gjson.Result{"initial": first, "incremental": next} {
		if v.Get("ephemeral.events").Raw != "[]" || v.Get("unread_thread_notifications").Exists() {
			t.Errorf("%s: %s", what, v.Raw)
		}
	}
	// A filter that leaves nothing but the summary leaves nothing.
	narrow := anna.client(`{"room":{"timeline":{"types":["m.none"]},"state":{"types":["m.none"]},"ephemeral":{"types":[]},"account_data":{"types":[]}},"presence":{"types":[]}}`)
	narrow.poll(0)
	narrow.poll(time.Millisecond)
	carl.join(room)
	anna.everywhere(room, anna.say(room, "carl is in"))
	if r := narrow.poll(0); r.room("join", room).Exists() {
		t.Errorf("a summary alone: %s", r.raw)
	}
}

// DESIGN section 3: a token is good at every worker; those of others, of the future and of garbage are errors.
func testSyncTokens(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	a, b := anna.client(""), bert.client("")
	a.poll(0)
	b.poll(0)
	for _, bad := range []string{"x", "s1_2_3", "t5", "%%%", "-1", b.since, a.since + "A", a.since[:len(a.since)-1]} {
		a.ask(bad, 0).fails(400, "M_INVALID_PARAM")
	}
	sent := anna.say(room, "again")
	for range 4 { // a repeated token gives the same again, at every worker
		again := a.since
		a.sees(room, sent)
		a.since, a.events = again, map[string][]string{}
	}
}

func testSyncBadInput(t *testing.T, w *world) {
	anna := w.register(t, "anna")
	for _, q := range []string{"timeout=x", "timeout=-1", "full_state=yes", "set_presence=dancing", "filter=nonsense", "filter=999999", "filter=%7B", "use_state_after=1",
		"filter=%7B%22event_format%22%3A%22x%22%7D", "filter=%7B%22room%22%3A5%7D"} {
		anna.do("GET", v3+"/sync?"+q, nil).fails(400, "M_INVALID_PARAM")
	}
	nobody := &person{t: t, w: w}
	nobody.do("GET", v3+"/sync", nil).fails(401, "M_MISSING_TOKEN")
	nobody.token = "made-up"
	nobody.do("GET", v3+"/sync", nil).fails(401, "M_UNKNOWN_TOKEN")
}

// Client-server API, "Redactions": what was redacted is told without its content, and why.
func testSyncRedaction(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	c := bert.client("")
	c.poll(0)
	secret := anna.say(room, "secret")
	redaction := anna.do("PUT", in(room, "redact", secret, "r1"), object{"reason": "typo"}).ok().str("event_id")
	eventually(t, "redaction", func() bool {
		events := c.ask(c.since, 0).ok().room("join", room).Get("timeline.events")
		if got := ids(events); len(got) < 2 || got[len(got)-1] != redaction {
			return false
		}
		for _, e := range events.Array() {
			if e.Get("event_id").Str == secret && (e.Get("content.body").Exists() || e.Get("unsigned.redacted_because.event_id").Str != redaction) {
				t.Errorf("redacted event: %s", e.Raw)
			}
		}
		return true
	})
}
