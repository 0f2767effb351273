package app_test

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// Sliding sync (MSC4186) of a cluster of two processes over two shards: each connection goes from one to the other with each request.
func TestSliding(t *testing.T) {
	w := newWorld(t)
	for name, test := range map[string]func(*testing.T, *world){
		"first": testSlidingFirst, "live": testSlidingLive, "window": testSlidingWindow, "retry": testSlidingRetry,
		"positions": testSlidingPositions, "bad input": testSlidingBadInput, "required state": testSlidingState,
		"subscription": testSlidingSubscription, "invites": testSlidingInvites, "leaves": testSlidingLeaves,
		"filters": testSlidingFilters, "to-device": testSlidingToDevice, "e2ee": testSlidingE2EE,
		"account data": testSlidingAccountData, "receipts": testSlidingReceipts, "typing": testSlidingTyping,
		"unread": testSlidingUnread, "stable": testSlidingStable, "range": testSlidingRange,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, w)
		})
	}
}

// MSC4186, "RoomResult": a room that the client does not know is told as a whole, with what a list shows of it.
func testSlidingFirst(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	named := anna.create(object{"preset": "public_chat", "name": "Hall"})
	plain := anna.create(object{"preset": "public_chat"})
	bert.join(named)
	bert.join(plain)
	said := anna.say(plain, "hello")
	anna.everywhere(plain, said)
	s := bert.slide(9, 1, list{"m.room.create", ""})
	r := s.poll(0)
	if r.get("lists.all.count").Int() != 2 || r.str("pos") == "" {
		t.Fatalf("lists and pos: %s", r.raw)
	}
	v := slideRoom(r, named)
	if v.Get("name").Str != "Hall" || !v.Get("initial").Bool() || v.Get("heroes").Exists() || v.Get("joined_count").Int() != 2 ||
		v.Get("invited_count").Raw != "0" || v.Get("bump_stamp").Int() == 0 || !v.Get("limited").Bool() || len(v.Get("timeline").Array()) != 1 ||
		v.Get("prev_batch").Str == "" || v.Get("num_live").Raw != "0" || v.Get("notification_count").Raw == "" {
		t.Errorf("a room with a name: %s", v.Raw)
	}
	if state := v.Get("required_state"); len(state.Array()) != 1 || !find(state, "m.room.create", "").Exists() {
		t.Errorf("required state: %s", state.Raw)
	}
	v = slideRoom(r, plain)
	if v.Get("name").Exists() || v.Get("heroes.0.user_id").Str != anna.id || ids(v.Get("timeline"))[0] != said {
		t.Errorf("a room without a name: %s", v.Raw)
	}
	if r := s.poll(0); len(r.get("rooms").Map()) != 0 {
		t.Errorf("nothing has happened: %s", r.raw)
	}
}

// MSC4186, "Room results": each event once and in order, and the names that change.
func testSlidingLive(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat", "name": "Old"})
	bert.join(room)
	s := bert.slide(19, 50)
	s.poll(0)
	s.events = map[string][]string{}
	var sent []string
	for i := range 20 {
		sent = append(sent, anna.say(room, fmt.Sprint(i)))
		if i%3 == 0 {
			s.poll(0)
		}
	}
	r := s.sees(room, sent[19])
	if !slices.Equal(s.events[room], sent) {
		t.Errorf("told %v, sent %v", s.events[room], sent)
	}
	if v := slideRoom(r, room); v.Get("initial").Bool() || v.Get("num_live").Int() != int64(len(v.Get("timeline").Array())) || v.Get("name").Exists() {
		t.Errorf("a room with news: %s", v.Raw)
	}
	name := anna.set(room, "m.room.name", "", object{"name": "New"})
	if v := slideRoom(s.sees(room, name), room); v.Get("name").Str != "New" {
		t.Errorf("another name: %s", v.Raw)
	}
	answers := make(chan *reply)
	go func() { answers <- s.ask(s.pos, time.Minute) }()
	last := anna.say(room, "wake up")
	if r := <-answers; r.status != 200 || !slices.Contains(ids(slideRoom(r, room).Get("timeline")), last) {
		t.Errorf("a long poll: %d %s", r.status, r.raw)
	}
}

// MSC4186, "Lists": rooms by activity; one that comes into the window is told as a whole, one that comes back with what was missed.
func testSlidingWindow(t *testing.T, w *world) {
	anna := w.register(t, "anna")
	var rooms []string
	for i := range 4 {
		rooms = append(rooms, anna.create(object{"name": fmt.Sprint(i)}))
	}
	// One after the other, each a millisecond later at the least: the stamps are milliseconds.
	for _, room := range rooms {
		anna.say(room, "first")
		time.Sleep(2 * time.Millisecond)
	}
	s := anna.slide(1, 2)
	r := s.until("two rooms", func(r *reply) bool { return len(s.events) >= 2 })
	if r.get("lists.all.count").Int() != 4 || !slideRoom(r, rooms[3]).Exists() || !slideRoom(r, rooms[2]).Exists() || len(r.get("rooms").Map()) != 2 {
		t.Fatalf("the two newest rooms: %s", r.raw)
	}
	bump := anna.say(rooms[0], "up")
	if v := slideRoom(s.sees(rooms[0], bump), rooms[0]); !v.Get("initial").Bool() || v.Get("num_live").Int() != 1 || len(v.Get("timeline").Array()) != 2 {
		t.Errorf("a room that comes into the window: %s", v.Raw)
	}
	// rooms[2] is out of the window; what happens there brings it back.
	back := anna.say(rooms[2], "back")
	if v := slideRoom(s.sees(rooms[2], back), rooms[2]); v.Get("initial").Bool() || len(v.Get("timeline").Array()) != 1 {
		t.Errorf("a room that comes back: %s", v.Raw)
	}
	s.list()["ranges"] = list{list{0, 99}}
	r = s.until("the fourth room", func(r *reply) bool { return slideRoom(r, rooms[1]).Exists() })
	if v := slideRoom(r, rooms[1]); !v.Get("initial").Bool() || v.Get("num_live").Int() != 0 {
		t.Errorf("a window that grows: %s", r.raw)
	}
}

// MSC4186, "Connections": a position that is used again gives an equivalent answer, whatever worker it comes to.
func testSlidingRetry(t *testing.T, w *world) {
	anna := w.register(t, "anna")
	room := anna.create(object{"name": "A"})
	s := anna.slide(0, 5)
	s.poll(0)
	old := s.pos
	other := anna.create(object{"name": "B"}) // comes into the window, which is written
	s.until("the other room", func(r *reply) bool { return slideRoom(r, other).Get("initial").Bool() })
	for range 3 {
		if r := s.ask(old, 0).ok(); !slideRoom(r, other).Get("initial").Bool() || slideRoom(r, room).Exists() {
			t.Fatalf("the same position again: %s", r.raw)
		}
	}
	s.pos = s.ask(old, 0).ok().str("pos")
	if r := s.ask(s.pos, 0).ok(); slideRoom(r, other).Exists() {
		t.Errorf("the position of the last answer: %s", r.raw)
	}
	third := anna.create(object{"name": "C"})
	s.until("the third room", func(r *reply) bool { return slideRoom(r, third).Exists() })
	s.ask(old, 0).fails(400, "M_UNKNOWN_POS") // two positions and no more
	s.ask(old, 0).fails(400, "M_UNKNOWN_POS")
}

// MSC4186, "Connections": positions of others, of the future, of another connection and of none.
func testSlidingPositions(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	s, b := anna.slide(9, 1), bert.slide(9, 1)
	s.poll(0)
	b.poll(0)
	for _, pos := range []string{b.pos, "nonsense", s.pos + "x", s.pos[:len(s.pos)-1], "c0.0."} {
		s.ask(pos, 0).fails(400, "M_UNKNOWN_POS")
	}
	other := anna.slider(object{"conn_id": "other"})
	other.ask(s.pos, 0).fails(400, "M_UNKNOWN_POS")
	s.pos = ""
	s.poll(0) // begins anew
	s.poll(0)
}

// Bad input: each has its error.
func testSlidingBadInput(t *testing.T, w *world) {
	anna := w.register(t, "anna")
	many := object{}
	for i := range 101 {
		many[fmt.Sprint("l", i)] = object{"ranges": list{list{0, 1}}, "timeline_limit": 1, "required_state": list{}}
	}
	long := make(list, 10_000)
	for i := range long {
		long[i] = list{fmt.Sprint("t", i), ""}
	}
	with := func(l object) object { return object{"lists": object{"all": l}} }
	for name, body := range map[string]object{
		"lists": {"lists": many}, "subscriptions": {"room_subscriptions": many},
		"state": with(object{"timeline_limit": 1, "required_state": long}),
		"range": with(object{"ranges": list{list{5, 1}}}), "negative range": with(object{"ranges": list{list{-5, 1}}}),
		"limit": with(object{"timeline_limit": -1}), "lazy": with(object{"required_state": list{list{"m.room.name", "$LAZY"}}}),
		"to-device": {"extensions": object{"to_device": object{"enabled": true, "since": "x"}}},
	} {
		if r := anna.slider(body).ask("", 0); r.status != 400 || r.str("errcode") != "M_INVALID_PARAM" {
			t.Errorf("%s: %d %s", name, r.status, r.raw)
		}
	}
	anna.do("POST", slidingPath, `{"lists":[]}`).fails(400, "M_BAD_JSON")
	anna.do("POST", slidingPath, `{"lists"`).fails(400, "M_NOT_JSON")
	anna.do("POST", slidingPath+"?timeout=x", object{}).fails(400, "M_INVALID_PARAM")
	anna.do("POST", slidingPath+"?set_presence=x", object{}).fails(400, "M_INVALID_PARAM")
	if r := anna.slide(1_000_000, 1_000_000).ask("", 0).ok(); r.get("lists.all.count").Raw != "0" {
		t.Errorf("a range beyond the end: %s", r.raw)
	}
}

// MSC3575, required_state, and MSC4186, "Lazy loaded memberships".
func testSlidingState(t *testing.T, w *world) {
	anna, bert, carl := w.register(t, "anna"), w.register(t, "bert"), w.register(t, "carl")
	room := anna.create(object{"preset": "public_chat", "name": "A", "topic": "B"})
	bert.join(room)
	carl.join(room)
	anna.everywhere(room, anna.say(room, "x"))
	members := func(s *slider) []string {
		var out []string
		v := slideRoom(s.poll(0), room)
		for _, e := range v.Get("required_state").Array() {
			if e.Get("type").Str == "m.room.member" {
				out = append(out, e.Get("state_key").Str)
			}
		}
		slices.Sort(out)
		return out
	}
	sorted := func(users ...string) []string { slices.Sort(users); return users }
	if got := members(bert.slide(9, 1, list{"*", "*"})); !slices.Equal(got, sorted(anna.id, bert.id, carl.id)) {
		t.Errorf("everything: %v", got)
	}
	if got := members(bert.slide(9, 1, list{"*", "*"}, list{"m.room.member", "$LAZY"})); !slices.Equal(got, []string{anna.id}) {
		t.Errorf("everything, with lazy members: %v", got)
	}
	lazy := bert.slide(9, 1, list{"m.room.member", "$LAZY"}, list{"m.room.member", "$ME"}, list{"m.room.topic", ""})
	if got := members(lazy); !slices.Equal(got, sorted(anna.id, bert.id)) {
		t.Errorf("lazy members and the own one: %v", got)
	}
	said := carl.say(room, "hello")
	v := slideRoom(lazy.sees(room, said), room)
	if !find(v.Get("required_state"), "m.room.member", carl.id).Exists() {
		t.Errorf("the sender's member event: %s", v.Raw)
	}
	topic := anna.set(room, "m.room.topic", "", object{"topic": "C"})
	if v := slideRoom(lazy.sees(room, topic), room); find(v.Get("required_state"), "m.room.topic", "").Get("content.topic").Str != "C" {
		t.Errorf("state that has changed: %s", v.Raw)
	}
	// More state is asked for: it is told at once.
	lazy.list()["required_state"] = append(lazy.list()["required_state"].(list), list{"m.room.create", ""})
	if v := slideRoom(lazy.poll(0), room); !find(v.Get("required_state"), "m.room.create", "").Exists() || len(v.Get("timeline").Array()) > 0 || v.Get("initial").Bool() {
		t.Errorf("more state: %s", v.Raw)
	}
	if v := slideRoom(lazy.poll(0), room); v.Exists() {
		t.Errorf("more state, a second time: %s", v.Raw)
	}
}

// MSC4186, "Subscriptions" and "Changes to timeline_limit".
func testSlidingSubscription(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat"})
	secret := anna.create(object{})
	bert.join(room)
	var said []string
	for i := range 5 {
		said = append(said, anna.say(room, fmt.Sprint(i)))
	}
	anna.everywhere(room, said[4])
	s := bert.slide(9, 1)
	if got := ids(slideRoom(s.poll(0), room).Get("timeline")); !slices.Equal(got, said[4:]) {
		t.Fatalf("the newest event: %v", got)
	}
	s.body["room_subscriptions"] = object{
		room: object{"timeline_limit": 4, "required_state": list{}}, secret: object{"timeline_limit": 4, "required_state": list{}},
		"!none:hanse.test": object{"timeline_limit": 4, "required_state": list{}},
	}
	r := s.poll(time.Minute)
	v := slideRoom(r, room)
	if got := ids(v.Get("timeline")); !slices.Equal(got, said[1:]) || !v.Get("unstable_expanded_timeline").Bool() || v.Get("num_live").Int() != 0 {
		t.Errorf("more of the timeline: %s", v.Raw)
	}
	if slideRoom(r, secret).Exists() || len(r.get("rooms").Map()) != 1 {
		t.Errorf("a room that is not to be seen: %s", r.raw)
	}
	delete(s.body, "room_subscriptions")
	s.poll(0)
	next := anna.say(room, "next")
	if v := slideRoom(s.sees(room, next), room); len(v.Get("timeline").Array()) != 1 || v.Get("unstable_expanded_timeline").Bool() {
		t.Errorf("less of it again: %s", v.Raw)
	}
}

// MSC4186, "Invite/knock/rejections".
func testSlidingInvites(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	s := bert.slide(9, 1)
	s.poll(0)
	room := anna.create(object{"name": "Party", "invite": list{bert.id}})
	v := s.tells(room)
	if !find(v.Get("invite_state"), "m.room.member", bert.id).Exists() || find(v.Get("invite_state"), "m.room.name", "").Get("content.name").Str != "Party" ||
		v.Get("timeline").Exists() || v.Get("joined_count").Exists() || v.Get("bump_stamp").Int() == 0 {
		t.Errorf("an invite: %s", v.Raw)
	}
	bert.join(room)
	if v := s.tells(room); !v.Get("initial").Bool() || len(v.Get("timeline").Array()) == 0 || v.Get("joined_count").Int() != 2 {
		t.Errorf("a room that was joined: %s", v.Raw)
	}
	declined := anna.create(object{"invite": list{bert.id}})
	s.tells(declined)
	bert.do("POST", in(declined, "leave"), object{}).ok()
	if v := s.tells(declined); find(v.Get("required_state"), "m.room.member", bert.id).Get("content.membership").Str != "leave" {
		t.Errorf("an invite that was declined: %s", v.Raw)
	}
	rescinded := anna.create(object{"invite": list{bert.id}})
	s.tells(rescinded)
	anna.do("POST", in(rescinded, "kick"), object{"user_id": bert.id}).ok()
	if v := s.tells(rescinded); find(v.Get("required_state"), "m.room.member", bert.id).Get("content.membership").Str != "leave" {
		t.Errorf("an invite that was taken back: %s", v.Raw)
	}
	if r := s.poll(0); r.get("lists.all.count").Int() != 1 || len(r.get("rooms").Map()) != 0 {
		t.Errorf("what is left: %s", r.raw)
	}
}

// MSC4186, "Lists": rooms that the user has left are told once if the client knows them; those that it had to leave are told.
func testSlidingLeaves(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	left, kicked, banned := anna.create(object{"preset": "public_chat"}), anna.create(object{"preset": "public_chat"}), anna.create(object{"preset": "public_chat"})
	for _, room := range []string{left, kicked, banned} {
		bert.join(room)
	}
	s := bert.slide(9, 5)
	s.until("three rooms", func(r *reply) bool { return len(s.events) == 3 })
	bert.do("POST", in(left, "leave"), object{}).ok()
	if v := s.tells(left); find(v.Get("required_state"), "m.room.member", bert.id).Get("content.membership").Str != "leave" || v.Get("initial").Bool() {
		t.Errorf("a room that was left: %s", v.Raw)
	}
	secret := anna.say(left, "after")
	anna.everywhere(left, secret)
	anna.do("POST", in(kicked, "kick"), object{"user_id": bert.id}).ok()
	if v := s.tells(kicked); find(v.Get("required_state"), "m.room.member", bert.id).Get("content.membership").Str != "leave" {
		t.Errorf("a kick: %s", v.Raw)
	}
	anna.do("POST", in(banned, "ban"), object{"user_id": bert.id}).ok()
	if v := s.tells(banned); find(v.Get("required_state"), "m.room.member", bert.id).Get("content.membership").Str != "ban" {
		t.Errorf("a ban: %s", v.Raw)
	}
	r := s.poll(0)
	if slices.Contains(s.events[left], secret) || r.get("lists.all.count").Int() != 2 {
		t.Errorf("the rooms that are left: %s", r.raw)
	}
	anew := bert.slide(9, 5)
	anew.body["conn_id"] = "anew"
	r = anew.poll(0)
	if slideRoom(r, left).Exists() || !slideRoom(r, kicked).Exists() || !slideRoom(r, banned).Exists() || slices.Contains(anew.events[kicked], secret) {
		t.Errorf("a new connection: %s", r.raw)
	}
	bert.join(left)
	if v := s.tells(left); !v.Get("initial").Bool() || !slices.Contains(s.events[left], secret) {
		t.Errorf("a room that was joined again: %s", v.Raw)
	}
}
