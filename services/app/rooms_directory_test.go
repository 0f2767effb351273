package app_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// unique is a name that no other test uses.
func unique(name string) string { return fmt.Sprintf("%s%d", name, time.Now().UnixNano()) }

// Client-server API, "Room aliases".
func testAliases(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat"})
	alias := "#" + unique("alias") + ":" + w.name
	path := v3 + "/directory/room/" + url.PathEscape(alias)
	anna.do("GET", path, nil).fails(404, "M_NOT_FOUND")
	bert.do("PUT", path, object{"room_id": room}).fails(403, "M_FORBIDDEN")
	anna.do("PUT", path, object{}).fails(400, "M_MISSING_PARAM")
	anna.do("PUT", path, object{"room_id": "x"}).fails(400, "M_INVALID_PARAM")
	anna.do("PUT", v3+"/directory/room/"+url.PathEscape("#x:elsewhere.test"), object{"room_id": room}).fails(400, "M_INVALID_PARAM")
	anna.do("PUT", v3+"/directory/room/alias", object{"room_id": room}).fails(400, "M_INVALID_PARAM")
	anna.do("PUT", path, object{"room_id": room}).ok()
	anna.do("PUT", path, object{"room_id": room}).fails(409, "M_UNKNOWN")
	got := (&person{t: t, w: w}).do("GET", path, nil).ok() // without an account
	if got.str("room_id") != room || !slices.Equal(got.texts("servers"), []string{w.name}) {
		t.Errorf("alias: %s", got.raw)
	}
	if got := bert.do("POST", v3+"/join/"+url.PathEscape(alias), object{}).ok().str("room_id"); got != room {
		t.Errorf("joined %s", got)
	}
	if got := bert.do("GET", in(room, "aliases"), nil).ok().texts("aliases"); !slices.Equal(got, []string{alias}) {
		t.Errorf("aliases: %v", got)
	}
	bert.do("DELETE", path, nil).fails(403, "M_FORBIDDEN")
	anna.do("DELETE", path, nil).ok()
	anna.do("DELETE", path, nil).fails(404, "M_NOT_FOUND")
	// Whoever may set the canonical alias may delete the aliases of others.
	bert.do("PUT", path, object{"room_id": room}).ok()
	anna.do("DELETE", path, nil).ok()
	anna.do("GET", path, nil).fails(404, "M_NOT_FOUND")
}

// Client-server API, "Published Room Directory".
func testDirectory(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	word := unique("Kogge")
	var rooms []string
	for i := range 3 {
		q := object{"visibility": "public", "name": fmt.Sprintf("The %s %d", word, i)}
		if i == 2 {
			q["creation_content"] = object{"type": "m.space"}
		}
		rooms = append(rooms, anna.create(q))
	}
	bert.join(rooms[1])
	search := func(q object) *reply {
		q["filter"] = merge(object{"generic_search_term": strings.ToUpper(word)}, q["filter"])
		return bert.do("POST", v3+"/publicRooms", q).ok()
	}
	all := search(object{})
	ids := all.texts("chunk.#.room_id")
	if len(ids) != 3 || ids[0] != rooms[1] || all.get("chunk.0.num_joined_members").Int() != 2 || all.str("chunk.0.join_rule") != "public" {
		t.Errorf("search: %s", all.raw)
	}
	if got := search(object{"filter": object{"room_types": list{"m.space"}}}).texts("chunk.#.room_id"); !slices.Equal(got, rooms[2:]) {
		t.Errorf("spaces: %v", got)
	}
	if got := search(object{"filter": object{"room_types": list{nil}}}).texts("chunk.#.room_id"); len(got) != 2 || slices.Contains(got, rooms[2]) {
		t.Errorf("rooms without a type: %v", got)
	}
	var paged []string
	since := ""
	for range 5 {
		page := search(object{"limit": 1, "since": since})
		paged = append(paged, page.texts("chunk.#.room_id")...)
		if since = page.str("next_batch"); since == "" {
			back := search(object{"limit": 1, "since": page.str("prev_batch")}).texts("chunk.#.room_id")
			if len(back) != 1 || back[0] != ids[1] {
				t.Errorf("previous page: %v", back)
			}
			break
		}
	}
	if !slices.Equal(paged, ids) {
		t.Errorf("pages: %v, want %v", paged, ids)
	}
	nobody := &person{t: t, w: w}
	if got := nobody.do("GET", v3+"/publicRooms?limit=500", nil).ok().texts("chunk.#.room_id"); !slices.Contains(got, rooms[0]) {
		t.Errorf("GET /publicRooms: %v", got)
	}
	nobody.do("GET", v3+"/publicRooms?server=elsewhere.test", nil).fails(401, "M_MISSING_TOKEN")
	bert.do("POST", v3+"/publicRooms", object{"since": "x"}).fails(400, "M_INVALID_PARAM")
	bert.do("POST", v3+"/publicRooms", object{"limit": -1}).fails(400, "M_INVALID_PARAM")

	listed := v3 + "/directory/list/room/" + url.PathEscape(rooms[0])
	if got := nobody.do("GET", listed, nil).ok().str("visibility"); got != "public" {
		t.Errorf("visibility: %s", got)
	}
	bert.do("PUT", listed, object{"visibility": "private"}).fails(403, "M_FORBIDDEN")
	anna.do("PUT", listed, object{"visibility": "x"}).fails(400, "M_INVALID_PARAM")
	anna.do("PUT", listed, object{"visibility": "private"}).ok()
	if got := search(object{}).texts("chunk.#.room_id"); slices.Contains(got, rooms[0]) {
		t.Errorf("listed still: %v", got)
	}
	anna.do("PUT", listed, object{}).ok() // public is the default
	if got := search(object{}).texts("chunk.#.room_id"); !slices.Contains(got, rooms[0]) {
		t.Errorf("not listed again: %v", got)
	}
	nobody.do("GET", v3+"/directory/list/room/"+url.PathEscape("!nowhere:"+w.name), nil).fails(404, "M_NOT_FOUND")
}

func merge(a object, b any) object {
	if more, ok := b.(object); ok {
		for k, v := range more {
			a[k] = v
		}
	}
	return a
}

// Client-server API, "Room Summaries".
func testSummary(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	alias := unique("open")
	open := anna.create(object{"preset": "public_chat", "name": "Open", "topic": "T", "room_alias_name": alias, "initial_state": list{
		object{"type": "m.room.encryption", "content": object{"algorithm": "m.megolm.v1.aes-sha2"}}}})
	closed := anna.create(object{"name": "Closed"})
	summary := func(p *person, room string) *reply { return p.do("GET", v1+"/room_summary/"+url.PathEscape(room), nil) }
	nobody := &person{t: t, w: w}
	for _, name := range []string{open, "#" + alias + ":" + w.name} {
		s := summary(nobody, name).ok()
		if s.str("room_id") != open || s.str("name") != "Open" || s.str("topic") != "T" || s.str("join_rule") != "public" || s.get("membership").Exists() ||
			s.str("room_version") != "12" || s.str("encryption") != "m.megolm.v1.aes-sha2" || s.get("num_joined_members").Int() != 1 ||
			s.get("world_readable").Bool() || s.get("guest_can_join").Bool() {
			t.Errorf("summary: %s", s.raw)
		}
	}
	if s := summary(anna, closed).ok(); s.str("membership") != "join" || s.str("join_rule") != "invite" {
		t.Errorf("summary: %s", s.raw)
	}
	summary(nobody, closed).fails(404, "M_NOT_FOUND")
	summary(bert, closed).fails(404, "M_NOT_FOUND")
	anna.do("POST", in(closed, "invite"), object{"user_id": bert.id}).ok()
	if s := summary(bert, closed).ok(); s.str("membership") != "invite" {
		t.Errorf("summary: %s", s.raw)
	}
	summary(bert, "!nowhere:"+w.name).fails(404, "M_NOT_FOUND")
	summary(bert, "nowhere").fails(400, "M_INVALID_PARAM")
}

// Client-server API, "Discovering rooms within spaces".
func testHierarchy(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	space := func(name string) string {
		return anna.create(object{"preset": "public_chat", "name": name, "creation_content": object{"type": "m.space"}})
	}
	root, sub := space("root"), space("sub")
	first, second := anna.create(object{"preset": "public_chat", "name": "first"}), anna.create(object{"preset": "public_chat", "name": "second"})
	leaf, secret := anna.create(object{"preset": "public_chat", "name": "leaf"}), anna.create(object{"name": "secret"})
	child := func(parent, room string, more object) {
		anna.set(parent, "m.space.child", room, merge(object{"via": list{w.name}}, more))
	}
	child(root, second, object{"order": "b"})
	child(root, first, object{"order": "a", "suggested": true})
	child(root, secret, object{"order": "c"})
	child(root, sub, object{})
	child(sub, leaf, object{})
	child(sub, root, object{})                      // a loop
	anna.set(root, "m.space.child", leaf, object{}) // no child: it has no via
	walk := func(p *person, query string) *reply { return p.do("GET", under(v1, root, "hierarchy")+query, nil) }
	rooms := walk(bert, "").ok()
	want := []string{root, first, second, sub, leaf}
	if got := rooms.texts("rooms.#.room_id"); !slices.Equal(got, want) {
		t.Errorf("hierarchy: %v, want %v", got, want)
	}
	// "Ordering of children within a space" holds for children_state, too.
	if got := rooms.texts("rooms.0.children_state.#.state_key"); !slices.Equal(got, []string{first, second, secret, sub}) {
		t.Errorf("children_state: %v", got)
	}
	if got := rooms.get("rooms.0.children_state.#").Int(); got != 4 || rooms.str("rooms.0.children_state.0.type") != "m.space.child" ||
		rooms.get("rooms.0.children_state.0.origin_server_ts").Int() == 0 || rooms.str("rooms.1.children_state") != "[]" {
		t.Errorf("children: %s", rooms.raw)
	}
	if got := walk(anna, "").ok().texts("rooms.#.room_id"); !slices.Contains(got, secret) {
		t.Errorf("the room of a member is missing: %v", got)
	}
	if got := walk(bert, "?max_depth=1").ok().texts("rooms.#.room_id"); !slices.Equal(got, want[:4]) {
		t.Errorf("max_depth=1: %v", got)
	}
	if got := walk(bert, "?suggested_only=true").ok().texts("rooms.#.room_id"); !slices.Equal(got, want[:2]) {
		t.Errorf("suggested: %v", got)
	}
	var paged []string
	from := ""
	for range 10 {
		page := walk(bert, "?limit=2"+from).ok()
		paged = append(paged, page.texts("rooms.#.room_id")...)
		if page.str("next_batch") == "" {
			break
		}
		from = "&from=" + page.str("next_batch")
	}
	if !slices.Equal(paged, want) {
		t.Errorf("pages: %v", paged)
	}
	walk(bert, "?limit=2&max_depth=3"+from).fails(400, "M_INVALID_PARAM")
	for _, query := range []string{"?limit=0", "?limit=x", "?max_depth=-1", "?from=x", "?suggested_only=x"} {
		walk(bert, query).fails(400, "M_INVALID_PARAM")
	}
	bert.do("GET", under(v1, secret, "hierarchy"), nil).fails(403, "M_FORBIDDEN")
	bert.do("GET", under(v1, "!nowhere:"+w.name, "hierarchy"), nil).fails(403, "M_FORBIDDEN")
}

// Client-server API, "Room Upgrades".
func testUpgrade(t *testing.T, w *world) {
	anna, bert, carl := w.register(t, "anna"), w.register(t, "bert"), w.register(t, "carl")
	for _, step := range []struct{ from, to string }{{"5", "10"}, {"10", "12"}, {"12", "12"}, {"12", "9"}, {"11", "6"}} {
		what := step.from + " to " + step.to
		alias := unique("upgrade")
		old := anna.create(object{"room_version": step.from, "preset": "public_chat", "visibility": "public", "name": "Old", "room_alias_name": alias,
			"creation_content": object{"m.federate": false}, "power_level_content_override": object{"users_default": 1}})
		bert.join(old)
		anna.do("POST", in(old, "ban"), object{"user_id": carl.id}).ok()
		bert.do("POST", in(old, "upgrade"), object{"new_version": step.to}).fails(403, "M_FORBIDDEN")
		anna.do("POST", in(old, "upgrade"), object{"new_version": "ahoy"}).fails(400, "M_UNSUPPORTED_ROOM_VERSION")
		anna.do("POST", in(old, "upgrade"), object{}).fails(400, "M_MISSING_PARAM")
		successor := anna.do("POST", in(old, "upgrade"), object{"new_version": step.to, "additional_creators": list{bert.id}}).ok().str("replacement_room")
		grave := anna.state(old, "m.room.tombstone", "").ok()
		if grave.str("replacement_room") != successor {
			t.Errorf("%s: tombstone: %s", what, grave.raw)
		}
		create := anna.state(successor, "m.room.create", "").ok()
		if create.str("room_version") != step.to || create.str("predecessor.room_id") != old || create.get("m\\.federate").Raw != "false" {
			t.Errorf("%s: create: %s", what, create.raw)
		}
		if step.to == "12" != (create.str("additional_creators") == `["`+bert.id+`"]`) {
			t.Errorf("%s: creators: %s", what, create.raw)
		}
		if got := anna.state(successor, "m.room.name", "").ok().str("name"); got != "Old" {
			t.Errorf("%s: name %q", what, got)
		}
		if got := anna.state(successor, "m.room.member", carl.id).ok().str("membership"); got != "ban" {
			t.Errorf("%s: the banned are %q", what, got)
		}
		levels := anna.state(successor, "m.room.power_levels", "").ok()
		if levels.get("users_default").Int() != 1 || (step.to == "12") != !levels.get("users").Map()[anna.id].Exists() {
			t.Errorf("%s: power levels: %s", what, levels.raw)
		}
		name := "#" + alias + ":" + w.name
		if got := anna.do("GET", v3+"/directory/room/"+url.PathEscape(name), nil).ok().str("room_id"); got != successor {
			t.Errorf("%s: alias names %s", what, got)
		}
		if got := anna.state(successor, "m.room.canonical_alias", "").ok().str("alias"); got != name {
			t.Errorf("%s: canonical alias %q", what, got)
		}
		for room, want := range map[string]string{old: "private", successor: "public"} {
			if got := anna.do("GET", v3+"/directory/list/room/"+url.PathEscape(room), nil).ok().str("visibility"); got != want {
				t.Errorf("%s: %s is %s", what, room, got)
			}
		}
		bert.do("PUT", in(old, "send", "m.room.message", unique("t")), object{"body": "x"}).fails(403, "M_FORBIDDEN")
		anna.do("POST", in(old, "upgrade"), object{"new_version": step.to}).fails(400, "M_BAD_STATE")
		bert.join(successor)
	}
}

// Bad input in paths and bodies is refused with the error that the specification names, never with a 500.
func testBadInput(t *testing.T, w *world) {
	anna := w.register(t, "anna")
	room := anna.create(object{})
	paths := []struct{ method, path string }{
		{"PUT", "send/m.room.message/x"}, {"PUT", "state/m.room.name"}, {"PUT", "redact/$x/x"}, {"GET", "messages?dir=b"}, {"GET", "members"},
		{"GET", "joined_members"}, {"GET", "state"}, {"GET", "state/x"}, {"GET", "context/$x"}, {"GET", "event/$x"}, {"GET", "aliases"},
		{"POST", "join"}, {"POST", "leave"}, {"POST", "forget"}, {"POST", "invite"}, {"POST", "kick"}, {"POST", "ban"}, {"POST", "unban"},
		{"POST", "upgrade"}, {"POST", "receipt/m.read/$x"}, {"POST", "read_markers"}, {"PUT", "typing/" + url.PathEscape(anna.id)},
	}
	for _, p := range paths {
		for _, id := range []string{"x", "!", "%00", "!a%00:b", "!" + strings.Repeat("a", 300) + ":b", "%ff"} {
			a := anna.do(p.method, v3+"/rooms/"+id+"/"+p.path, object{})
			if a.status < 400 || a.status >= 500 || a.str("errcode") == "" {
				t.Errorf("%s %s in %s: %d %s", p.method, p.path, id, a.status, a.raw)
			}
		}
		if p.method == "GET" {
			continue
		}
		for _, body := range []string{"[]", "1", `"x"`, "{", "\xff", strings.Repeat(`{"a":`, 200) + "1" + strings.Repeat("}", 200)} {
			a := anna.do(p.method, in(room)+"/"+p.path, body)
			if a.status < 400 || a.status >= 500 {
				t.Errorf("%s %s with %.10q: %d %s", p.method, p.path, body, a.status, a.raw)
			}
		}
		(&person{t: t, w: w}).do(p.method, in(room)+"/"+p.path, object{}).fails(401, "M_MISSING_TOKEN")
		(&person{t: t, w: w, token: "x"}).do(p.method, in(room)+"/"+p.path, object{}).fails(401, "M_UNKNOWN_TOKEN")
	}
}

// Client-server API, "User Directory": who shares a room, who is in a public room or one that is open to the world, and
// oneself; nobody else.
func testUserDirectory(t *testing.T, w *world) {
	searcher := w.register(t, "searcher")
	finds := func(p *person) bool {
		return slices.Contains(searcher.do("POST", v3+"/user_directory/search", object{"search_term": p.id}).ok().texts("results.#.user_id"), p.id)
	}
	for what, q := range map[string]object{
		"public":         {"preset": "public_chat"},
		"world-readable": {"initial_state": list{object{"type": "m.room.history_visibility", "content": object{"history_visibility": "world_readable"}}}},
		"published":      {"visibility": "public", "preset": "private_chat"},
		"private":        {},
	} {
		p := w.register(t, "hidden")
		if finds(p) {
			t.Errorf("%s: found without a room", what)
		}
		room := p.create(q)
		if got := finds(p); got != (what != "private") {
			t.Errorf("%s: found: %v", what, got)
		}
		p.do("POST", in(room, "invite"), object{"user_id": searcher.id}).ok()
		searcher.join(room)
		if !finds(p) {
			t.Errorf("%s: not found in a room that is shared", what)
		}
	}
	if !finds(searcher) {
		t.Error("does not find oneself")
	}
}
