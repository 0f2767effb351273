package app_test

import (
	"fmt"
	"net/url"
	"slices"
	"testing"
	"time"
)

// Client-server API, "Syncing", rooms.invite; and its end in rooms.leave when it is declined.
func testSyncInvites(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	c := bert.client("")
	c.poll(0)
	room := anna.create(object{"name": "Come", "invite": list{bert.id}})
	r := c.until("invite", func(r *reply) bool { return r.room("invite", room).Exists() })
	state := r.room("invite", room).Get("invite_state.events")
	if find(state, "m.room.name", "").Get("content.name").Str != "Come" || find(state, "m.room.member", bert.id).Get("sender").Str != anna.id {
		t.Errorf("invite: %s", r.raw)
	}
	if again := bert.client("").poll(0); !again.room("invite", room).Exists() {
		t.Errorf("an initial sync does not tell of the invite: %s", again.raw)
	}
	bert.do("POST", in(room, "leave"), object{}).ok()
	r = c.until("declined invite", func(r *reply) bool { return r.room("leave", room).Exists() })
	if e := r.room("leave", room).Get("timeline.events"); len(e.Array()) != 1 || e.Get("0.content.membership").Str != "leave" {
		t.Errorf("declined: %s", r.raw)
	}
	if again := bert.client("").poll(0); again.room("leave", room).Exists() || again.room("invite", room).Exists() {
		t.Errorf("an initial sync tells of an invite that was declined: %s", again.raw)
	}
	c.once()
}

// Client-server API, "Knocking on rooms": rooms.knock, then rooms.invite.
func testSyncKnocks(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"initial_state": list{object{"type": "m.room.join_rules", "content": object{"join_rule": "knock"}}}})
	c := bert.client("")
	c.poll(0)
	bert.do("POST", v3+"/knock/"+url.PathEscape(room), object{}).ok()
	r := c.until("knock", func(r *reply) bool { return r.room("knock", room).Exists() })
	if !find(r.room("knock", room).Get("knock_state.events"), "m.room.join_rules", "").Exists() {
		t.Errorf("knock: %s", r.raw)
	}
	anna.do("POST", in(room, "invite"), object{"user_id": bert.id}).ok()
	c.until("invite", func(r *reply) bool { return r.room("invite", room).Exists() })
	bert.join(room)
	c.until("room", func(r *reply) bool { return r.room("join", room).Get("timeline.events.#").Int() > 0 })
}

// Client-server API, "Syncing", rooms.leave: what happened until the user left, its own leaving, and nothing later.
func testSyncLeaves(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	c := bert.client("")
	c.poll(0)
	before := anna.say(room, "before")
	anna.do("POST", in(room, "kick"), object{"user_id": bert.id}).ok()
	after := anna.say(room, "after")
	r := c.until("end", func(r *reply) bool { return r.room("leave", room).Exists() })
	events := r.room("leave", room).Get("timeline.events").Array()
	if len(events) == 0 || events[len(events)-1].Get("content.membership").Str != "leave" {
		t.Errorf("left room: %s", r.raw)
	}
	if !slices.Contains(c.events[room], before) || slices.Contains(c.events[room], after) {
		t.Errorf("told %v; want %s, not %s", c.events[room], before, after)
	}
	c.once()
	if r := c.poll(0); r.get("rooms").Exists() {
		t.Errorf("told again: %s", r.raw)
	}
	if r := bert.client("").poll(0); r.room("leave", room).Exists() {
		t.Errorf("an initial sync tells of a left room: %s", r.raw)
	}
	v := bert.client(`{"room":{"include_leave":true}}`).poll(0).room("leave", room)
	told := append(ids(v.Get("timeline.events")), ids(v.Get("state.events"))...)
	if !slices.Contains(told, before) || slices.Contains(told, after) {
		t.Errorf("include_leave: %s", v.Raw)
	}
}

// Client-server API, "Banning users in a room": a ban after the user had left shows the ban, and nothing of the time
// between.
func testSyncBans(t *testing.T, w *world) {
	anna, bert, carl := w.register(t, "anna"), w.register(t, "bert"), w.register(t, "carl")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	b, c := bert.client(""), carl.client("")
	b.poll(0)
	c.poll(0)
	bert.do("POST", in(room, "leave"), object{}).ok()
	b.until("end", func(r *reply) bool { return r.room("leave", room).Exists() })
	hidden := anna.say(room, "without bert")
	anna.do("POST", in(room, "ban"), object{"user_id": bert.id, "reason": "spam"}).ok()
	anna.do("POST", in(room, "ban"), object{"user_id": carl.id}).ok()
	for _, c := range []*client{b, c} {
		r := c.until("ban", func(r *reply) bool { return r.room("leave", room).Exists() })
		if events := r.room("leave", room).Get("timeline.events").Array(); len(events) != 1 || events[0].Get("content.membership").Str != "ban" {
			t.Errorf("ban: %s", r.raw)
		}
		if slices.Contains(c.events[room], hidden) {
			t.Error("who had left is told of what happened later")
		}
		c.once()
	}
}

// Client-server API, "Syncing": a room that is joined anew comes with all of its state.
func testSyncRejoin(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat", "name": "Again"})
	c := bert.client(`{"room":{"timeline":{"limit":2}}}`)
	c.poll(0)
	for range 3 {
		bert.join(room)
		r := c.until("room", func(r *reply) bool { return r.room("join", room).Exists() })
		if v := r.room("join", room); !find(v.Get("state.events"), "m.room.create", "").Exists() || !v.Get("timeline.limited").Bool() {
			t.Errorf("joined: %s", v.Raw)
		}
		c.sees(room, anna.say(room, "welcome"))
		bert.do("POST", in(room, "leave"), object{}).ok()
		c.until("end", func(r *reply) bool { return r.room("leave", room).Exists() })
	}
}

// Client-server API, "Leaving rooms", forget.
func testSyncForgotten(t *testing.T, w *world) {
	anna := w.register(t, "anna")
	room := anna.create(object{})
	c := anna.client(`{"room":{"include_leave":true}}`)
	c.poll(0)
	anna.do("POST", in(room, "leave"), object{}).ok()
	c.until("end", func(r *reply) bool { return r.room("leave", room).Exists() })
	anna.do("POST", in(room, "forget"), object{}).ok()
	if r := anna.client(c.filter).poll(0); r.room("leave", room).Exists() {
		t.Errorf("forgotten, and told: %s", r.raw)
	}
}

// Who is put out while polling hears of its end exactly once and of nothing behind it, whichever comes first: the log
// or the membership index.
func testSyncKicked(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	for range 5 {
		room := anna.create(object{"preset": "public_chat"})
		bert.join(room)
		c := bert.client("")
		c.poll(0)
		done := make(chan []string)
		go func() {
			var hidden []string
			anna.do("POST", in(room, "kick"), object{"user_id": bert.id}).ok()
			for i := range 5 {
				hidden = append(hidden, anna.say(room, fmt.Sprint(i)))
			}
			done <- hidden
		}()
		r := c.until("end", func(r *reply) bool { return r.room("leave", room).Exists() })
		if e := r.room("leave", room).Get("timeline.events").Array(); len(e) == 0 || e[len(e)-1].Get("content.membership").Str != "leave" {
			t.Errorf("the end: %s", r.raw)
		}
		hidden := <-done
		c.poll(0)
		for _, e := range hidden {
			if slices.Contains(c.events[room], e) {
				t.Errorf("told of %s, which was sent later", e)
			}
		}
		c.once()
	}
}

// Client-server API, "Ignoring Users": no events but state, and no invites.
func testSyncIgnored(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	c := anna.client("")
	c.poll(0)
	anna.do("PUT", v3+"/user/"+anna.id+"/account_data/m.ignored_user_list", object{"ignored_users": object{bert.id: object{}}}).ok()
	c.until("account data", func(r *reply) bool { return find(r.get("account_data.events"), "m.ignored_user_list", "").Exists() })
	hidden := bert.say(room, "spam")
	invited := bert.create(object{"invite": list{anna.id}})
	bert.do("PUT", v3+"/profile/"+bert.id+"/displayname", object{"displayname": "Bert"}).ok()
	last := anna.say(room, "last")
	r := c.sees(room, last)
	if slices.Contains(c.events[room], hidden) {
		t.Errorf("an ignored user's message is told: %s", r.raw)
	}
	// Nor does it count, or end a poll: not even many, which are more than a timeline takes.
	for i := range 15 {
		bert.say(room, "spam")
		if i%5 == 0 {
			bert.send(room, "m.room.message", mention(anna.id))
		}
	}
	bert.everywhere(room, bert.say(room, "spam"))
	if r := c.poll(200 * time.Millisecond); r.get("rooms").Exists() { // nor by a worker that has not answered the client before
		t.Errorf("ignored messages end a poll: %s", r.raw)
	}
	if got := counts(anna.client("").poll(0).room("join", room).Get("unread_notifications")); got != [2]int64{} {
		t.Errorf("ignored messages count: %v", got)
	}
	anna.do("PUT", v3+"/user/"+anna.id+"/account_data/m.ignored_user_list", object{"ignored_users": object{}}).ok()
	if !anna.client("").poll(0).room("invite", invited).Exists() {
		t.Error("the invite is gone")
	}
	anna.do("PUT", v3+"/user/"+anna.id+"/account_data/m.ignored_user_list", object{"ignored_users": object{bert.id: object{}}}).ok()
	if r := anna.client("").poll(0); r.room("invite", invited).Exists() || slices.Contains(ids(r.room("join", room).Get("timeline.events")), hidden) {
		t.Errorf("initial: %s", r.raw)
	}
}

// Client-server API, module "Typing Notifications".
func testSyncTyping(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	c := bert.client("")
	c.poll(0)
	typing := func(r *reply) (bool, []string) {
		e := find(r.room("join", room).Get("ephemeral.events"), "m.typing", "")
		var users []string
		for _, u := range e.Get("content.user_ids").Array() {
			users = append(users, u.Str)
		}
		return e.Exists(), users
	}
	anna.do("PUT", in(room, "typing", anna.id), object{"typing": true, "timeout": 60000}).ok()
	c.until("typing", func(r *reply) bool { _, users := typing(r); return slices.Equal(users, []string{anna.id}) })
	// From worker to worker the client is not woken again and again by what it knows.
	begin, answers := time.Now(), 0
	for time.Since(begin) < time.Second {
		c.poll(500 * time.Millisecond)
		answers++
	}
	if answers > 4 {
		t.Errorf("%d answers in a second in which nothing happened", answers)
	}
	anna.do("PUT", in(room, "typing", anna.id), object{"typing": false}).ok()
	c.until("end of typing", func(r *reply) bool { ok, users := typing(r); return ok && len(users) == 0 })
	// Who is out of the room types no more.
	anna.do("PUT", in(room, "typing", anna.id), object{"typing": true, "timeout": 120000}).ok()
	c.until("typing", func(r *reply) bool { _, users := typing(r); return slices.Equal(users, []string{anna.id}) })
	anna.do("POST", in(room, "leave"), object{}).ok()
	start := time.Now()
	c.until("end of typing", func(r *reply) bool { ok, users := typing(r); return ok && len(users) == 0 })
	if time.Since(start) > 100*time.Second {
		t.Error("the end of the membership did not end the typing")
	}
}

// Client-server API, module "Presence": of those who share a room.
func testSyncPresence(t *testing.T, w *world) {
	anna, bert, carl := w.register(t, "anna"), w.register(t, "bert"), w.register(t, "carl")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	b, c := bert.client(""), carl.client("")
	b.poll(0)
	c.poll(0)
	// Busy lasts, whether its device polls or not.
	anna.do("PUT", v3+"/presence/"+anna.id+"/status", object{"presence": "busy", "status_msg": "at sea"}).ok()
	of := func(r *reply) string {
		for _, e := range r.get("presence.events").Array() {
			if e.Get("sender").Str == anna.id {
				return e.Get("content.status_msg").Str
			}
		}
		return ""
	}
	b.until("presence", func(r *reply) bool { return of(r) == "at sea" })
	if r := c.poll(0); of(r) != "" {
		t.Errorf("told to somebody who shares no room: %s", r.raw)
	}
	if of(bert.client("").poll(0)) == "" {
		t.Error("an initial sync does not tell it")
	}
	if of(bert.client(`{"presence":{"types":[]}}`).poll(0)) != "" {
		t.Error("told against the filter")
	}
	// Who joins a room hears of those who are there, and they of the newcomer, though nobody changes. A token of the same
	// worker is exact: nothing is told twice.
	carl.w, bert.w = &world{urls: w.urls[:1], name: w.name}, &world{urls: w.urls[1:], name: w.name}
	c.poll(0)
	carl.join(room)
	c.until("presence of who was there", func(r *reply) bool { return of(r) == "at sea" })
	dora := w.register(t, "dora")
	dora.do("PUT", v3+"/presence/"+dora.id+"/status", object{"presence": "busy"}).ok()
	b.poll(0)
	dora.join(room)
	b.until("presence of who has come", func(r *reply) bool {
		return r.get(`presence.events.#(sender=="`+dora.id+`").content.presence`).Str == "busy"
	})
}

// Client-server API, module "Presence", and set_presence of /sync: two devices of which one is idle make nobody see a
// change, and wake nobody; each goes from one worker to the other with each poll.
func testSyncPresenceOfDevices(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	bert.join(anna.create(object{"preset": "public_chat"}))
	login := anna.do("POST", v3+"/login", object{"type": "m.login.password", "password": "a long secret",
		"identifier": object{"type": "m.id.user", "user": anna.id}}).ok()
	other := *anna
	other.token = login.str("access_token")
	phone, desk, b := anna.client(""), other.client(""), bert.client("")
	phone.extra, desk.extra, b.extra = "&set_presence=online", "&set_presence=unavailable", "&set_presence=offline"
	phone.poll(0)
	desk.poll(0)
	b.until("online", func(r *reply) bool { return r.get(`presence.events.0.content.presence`).Str == "online" })
	for range 10 {
		phone.poll(0)
		desk.poll(0)
		// What was told lately is told again at another worker.
		for _, e := range b.poll(0).get("presence.events").Array() {
			if e.Get("content.presence").Str != "online" || !e.Get("content.currently_active").Bool() {
				t.Errorf("told %s", e.Raw)
			}
		}
	}
	r := bert.do("GET", v3+"/presence/"+anna.id+"/status", nil).ok()
	if r.get("presence").Str != "online" || !r.get("currently_active").Bool() {
		t.Errorf("presence: %s", r.raw)
	}
}
