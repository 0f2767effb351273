package app_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"hanse/services/app"
)

// Client-server API, "Server Side Search", of a cluster of two processes.
func TestSearch(t *testing.T) {
	w := newWorld(t)
	for name, test := range map[string]func(*testing.T, *world){
		"orders and pages": testSearchOrders, "who may see": testSearchAccess, "redaction": testSearchRedaction, "context and state": testSearchContext,
		"groups": testSearchGroups, "upgraded rooms": testSearchUpgraded, "fields and filters": testSearchFields, "bad input": testSearchBadInput,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, w)
		})
	}
}

// seek searches; more is added to the criteria.
func (p *person) seek(term string, more object) *reply {
	p.t.Helper()
	return p.seekPage(term, more, "")
}

func (p *person) seekPage(term string, more object, next string) *reply {
	p.t.Helper()
	q := object{"search_term": term}
	for k, v := range more {
		q[k] = v
	}
	path := v3 + "/search"
	if next != "" {
		path += "?next_batch=" + url.QueryEscape(next)
	}
	return p.do("POST", path, object{"search_categories": object{"room_events": q}})
}

const results = "search_categories.room_events."

func (r *reply) found() []string { return r.texts(results + "results.#.result.event_id") }

// finds waits until a search has as many results as are wanted, which the index has a moment later than the rooms.
func (p *person) finds(term string, more object, want ...string) *reply {
	p.t.Helper()
	var r *reply
	eventually(p.t, fmt.Sprintf("%q is found %d times", term, len(want)), func() bool {
		r = p.seek(term, more).ok()
		return len(r.found()) == len(want)
	})
	same(p.t, term, r.found(), want)
	return r
}

// A word that no other test uses.
func uncommon(word string) string { return fmt.Sprintf("%s%d", word, txns.Add(1)) }

// "Ordering" and "Pagination".
func testSearchOrders(t *testing.T, w *world) {
	anna := w.register(t, "anna")
	room, other := anna.create(object{}), anna.create(object{})
	word := uncommon("order")
	long := anna.say(room, "one "+word+" between other words")
	exact := anna.say(other, strings.ToUpper(word))
	middle := anna.say(room, word+" again")
	anna.say(room, "nothing")
	recent := object{"order_by": "recent"}
	r := anna.finds(word, recent, middle, exact, long)
	if r.get(results+"count").Int() != 3 || r.str(results+"highlights.0") != word || r.get(results+"next_batch").Exists() {
		t.Errorf("%s", r.raw)
	}
	r = anna.finds(word, nil, exact, middle, long)
	if ranks := r.get(results + "results.#.rank").Array(); ranks[0].Num <= ranks[1].Num || ranks[1].Num <= ranks[2].Num {
		t.Errorf("ranks: %s", r.raw)
	}
	anna.finds(word+" AGAIN", nil, middle)
	for order, want := range map[string][]string{"recent": {middle, exact, long}, "rank": {exact, middle, long}} {
		for _, limit := range []int{1, 2, 3} {
			var got []string
			next := ""
			for range 5 {
				page := anna.seekPage(word, object{"order_by": order, "filter": object{"limit": limit}}, next).ok()
				got = append(got, page.found()...)
				if next = page.str(results + "next_batch"); next == "" {
					break
				}
			}
			same(t, fmt.Sprint(order, " by ", limit), got, want)
		}
	}
	chinese := anna.say(room, "我们明天去"+word+"北京开会")
	anna.finds(word+"北京", nil, chinese)
	if got := anna.seek("&& || ! \"\" --", nil).ok(); got.get(results+"count").Int() != 0 || !got.get(results+"results").IsArray() {
		t.Errorf("only operators: %s", got.raw)
	}
}

// "Server Side Search": rooms that one was in, up to when; not what others say elsewhere, nor encrypted events.
func testSearchAccess(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	word := uncommon("access")
	room := anna.create(object{"preset": "public_chat"})
	secret := anna.create(object{})
	hidden := anna.create(object{"preset": "public_chat", "initial_state": list{
		object{"type": "m.room.history_visibility", "content": object{"history_visibility": "joined"}}}})
	first := anna.say(room, word)
	anna.say(secret, word)
	anna.say(hidden, word)
	anna.send(room, "m.room.encrypted", object{"body": word, "ciphertext": word})
	bert.join(room)
	bert.join(hidden)
	seen := anna.say(hidden, word)
	recent := object{"order_by": "recent"}
	counts := func(want int64, r *reply) {
		t.Helper()
		if got := r.get(results + "count").Int(); got != want {
			t.Errorf("count is %d, want %d: %s", got, want, r.raw)
		}
	}
	counts(2, bert.finds(word, recent, seen, first))
	bert.do("POST", in(room, "leave"), object{}).ok()
	late := anna.say(room, word)
	anna.finds(word, object{"order_by": "recent", "filter": object{"rooms": list{room}}}, late, first)
	counts(2, bert.finds(word, recent, seen, first))
	// A page tells nothing of what the user may not see, either: there is a next one only if it has something to show.
	counts(2, bert.finds(word, object{"order_by": "recent", "filter": object{"limit": 1}}, seen))
	inRoom := object{"order_by": "recent", "filter": object{"limit": 1, "rooms": list{hidden}}}
	if r := bert.finds(word, inRoom, seen); r.get(results+"count").Int() != 1 || r.get(results+"next_batch").Exists() {
		t.Errorf("more than the user may see: %s", r.raw)
	}
	bert.do("POST", in(room, "forget"), object{}).ok()
	bert.finds(word, recent, seen)
	if got := w.register(t, "stranger").seek(word, nil).ok().found(); len(got) > 0 {
		t.Errorf("a stranger finds %v", got)
	}
	anna.do("PUT", v3+"/user/"+url.PathEscape(anna.id)+"/account_data/m.ignored_user_list", object{"ignored_users": object{bert.id: object{}}}).ok()
	bert.say(hidden, word)
	bert.finds(word, recent, append(bert.page(hidden, "?dir=b&limit=1").texts("chunk.#.event_id"), seen)...)
	if got := anna.seek(word, object{"filter": object{"senders": list{bert.id}}}).ok().found(); len(got) > 0 {
		t.Errorf("of an ignored user: %v", got)
	}
}

// What is redacted is gone in that moment.
func testSearchRedaction(t *testing.T, w *world) {
	anna := w.register(t, "anna")
	room, word := anna.create(object{}), uncommon("redacted")
	one, two := anna.say(room, word), anna.say(room, word)
	anna.finds(word, object{"order_by": "recent"}, two, one)
	anna.redacts(room, two)
	same(t, "after a redaction", anna.seek(word, nil).ok().found(), []string{one})
}

// event_context, include_profile and include_state; aggregations of what is found.
func testSearchContext(t *testing.T, w *world) {
	anna := w.register(t, "anna")
	room, word := anna.create(object{}), uncommon("context")
	before := []string{anna.say(room, "b1"), anna.say(room, "b2")}
	hit := anna.say(room, word)
	after := []string{anna.say(room, "a1"), anna.say(room, "a2")}
	edit := anna.edit(room, hit, "edited")
	r := anna.finds(word, object{"include_state": true, "event_context": object{"before_limit": 1, "after_limit": 2, "include_profile": true}}, hit)
	c := results + "results.0.context."
	same(t, "before", r.texts(c+"events_before.#.event_id"), before[1:])
	same(t, "after", r.texts(c+"events_after.#.event_id"), after)
	if r.str(results+"results.0.result.unsigned.m\\.relations.m\\.replace.event_id") != edit || r.str(results+"results.0.result.room_id") != room {
		t.Errorf("%s", r.raw)
	}
	if got := r.get(c + "profile_info").Map()[anna.id].Get("displayname").Str; got == "" {
		t.Errorf("profiles: %s", r.raw)
	}
	if types := r.get(results + "state").Map()[room].Get("#.type").String(); !strings.Contains(types, "m.room.create") || !strings.Contains(types, "m.room.member") {
		t.Errorf("state: %s", types)
	}
	same(t, "on from the end", anna.page(room, "?dir=f&limit=1&from="+r.str(c+"end")).texts("chunk.#.event_id"), []string{edit})
}

// "Groups".
func testSearchGroups(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	one, two := anna.create(object{"preset": "public_chat"}), anna.create(object{})
	bert.join(one)
	word := uncommon("group")
	a, b, c := anna.say(one, word), bert.say(one, word), anna.say(two, word)
	by := object{"order_by": "recent", "groupings": object{"group_by": list{object{"key": "room_id"}, object{"key": "sender"}}}}
	r := anna.finds(word, by, c, b, a)
	groups := r.get(results + "groups").Map()
	text := func(kind, value string) (ids []string) {
		for _, e := range groups[kind].Map()[value].Get("results").Array() {
			ids = append(ids, e.Str)
		}
		return ids
	}
	same(t, "of one room", text("room_id", one), []string{b, a})
	same(t, "of the other", text("room_id", two), []string{c})
	same(t, "of anna", text("sender", anna.id), []string{c, a})
	if groups["room_id"].Map()[two].Get("order").Int() != 1 || groups["room_id"].Map()[one].Get("order").Int() != 2 {
		t.Errorf("orders: %s", r.raw)
	}
	// The next page of a group.
	by["filter"] = object{"limit": 1}
	r = anna.seek(word, by).ok()
	groups = r.get(results + "groups").Map()
	next := groups["sender"].Map()[anna.id].Get("next_batch").Str
	by["filter"] = object{"limit": 10}
	same(t, "more of anna", anna.seekPage(word, by, next).ok().found(), []string{a})
	next = groups["room_id"].Map()[two].Get("next_batch").Str
	same(t, "more of the room", anna.seekPage(word, by, next).ok().found(), nil)
}

// A search in a room finds what was said before its upgrades.
func testSearchUpgraded(t *testing.T, w *world) {
	anna := w.register(t, "anna")
	word := uncommon("upgraded")
	old := anna.create(object{"room_version": "10"})
	was := anna.say(old, word)
	room := anna.do("POST", in(old, "upgrade"), object{"new_version": "11"}).ok().str("replacement_room")
	is := anna.say(room, word)
	anna.finds(word, object{"order_by": "recent", "filter": object{"rooms": list{room}}}, is, was)
	anna.finds(word, object{"filter": object{"rooms": list{old}}}, was)
}

// "Search Categories" and filters.
func testSearchFields(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	word := uncommon("field")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	body := anna.say(room, word)
	name := anna.set(room, "m.room.name", "", object{"name": word})
	topic := anna.set(room, "m.room.topic", "", object{"topic": word})
	ofBert := bert.say(room, word)
	anna.finds(word, object{"order_by": "recent"}, ofBert, topic, name, body)
	for key, want := range map[string][]string{"content.body": {ofBert, body}, "content.name": {name}, "content.topic": {topic}} {
		same(t, key, anna.seek(word, object{"order_by": "recent", "keys": list{key}}).ok().found(), want)
	}
	for _, c := range []struct {
		filter object
		want   []string
	}{
		{object{"senders": list{bert.id}}, []string{ofBert}}, {object{"not_senders": list{bert.id}, "types": list{"m.room.message"}}, []string{body}},
		{object{"not_types": list{"m.room.*"}}, nil}, {object{"rooms": list{}}, nil}, {object{"not_rooms": list{room}}, nil}, {object{"limit": 1}, []string{ofBert}},
	} {
		same(t, fmt.Sprint(c.filter), anna.seek(word, object{"order_by": "recent", "filter": c.filter}).ok().found(), c.want)
	}
}

func testSearchBadInput(t *testing.T, w *world) {
	anna := w.register(t, "anna")
	anna.seek(strings.Repeat("word ", 13_000), nil).fails(400, "M_INVALID_PARAM")
	anna.seek(strings.Repeat("x ", 500), nil).ok() // more words than are looked for
	for _, more := range []object{{"order_by": "x"}, {"keys": list{"content.x"}}, {"filter": object{"limit": 0}}, {"filter": object{"rooms": list{"x"}}},
		{"groupings": object{"group_by": list{object{"key": "x"}}}}} {
		anna.seek("x", more).fails(400, "M_INVALID_PARAM")
	}
	for _, next := range []string{"x", "e30", strings.Repeat("e", 2000)} {
		anna.seekPage("x", nil, next).fails(400, "M_INVALID_PARAM")
	}
	anna.do("POST", v3+"/search", object{"search_categories": object{"room_events": object{}}}).fails(400, "M_MISSING_PARAM")
	anna.do("POST", v3+"/search", object{"search_categories": object{"room_events": object{"search_term": 5}}}).fails(400, "M_BAD_JSON")
	anna.do("POST", v3+"/search", "x").fails(400, "M_NOT_JSON")
	if r := anna.do("POST", v3+"/search", object{"search_categories": object{}}).ok(); !r.get("search_categories").Exists() {
		t.Errorf("%s", r.raw)
	}
	anna.do("POST", v3+"/search", object{"search_categories": object{"room_events": object{"search_term": strings.Repeat("x", 300_000)}}}).fails(413, "M_TOO_LARGE")
}

// Search can be switched off.
func TestSearchOff(t *testing.T) {
	w := newWorldOf(t, [][]string{nil}, func(cfg *app.Config) { cfg.Client.Search.Enabled = false })
	anna := w.register(t, "anna")
	anna.say(anna.create(object{}), "x")
	anna.seek("x", nil).fails(400, "M_UNKNOWN")
}
