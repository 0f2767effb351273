package app_test

import (
	"fmt"
	"net/url"
	"slices"
	"testing"
)

// page is an answer of GET /messages.
func (p *person) page(room, query string) *reply {
	p.t.Helper()
	return p.do("GET", in(room, "messages")+query, nil).ok()
}

// pages are the events of a room from a token on, "" for its end or beginning, read page by page. What is said of the pages besides
// may come after the direction.
func (p *person) pages(room, dir, from string) (events []string) {
	p.t.Helper()
	for range 100 {
		query := "?dir=" + dir
		if from != "" {
			query += "&from=" + from
		}
		a := p.page(room, query)
		events = append(events, a.texts("chunk.#.event_id")...)
		if from = a.str("end"); from == "" {
			return events
		}
	}
	p.t.Fatalf("pages without an end: %v", events)
	return nil
}

// Client-server API, "Getting events for a room": every event once, in both directions, whatever the page's size.
func testMessages(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	var sent []string
	for i := range 25 {
		sent = append(sent, []*person{anna, bert}[i%2].say(room, fmt.Sprint(i)))
	}
	for _, limit := range []int{1, 7, 100} {
		for _, dir := range []string{"b", "f"} {
			got := bert.pages(room, fmt.Sprintf("%s&limit=%d&filter=%s", dir, limit, url.QueryEscape(`{"types":["m.room.message"]}`)), "")
			if dir == "b" {
				slices.Reverse(got)
			}
			if !slices.Equal(got, sent) {
				t.Errorf("dir=%s limit=%d: %d events: %v", dir, limit, len(got), got)
			}
		}
	}
	// Between two tokens.
	first := bert.page(room, "?dir=b&limit=5")
	second := bert.page(room, "?dir=b&limit=5&from="+first.str("end"))
	between := bert.page(room, "?dir=f&limit=50&from="+second.str("end")+"&to="+first.str("end")).texts("chunk.#.event_id")
	slices.Reverse(between)
	if want := second.texts("chunk.#.event_id"); !slices.Equal(between, want) {
		t.Errorf("between tokens: %v, want %v", between, want)
	}
	if first.str("start") == "" || second.str("start") != first.str("end") {
		t.Errorf("start: %s", second.raw)
	}
	// A token of /sync.
	bert.everywhere(room, sent[len(sent)-1])
	since := bert.do("GET", v3+"/sync", nil).ok().str("next_batch")
	last := bert.say(room, "after the sync")
	if got := bert.page(room, "?dir=f&from="+since).texts("chunk.#.event_id"); !slices.Equal(got, []string{last}) {
		t.Errorf("from a sync token: %v", got)
	}
	// Filters.
	for filter, want := range map[string]int{
		`{"senders":["` + bert.id + `"],"types":["m.room.*"]}`: 14, `{"types":[]}`: 0, `{"not_types":["m.room.*"]}`: 0, `{"limit":3}`: 3,
		`{"not_rooms":["` + room + `"]}`: 0, `{"types":["m.room.message"],"contains_url":true}`: 0,
	} {
		query := "?dir=b&limit=100&filter="
		if filter == `{"limit":3}` {
			query = "?dir=b&filter="
		}
		if got := len(bert.page(room, query+url.QueryEscape(filter)).texts("chunk.#.type")); got != want {
			t.Errorf("filter %s: %d events, want %d", filter, got, want)
		}
	}
	lazy := bert.page(room, "?dir=b&limit=5&filter="+url.QueryEscape(`{"lazy_load_members":true}`))
	members := lazy.texts("state.#.state_key")
	slices.Sort(members)
	if !slices.Equal(members, []string{anna.id, bert.id}) {
		t.Errorf("lazy members: %v", members)
	}
	for query, code := range map[string]string{
		"": "M_MISSING_PARAM", "?dir=x": "M_INVALID_PARAM", "?dir=b&from=x": "M_INVALID_PARAM", "?dir=b&to=t01": "M_INVALID_PARAM",
		"?dir=b&limit=x": "M_INVALID_PARAM", "?dir=b&limit=-1": "M_INVALID_PARAM", "?dir=b&filter=x": "M_INVALID_PARAM",
		"?dir=b&filter=%7B%22limit%22%3A0%7D": "M_INVALID_PARAM",
	} {
		bert.do("GET", in(room, "messages")+query, nil).fails(400, code)
	}
}

// Client-server API, "Room history visibility": who left sees what was there until then.
func testMessagesLeft(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	for _, visibility := range []string{"shared", "joined", "invited"} {
		room := anna.create(object{"preset": "public_chat", "initial_state": list{
			object{"type": "m.room.history_visibility", "content": object{"history_visibility": visibility}}}})
		before := anna.say(room, "before")
		bert.join(room)
		during := anna.say(room, "during")
		anna.set(room, "m.room.topic", "", object{"topic": "then"})
		bert.do("POST", in(room, "leave"), object{}).ok()
		anna.set(room, "m.room.topic", "", object{"topic": "now"})
		after := anna.say(room, "after")
		for _, query := range []string{"?dir=b&limit=50", "?dir=f&limit=50"} {
			got := bert.page(room, query).texts("chunk.#.event_id")
			if slices.Contains(got, after) || !slices.Contains(got, during) || slices.Contains(got, before) != (visibility == "shared") {
				t.Errorf("%s, %s: %v (before %s during %s after %s)", visibility, query, got, before, during, after)
			}
		}
		bert.do("GET", in(room, "event", during), nil).ok()
		bert.do("GET", in(room, "event", after), nil).fails(404, "M_NOT_FOUND")
		bert.do("GET", in(room, "context", after), nil).fails(404, "M_NOT_FOUND")
		if got := bert.state(room, "m.room.topic", "").ok().str("topic"); got != "then" {
			t.Errorf("%s: topic %q", visibility, got)
		}
		if got := bert.state(room, "m.room.member", bert.id).ok().str("membership"); got != "leave" {
			t.Errorf("%s: own membership %q", visibility, got)
		}
		around := bert.do("GET", in(room, "context", during), nil).ok()
		if slices.Contains(around.texts("events_after.#.event_id"), after) {
			t.Errorf("%s: context shows what came after", visibility)
		}
	}
}

// Client-server API, "Room Previews": rooms that are open to the world.
func testPreviews(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat"})
	hidden := anna.say(room, "for members")
	bert.do("GET", in(room, "messages")+"?dir=b", nil).fails(403, "M_FORBIDDEN")
	bert.do("GET", in(room, "event", hidden), nil).fails(404, "M_NOT_FOUND")
	bert.do("GET", in(room, "context", hidden), nil).fails(403, "M_FORBIDDEN")
	bert.do("GET", in(room, "initialSync"), nil).fails(403, "M_FORBIDDEN")
	bert.do("GET", in("!none:a.example", "initialSync"), nil).fails(403, "M_FORBIDDEN")
	anna.set(room, "m.room.history_visibility", "", object{"history_visibility": "world_readable"})
	shown := anna.say(room, "for everybody")
	// GET /rooms/{roomId}/initialSync: what a stranger sees, and a member; its tokens lead on in /messages.
	peek := bert.do("GET", in(room, "initialSync")+"?limit=50", nil).ok()
	if ids := peek.texts("messages.chunk.#.event_id"); slices.Contains(ids, hidden) || ids[len(ids)-1] != shown ||
		peek.get("membership").Exists() || peek.str("visibility") != "private" || !find(peek.get("state"), "m.room.create", "").Exists() {
		t.Errorf("peeking: %s", peek.raw)
	}
	peek = anna.do("GET", in(room, "initialSync")+"?limit=1", nil).ok()
	if ids := peek.texts("messages.chunk.#.event_id"); !slices.Equal(ids, []string{shown}) || peek.str("membership") != "join" {
		t.Errorf("a member's: %s", peek.raw)
	}
	if ids := anna.page(room, "?dir=b&limit=2&from="+peek.str("messages.start")).texts("chunk.#.event_id"); len(ids) != 2 || ids[1] != hidden {
		t.Errorf("before it: %v, want %s as the second", ids, hidden)
	}
	anna.do("GET", in(room, "initialSync")+"?limit=x", nil).fails(400, "M_INVALID_PARAM")
	got := bert.page(room, "?dir=b&limit=50").texts("chunk.#.event_id")
	if !slices.Contains(got, shown) || slices.Contains(got, hidden) {
		t.Errorf("preview: %v", got)
	}
	bert.do("GET", in(room, "event", shown), nil).ok()
	bert.do("GET", in(room, "event", hidden), nil).fails(404, "M_NOT_FOUND")
	bert.do("GET", in(room, "state"), nil).ok()
	bert.do("GET", in(room, "members"), nil).ok()
	bert.do("GET", in(room, "aliases"), nil).ok()
	bert.do("GET", in(room, "joined_members"), nil).fails(403, "M_FORBIDDEN")
	// Who left, or was banned, sees no less than a stranger.
	bert.join(room)
	bert.do("POST", in(room, "leave"), object{}).ok()
	anna.set(room, "m.room.topic", "", object{"topic": "news"})
	later := anna.say(room, "for everybody still")
	for range 2 {
		if got := bert.page(room, "?dir=b&limit=50").texts("chunk.#.event_id"); !slices.Contains(got, later) || !slices.Contains(got, shown) {
			t.Errorf("who left sees %v", got)
		}
		bert.do("GET", in(room, "event", later), nil).ok()
		if around := bert.do("GET", in(room, "context", shown), nil).ok(); !slices.Contains(around.texts("events_after.#.event_id"), later) {
			t.Errorf("context for who left: %s", around.raw)
		}
		if topic := bert.state(room, "m.room.topic", "").ok().str("topic"); topic != "news" {
			t.Errorf("state for who left: %q", topic)
		}
		anna.do("POST", in(room, "ban"), object{"user_id": bert.id}).ok()
	}
}

// Client-server API, "Event Context".
func testContext(t *testing.T, w *world) {
	anna := w.register(t, "anna")
	room := anna.create(object{})
	var sent []string
	for i := range 20 {
		sent = append(sent, anna.say(room, fmt.Sprint(i)))
	}
	a := anna.do("GET", in(room, "context", sent[10])+"?limit=5", nil).ok()
	before, after := a.texts("events_before.#.event_id"), a.texts("events_after.#.event_id")
	if !slices.Equal(before, []string{sent[9], sent[8]}) || !slices.Equal(after, sent[11:14]) || a.str("event.event_id") != sent[10] {
		t.Errorf("context: %v %v", before, after)
	}
	if got := anna.page(room, "?dir=b&limit=1&from="+a.str("start")).texts("chunk.#.event_id"); !slices.Equal(got, sent[7:8]) {
		t.Errorf("before start: %v", got)
	}
	if got := anna.page(room, "?dir=f&limit=1&from="+a.str("end")).texts("chunk.#.event_id"); !slices.Equal(got, sent[14:15]) {
		t.Errorf("after end: %v", got)
	}
	if !slices.Contains(a.texts("state.#.type"), "m.room.create") {
		t.Errorf("state: %v", a.texts("state.#.type"))
	}
	a = anna.do("GET", in(room, "context", sent[0])+"?limit=0", nil).ok()
	if len(a.texts("events_before"))+len(a.texts("events_after")) != 0 {
		t.Errorf("limit=0: %s", a.raw)
	}
	filter := url.QueryEscape(`{"types":["m.room.message","m.room.member"],"lazy_load_members":true}`)
	a = anna.do("GET", in(room, "context", sent[0])+"?limit=50&filter="+filter, nil).ok()
	if got := a.texts("state.#.type"); !slices.Equal(got, []string{"m.room.member"}) {
		t.Errorf("filtered state: %v", got)
	}
	if got := a.texts("events_before.#.type"); !slices.Equal(got, []string{"m.room.member"}) {
		t.Errorf("filtered events: %v", got)
	}
	anna.do("GET", in(room, "context", "$none"), nil).fails(404, "M_NOT_FOUND")
	anna.do("GET", in(room, "context", "none"), nil).fails(404, "M_NOT_FOUND")
	anna.do("GET", in(room, "event", "none"), nil).fails(404, "M_NOT_FOUND")
	other := anna.create(object{})
	anna.do("GET", in(other, "event", sent[0]), nil).fails(404, "M_NOT_FOUND")
}

// Client-server API, GET /timestamp_to_event.
func testTimestamp(t *testing.T, w *world) {
	anna := w.register(t, "anna")
	room := anna.create(object{})
	type sent struct {
		id string
		ts int64
	}
	var events []sent
	for i := range 30 {
		e := anna.say(room, fmt.Sprint(i))
		events = append(events, sent{e, anna.do("GET", in(room, "event", e), nil).ok().get("origin_server_ts").Int()})
	}
	at := func(ts int64, dir string) *reply {
		return anna.do("GET", under(v1, room, "timestamp_to_event")+fmt.Sprintf("?ts=%d&dir=%s", ts, dir), nil)
	}
	for _, e := range events[1:29] {
		for _, dir := range []string{"f", "b"} {
			if a := at(e.ts, dir).ok(); a.get("origin_server_ts").Int() != e.ts {
				t.Errorf("at %d, %s: %s", e.ts, dir, a.raw)
			}
		}
	}
	if a := at(events[29].ts+1000, "b").ok(); a.get("origin_server_ts").Int() != events[29].ts {
		t.Errorf("the last: %s", a.raw)
	}
	if a := at(0, "f").ok(); a.str("event_id") == "" {
		t.Errorf("the first: %s", a.raw)
	}
	at(events[29].ts+1000, "f").fails(404, "M_NOT_FOUND")
	at(0, "b").fails(404, "M_NOT_FOUND")
	anna.do("GET", under(v1, room, "timestamp_to_event")+"?dir=b", nil).fails(400, "M_MISSING_PARAM")
	anna.do("GET", under(v1, room, "timestamp_to_event")+"?dir=b&ts=x", nil).fails(400, "M_INVALID_PARAM")
	anna.do("GET", under(v1, room, "timestamp_to_event")+"?ts=1", nil).fails(400, "M_MISSING_PARAM")
}

// Client-server API, "Receipts" and "Fully read markers".
func testReceipts(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat"})
	first := anna.say(room, "first")
	second := anna.say(room, "second")
	inThread := anna.send(room, "m.room.message", object{"body": "x", "m.relates_to": object{"rel_type": "m.thread", "event_id": first}})
	reaction := anna.send(room, "m.reaction", object{"m.relates_to": object{"rel_type": "m.annotation", "event_id": inThread, "key": "+"}})
	post := func(typ, event string, body any) *reply {
		return bert.do("POST", in(room, "receipt", typ, event), body)
	}
	post("m.read", second, object{}).fails(403, "M_FORBIDDEN")
	bert.join(room)
	post("m.read", second, nil).ok()
	post("m.read.private", second, object{}).ok()
	post("m.read", second, object{"thread_id": "main"}).ok()
	post("m.read", inThread, object{"thread_id": first}).ok()
	post("m.read", reaction, object{"thread_id": first}).ok()
	post("m.read", first, object{"thread_id": first}).ok()
	for _, tc := range []struct{ typ, event, thread string }{
		{"m.read", second, first}, {"m.read", inThread, "main"}, {"m.read", inThread, second}, {"m.read", reaction, "main"},
		{"m.fully_read", second, "main"}, {"m.read", second, ""}, {"m.read", second, "x"},
	} {
		post(tc.typ, tc.event, object{"thread_id": tc.thread}).fails(400, "M_INVALID_PARAM")
	}
	post("m.read", second, object{"thread_id": 1}).fails(400, "M_INVALID_PARAM")
	post("m.unread", second, object{}).fails(400, "M_INVALID_PARAM")
	post("m.read", "second", object{}).fails(400, "M_INVALID_PARAM")

	marker := func() string {
		return bert.do("GET", v3+"/user/"+bert.id+"/rooms/"+url.PathEscape(room)+"/account_data/m.fully_read", nil).str("event_id")
	}
	post("m.fully_read", second, object{}).ok()
	if got := marker(); got != second {
		t.Errorf("fully read: %s", got)
	}
	bert.do("POST", in(room, "read_markers"), object{"m.fully_read": first, "m.read": first}).ok()
	if got := marker(); got != second {
		t.Errorf("fully read went back to %s", got)
	}
	bert.do("POST", in(room, "read_markers"), object{"m.fully_read": inThread, "m.read.private": inThread}).ok()
	if got := marker(); got != inThread {
		t.Errorf("fully read: %s", got)
	}
	bert.do("POST", in(room, "read_markers"), object{"m.read": 1}).fails(400, "M_BAD_JSON")
	bert.do("POST", in(room, "read_markers"), object{"m.read": "x"}).fails(400, "M_INVALID_PARAM")
	// Anna sees the public receipt.
	eventually(t, "receipt in sync", func() bool {
		a := anna.do("GET", v3+"/sync", nil).ok()
		for _, e := range a.get("rooms.join").Map()[room].Get("ephemeral.events").Array() {
			if e.Get("type").Str == "m.receipt" && e.Get("content").Map()[second].Get("m\\.read").Map()[bert.id].Exists() {
				return true
			}
		}
		return false
	})
}

// Client-server API, "Typing Notifications".
func testTyping(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat"})
	put := func(p *person, user string, q any) *reply { return p.do("PUT", in(room, "typing", user), q) }
	put(bert, bert.id, object{"typing": true}).fails(403, "M_FORBIDDEN")
	bert.join(room)
	put(bert, anna.id, object{"typing": true}).fails(403, "M_FORBIDDEN")
	put(bert, bert.id, object{}).fails(400, "M_MISSING_PARAM")
	put(bert, bert.id, object{"typing": "x"}).fails(400, "M_BAD_JSON")
	put(bert, bert.id, object{"typing": true, "timeout": -1}).fails(400, "M_INVALID_PARAM")
	put(bert, bert.id, object{"typing": false}).ok()
	eventually(t, "typing in sync", func() bool {
		put(bert, bert.id, object{"typing": true, "timeout": 60000}).ok()
		a := anna.do("GET", v3+"/sync", nil).ok()
		for _, e := range a.get("rooms.join").Map()[room].Get("ephemeral.events").Array() {
			if e.Get("type").Str == "m.typing" && e.Get("content.user_ids.0").Str == bert.id {
				return true
			}
		}
		return false
	})
}

// Client-server API, "Ignoring Users": nothing of what an ignored user sent is read, in pages, contexts and one by one, but for
// state; all of it is there again for who ignores the user no more.
func testIgnoredPages(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat", "room_version": "11"})
	bert.join(room)
	anna.do("PUT", in(room, "state", "m.room.power_levels"), object{"users": object{anna.id: 100, bert.id: 50}}).ok()
	var all, heard, unheard []string
	for i := range 30 {
		e := []*person{anna, bert, bert}[i%3].say(room, fmt.Sprint(i))
		if all = append(all, e); i%3 == 0 {
			heard = append(heard, e)
		} else {
			unheard = append(unheard, e)
		}
	}
	topic := bert.set(room, "m.room.topic", "", object{"topic": "of an ignored user"})
	all, heard = append(all, topic), append(heard, topic)
	list := v3 + "/user/" + anna.id + "/account_data/m.ignored_user_list"
	filter := "&filter=" + url.QueryEscape(`{"types":["m.room.message","m.room.topic"]}`)
	for _, c := range []struct {
		ignored object
		want    []string
	}{{object{bert.id: object{}}, heard}, {object{}, all}} {
		anna.do("PUT", list, object{"ignored_users": c.ignored}).ok()
		for _, dir := range []string{"b", "f"} {
			for _, limit := range []int{1, 7, 100} {
				got := anna.pages(room, fmt.Sprintf("%s&limit=%d%s", dir, limit, filter), "")
				if dir == "b" {
					slices.Reverse(got)
				}
				if !slices.Equal(got, c.want) {
					t.Errorf("ignoring %v, dir=%s, limit=%d: %v, want %v", c.ignored, dir, limit, got, c.want)
				}
			}
		}
		around := anna.do("GET", in(room, "context", heard[5])+"?limit=60"+filter, nil).ok()
		got := around.texts("events_before.#.event_id")
		slices.Reverse(got)
		got = append(append(got, heard[5]), around.texts("events_after.#.event_id")...)
		if !slices.Equal(got, c.want) {
			t.Errorf("ignoring %v, a context: %v, want %v", c.ignored, got, c.want)
		}
	}
	anna.do("PUT", list, object{"ignored_users": object{bert.id: object{}}}).ok()
	anna.do("GET", in(room, "event", unheard[0]), nil).fails(404, "M_NOT_FOUND")
	anna.do("GET", in(room, "context", unheard[0]), nil).fails(404, "M_NOT_FOUND")
	anna.do("GET", in(room, "event", topic), nil).ok()
	bert.do("GET", in(room, "event", unheard[0]), nil).ok()
}

// Client-server API, "Room Event Format", unsigned.membership: what the user who asks was to the room just after each event.
func testMembershipOnEvents(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat"})
	want := make(map[string]string)
	want[anna.say(room, "before all")] = "leave"
	anna.do("POST", in(room, "invite"), object{"user_id": bert.id}).ok()
	want[anna.say(room, "invited")] = "invite"
	bert.join(room)
	want[bert.say(room, "joined")] = "join"
	bert.do("POST", in(room, "leave"), object{}).ok()
	want[anna.say(room, "left")] = "leave"
	bert.join(room)
	root := anna.say(room, "back")
	want[root] = "join"
	reply := anna.send(room, "m.room.message", object{"msgtype": "m.text", "body": "reply", "m.relates_to": object{"rel_type": "m.thread", "event_id": root}})
	want[reply] = "join"
	for _, dir := range []string{"b", "f"} {
		r := bert.do("GET", in(room, "messages")+"?limit=100&dir="+dir, nil).ok()
		own := []string{} // the user's membership events say what they have made of it
		for _, e := range r.get("chunk").Array() {
			is := e.Get("unsigned.membership").String()
			if w, known := want[e.Get("event_id").String()]; known && is != w {
				t.Errorf("%s: %q, want %q: %s", dir, is, w, e.Raw)
			}
			if e.Get("state_key").String() == bert.id {
				own = append(own, is)
			}
			if e.Get("type").String() == "m.room.create" && is != "leave" {
				t.Errorf("the create event: %s", e.Raw)
			}
		}
		if dir == "b" {
			slices.Reverse(own)
		}
		same(t, dir, own, []string{"invite", "join", "leave", "join"})
	}
	for what, is := range map[string]string{
		"event":     bert.do("GET", in(room, "event", reply), nil).ok().str("unsigned.membership"),
		"context":   bert.do("GET", in(room, "context", reply), nil).ok().str("event.unsigned.membership"),
		"relations": bert.do("GET", under(v1, room, "relations", root), nil).ok().str("chunk.0.unsigned.membership"),
		"threads":   bert.do("GET", under(v1, room, "threads"), nil).ok().str("chunk.0.unsigned.membership"),
	} {
		if is != "join" {
			t.Errorf("%s: %q", what, is)
		}
	}
	if is := anna.do("GET", in(room, "event", root), nil).ok().str("unsigned.membership"); is != "join" {
		t.Errorf("for another user: %q", is)
	}
}
