package app_test

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// MSC4186, "SlidingRoomFilter".
func testSlidingFilters(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	direct := anna.create(object{"name": "direct"})
	secret := anna.create(object{"name": "secret", "initial_state": list{object{"type": "m.room.encryption", "state_key": "", "content": object{"algorithm": "m.megolm.v1.aes-sha2"}}}})
	space := anna.create(object{"name": "space", "creation_content": object{"type": "m.space"}})
	tagged := anna.create(object{"name": "tagged"})
	invited := bert.create(object{"name": "invited", "invite": list{anna.id}})
	anna.set(space, "m.space.child", tagged, object{"via": list{"hanse.test"}})
	anna.set(space, "m.space.child", direct, object{}) // was taken out
	anna.do("PUT", v3+"/user/"+anna.id+"/account_data/m.direct", object{bert.id: list{direct}}).ok()
	anna.do("PUT", v3+"/user/"+anna.id+"/rooms/"+tagged+"/tags/m.favourite", object{"order": 0.5}).ok()
	s := anna.slide(99, 1)
	for _, test := range []struct {
		filter object
		want   list
	}{
		{object{"is_dm": true}, list{direct}}, {object{"is_dm": false}, list{secret, space, tagged, invited}},
		{object{"is_encrypted": true}, list{secret}}, {object{"is_invite": true}, list{invited}},
		{object{"is_invite": false}, list{direct, secret, space, tagged}},
		{object{"room_types": list{"m.space"}}, list{space}}, {object{"room_types": list{nil}}, list{direct, secret, tagged, invited}},
		{object{"not_room_types": list{"m.space"}}, list{direct, secret, tagged, invited}},
		{object{"spaces": list{space}}, list{tagged}}, {object{"spaces": list{direct, "!none:x"}}, list{}},
		{object{"tags": list{"m.favourite"}}, list{tagged}}, {object{"not_tags": list{"m.favourite"}, "is_invite": false}, list{direct, secret, space}},
	} {
		s.list()["filters"], s.pos = test.filter, ""
		r := s.until(fmt.Sprint(test.filter), func(r *reply) bool { s.pos = ""; return len(r.get("rooms").Map()) == len(test.want) })
		for _, room := range test.want {
			if !slideRoom(r, room.(string)).Exists() {
				t.Errorf("%v: %s is missing: %s", test.filter, room, r.raw)
			}
		}
	}
	if v := slideRoom(anna.slide(99, 1).poll(0), direct); !v.Get("is_dm").Bool() {
		t.Errorf("a direct room: %s", v.Raw)
	}
	// A room that begins to pass is told.
	s.list()["filters"], s.pos = object{"tags": list{"m.favourite"}}, ""
	s.poll(0)
	anna.do("PUT", v3+"/user/"+anna.id+"/rooms/"+direct+"/tags/m.favourite", object{"order": 0.6}).ok()
	s.tells(direct)
}

func (s *slider) extension(name string, value any) {
	if s.body["extensions"] == nil {
		s.body["extensions"] = object{}
	}
	s.body["extensions"].(object)[name] = value
}

// MSC3885: messages are there until the token that came with them comes back.
func testSlidingToDevice(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	s := bert.slider(object{})
	ext := object{"enabled": true, "limit": 2}
	s.extension("to_device", ext)
	first := s.poll(0).str("extensions.to_device.next_batch")
	ext["since"] = first
	for i := range 3 {
		toDevice(t, anna, bert, bert.device(), fmt.Sprint(i))
	}
	arrived := func(r *reply) []string { return r.texts("extensions.to_device.events.#.content.body") }
	r := s.until("messages", func(r *reply) bool { return len(arrived(r)) == 2 })
	if got := arrived(r); !slices.Equal(got, []string{"0", "1"}) {
		t.Errorf("the first two messages: %v", got)
	}
	if got := arrived(s.poll(0)); !slices.Equal(got, []string{"0", "1"}) {
		t.Errorf("a token that did not come back: %v", got)
	}
	ext["since"] = r.str("extensions.to_device.next_batch")
	if got := arrived(s.poll(time.Minute)); !slices.Equal(got, []string{"2"}) {
		t.Errorf("the third message: %v", got)
	}
	ext["since"] = first
	if got := arrived(s.poll(0)); !slices.Equal(got, []string{"2"}) {
		t.Errorf("messages that were acknowledged: %v", got)
	}
	other := anna.slider(object{})
	other.extension("to_device", object{"enabled": true, "since": first})
	other.ask("", 0).fails(400, "M_INVALID_PARAM")
}

// MSC3884: whose devices changed, and the counts of keys in every answer.
func testSlidingE2EE(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	s := bert.slider(object{"conn_id": "encryption"})
	s.extension("e2ee", object{"enabled": true})
	r := s.poll(0)
	if r.get("extensions.e2ee.device_one_time_keys_count.signed_curve25519").Raw != "0" || r.get("extensions.e2ee.device_unused_fallback_key_types").Raw != "[]" {
		t.Errorf("counts: %s", r.raw)
	}
	device := anna.device()
	anna.do("POST", v3+"/keys/upload", deviceKeys(anna, device)).ok()
	s.until("changed devices", func(r *reply) bool {
		return slices.Contains(r.texts("extensions.e2ee.device_lists.changed"), anna.id)
	})
	anna.do("POST", in(room, "leave"), object{}).ok()
	s.until("a user out of sight", func(r *reply) bool { return slices.Contains(r.texts("extensions.e2ee.device_lists.left"), anna.id) })
	carl := w.register(t, "carl")
	carl.join(room)
	r = s.until("a user who came", func(r *reply) bool { return slices.Contains(r.texts("extensions.e2ee.device_lists.changed"), carl.id) })
	if r.get("extensions.e2ee.device_one_time_keys_count.signed_curve25519").Raw != "0" || len(r.get("rooms").Map()) != 0 {
		t.Errorf("counts in every answer, and no rooms: %s", r.raw)
	}
}

// MSC3959: global data at first, then what changes; of rooms with the room.
func testSlidingAccountData(t *testing.T, w *world) {
	anna := w.register(t, "anna")
	room := anna.create(object{})
	anna.do("PUT", v3+"/user/"+anna.id+"/account_data/x.global", object{"n": 1}).ok()
	anna.do("PUT", v3+"/user/"+anna.id+"/rooms/"+room+"/account_data/x.room", object{"n": 1}).ok()
	s := anna.slide(9, 1)
	s.extension("account_data", object{"enabled": true})
	r := s.poll(0)
	global, of := "extensions.account_data.global.#.type", "extensions.account_data.rooms."+escape(room)
	if types := r.texts(global); !slices.Contains(types, "x.global") || !slices.Contains(types, "m.push_rules") {
		t.Errorf("global: %s", r.raw)
	}
	if r.get(of+".0.type").Str != "x.room" {
		t.Errorf("of the room: %s", r.raw)
	}
	if r := s.poll(0); len(r.texts(global)) != 0 || r.get(of).Exists() {
		t.Errorf("nothing has changed: %s", r.raw)
	}
	anna.do("PUT", v3+"/user/"+anna.id+"/rooms/"+room+"/account_data/x.room", object{"n": 2}).ok()
	r = s.until("room data", func(r *reply) bool { return r.get(of+".0.content.n").Int() == 2 })
	if len(r.texts(global)) != 0 || len(r.get("rooms").Map()) != 0 {
		t.Errorf("only the room's data have changed: %s", r.raw)
	}
}

// MSC3960: at first the receipts for events that are told, and the own ones; then new ones.
func testSlidingReceipts(t *testing.T, w *world) {
	anna, bert, carl := w.register(t, "anna"), w.register(t, "bert"), w.register(t, "carl")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	carl.join(room)
	old, last := anna.say(room, "old"), anna.say(room, "last")
	read := func(p *person, event string) { p.do("POST", in(room, "receipt", "m.read", event), object{}).ok() }
	read(carl, old)
	read(bert, old)
	s := bert.slide(9, 1)
	s.extension("receipts", object{"enabled": true})
	content := "extensions.receipts.rooms." + escape(room) + ".content"
	has := func(r *reply, event string, p *person) bool {
		return r.get(content + "." + escape(event) + ".m\\.read." + escape(p.id)).Exists()
	}
	r := s.until("the own receipt", func(r *reply) bool {
		if has(r, old, bert) {
			return true
		}
		s.pos = ""
		return false
	})
	if has(r, old, carl) {
		t.Errorf("somebody's receipt for an event that is not told: %s", r.raw)
	}
	read(carl, last)
	if r := s.until("a new receipt", func(r *reply) bool { return has(r, last, carl) }); len(slideRoom(r, room).Get("timeline").Array()) != 0 {
		t.Errorf("only a receipt: %s", r.raw)
	}
	if r := s.poll(0); r.get(content).Exists() {
		t.Errorf("the same receipt twice: %s", r.raw)
	}
	if r := bert.slider(object{"conn_id": "new", "lists": s.body["lists"], "extensions": s.body["extensions"]}).poll(0); !has(r, last, carl) {
		t.Errorf("a receipt for the event that is told: %s", r.raw)
	}
}

// MSC3961.
func testSlidingTyping(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	s := bert.slide(9, 1)
	s.extension("typing", object{"enabled": true})
	s.poll(0)
	types := "extensions.typing.rooms." + escape(room) + ".content.user_ids"
	anna.do("PUT", in(room, "typing", anna.id), object{"typing": true, "timeout": 60_000}).ok()
	s.until("somebody who types", func(r *reply) bool { return slices.Equal(r.texts(types), []string{anna.id}) })
	anna.do("PUT", in(room, "typing", anna.id), object{"typing": false}).ok()
	s.until("nobody who types", func(r *reply) bool { return r.get(types).Raw == "[]" })
}

// The unstable encoding has counts, which clients read.
func testSlidingUnread(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	s := bert.slide(9, 1)
	s.poll(0)
	counted := func(r *reply, notifications, highlights int64) bool {
		v := slideRoom(r, room)
		return v.Get("notification_count").Exists() && v.Get("notification_count").Int() == notifications && v.Get("highlight_count").Int() == highlights
	}
	anna.say(room, "one")
	s.until("one", func(r *reply) bool { return counted(r, 1, 0) })
	last := anna.send(room, "m.room.message", mention(bert.id))
	s.until("two", func(r *reply) bool { return counted(r, 2, 1) })
	// Another device, whose polls keep what the counts are now, does not keep this one from hearing of it.
	other := bert.client("")
	other.poll(0)
	bert.do("POST", in(room, "receipt", "m.read", last), object{}).ok()
	other.until("read", func(r *reply) bool {
		u := r.room("join", room).Get("unread_notifications.notification_count")
		return u.Exists() && u.Int() == 0
	})
	s.until("none", func(r *reply) bool { return counted(r, 0, 0) })
}

// MSC4186, "Request Body" and "Response Body": the merged form.
func testSlidingStable(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat", "name": "A"})
	invite := anna.create(object{"invite": list{bert.id}})
	bert.join(room)
	s := bert.slider(object{"conn_id": "main", "lists": object{"all": object{
		"timeline_limit": 2, "required_state": object{"include": list{object{}}, "exclude": list{object{"type": "m.room.create"}}, "lazy_members": true},
	}}})
	s.stable = true
	r := s.until("an invite", func(r *reply) bool {
		if slideRoom(r, invite).Exists() {
			return true
		}
		s.pos = ""
		return false
	})
	v := slideRoom(r, room)
	state := v.Get("required_state")
	if v.Get("membership").Str != "join" || v.Get("lists.0").Str != "all" || v.Get("notification_count").Exists() || find(state, "m.room.create", "").Exists() ||
		!find(state, "m.room.power_levels", "").Exists() {
		t.Errorf("a room: %s", v.Raw)
	}
	if v := slideRoom(r, invite); len(v.Get("stripped_state").Array()) == 0 || v.Get("membership").Str != "invite" {
		t.Errorf("an invite: %s", v.Raw)
	}
	anna.set(room, "m.room.name", "", object{})
	if v := s.tells(room); v.Get("name").Raw != "null" {
		t.Errorf("a name that is gone: %s", v.Raw)
	}
	s.list()["timeline_limit"] = 5
	if v := slideRoom(s.poll(time.Minute), room); !v.Get("expanded_timeline").Bool() {
		t.Errorf("more of the timeline: %s", v.Raw)
	}
	s.body["set_presence"] = "x"
	s.ask(s.pos, 0).fails(400, "M_INVALID_PARAM")
}

// MSC4186, "Lists": a client that asks for another range is answered at once, though there is nothing more.
func testSlidingRange(t *testing.T, w *world) {
	anna := w.register(t, "anna")
	anna.create(object{})
	s := anna.slide(19, 1)
	s.until("the room", func(r *reply) bool { return len(s.events) == 1 })
	for _, last := range []int{99, 199, 5} {
		s.list()["ranges"] = list{list{0, last}}
		done := make(chan *reply, 1)
		go func() { done <- s.ask(s.pos, 5*time.Minute) }()
		select {
		case r := <-done:
			s.pos = r.ok().str("pos")
		case <-time.After(2 * time.Minute):
			t.Fatal("a request with another range waits")
		}
	}
}
