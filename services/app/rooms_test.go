package app_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// Rooms through the client API of a cluster of two processes, with real room owners behind it.
func TestRooms(t *testing.T) {
	w := newWorld(t)
	for name, test := range map[string]func(*testing.T, *world){
		"presets": testPresets, "create options": testCreateOptions, "create refusals": testCreateRefusals, "versions": testVersions,
		"transactions": testTransactions, "state": testState, "canonical alias": testCanonicalAlias, "redaction": testRedaction,
		"membership": testMembership, "knock": testKnock, "guests": testGuests, "invite permission": testInvitePermission,
		"messages": testMessages, "messages for who left": testMessagesLeft, "ignored users": testIgnoredPages, "previews": testPreviews, "context": testContext,
		"members": testMembers, "timestamp": testTimestamp, "receipts": testReceipts, "typing": testTyping,
		"aliases": testAliases, "directory": testDirectory, "user directory": testUserDirectory, "summary": testSummary, "hierarchy": testHierarchy, "upgrade": testUpgrade,
		"bad input": testBadInput, "join content": testJoinContent, "creators": testCreators, "upgrade carries": testUpgradeCarries,
		"inviter shown": testInviterShown, "membership on events": testMembershipOnEvents, "owned state": testOwnedState, "guests removed": testGuestsRemoved,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, w)
		})
	}
}

// Client-server API, "Creation": the table of presets.
func testPresets(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	for _, tc := range []struct {
		preset, visibility, join, guests string
		power                            int64
	}{
		{"private_chat", "", "invite", "can_join", 0},
		{"trusted_private_chat", "", "invite", "can_join", 100},
		{"public_chat", "", "public", "", 0},
		{"", "public", "public", "", 0},
		{"", "private", "invite", "can_join", 0},
	} {
		q := object{"invite": list{bert.id}, "room_version": "11"}
		if tc.preset != "" {
			q["preset"] = tc.preset
		}
		if tc.visibility != "" {
			q["visibility"] = tc.visibility
		}
		room := anna.create(q)
		what := tc.preset + "/" + tc.visibility
		if got := anna.state(room, "m.room.join_rules", "").ok().str("join_rule"); got != tc.join {
			t.Errorf("%s: join rule %q", what, got)
		}
		if got := anna.state(room, "m.room.history_visibility", "").ok().str("history_visibility"); got != "shared" {
			t.Errorf("%s: history visibility %q", what, got)
		}
		if got := anna.state(room, "m.room.guest_access", "").str("guest_access"); got != tc.guests {
			t.Errorf("%s: guest access %q", what, got)
		}
		levels := anna.state(room, "m.room.power_levels", "").ok()
		if got := levels.get("users." + strings.ReplaceAll(bert.id, ".", `\.`)).Int(); got != tc.power {
			t.Errorf("%s: power of an invitee: %d", what, got)
		}
		if got := levels.get("users." + strings.ReplaceAll(anna.id, ".", `\.`)).Int(); got != 100 {
			t.Errorf("%s: power of the creator: %d", what, got)
		}
		if got := anna.state(room, "m.room.member", bert.id).ok().str("membership"); got != "invite" {
			t.Errorf("%s: membership of an invitee: %q", what, got)
		}
	}
}

// Client-server API, "Creation"; room version 12.
func testCreateOptions(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	anna.do("PUT", v3+"/profile/"+anna.id+"/displayname", object{"displayname": "Anna"}).ok()
	name := fmt.Sprintf("guild%d", time.Now().UnixNano())
	room := anna.create(object{
		"preset": "trusted_private_chat", "name": "Guild", "topic": "Salt and herring", "is_direct": true, "room_alias_name": name,
		"invite": list{bert.id, bert.id}, "creation_content": object{"m.federate": false, "type": "m.space", "creator": "@evil:x", "room_version": "1"},
		"power_level_content_override": object{"events_default": 7},
		"initial_state":                list{object{"type": "m.room.join_rules", "content": object{"join_rule": "knock"}}, object{"type": "x.y", "state_key": "k", "content": object{"a": 1}}},
	})
	create := anna.state(room, "m.room.create", "").ok()
	if create.str("room_version") != "12" || create.str("type") != "m.space" || create.get("m\\.federate").Bool() || create.get("creator").Exists() ||
		create.str("additional_creators") != `["`+bert.id+`"]` {
		t.Errorf("create: %s", create.raw)
	}
	levels := anna.state(room, "m.room.power_levels", "").ok()
	if levels.get("users").Raw != "{}" || levels.get("events_default").Int() != 7 || levels.get(`events.m\.room\.tombstone`).Int() != 150 {
		t.Errorf("power levels: %s", levels.raw)
	}
	if topic := anna.state(room, "m.room.topic", "").ok(); topic.str("topic") != "Salt and herring" || topic.str(`m\.topic.m\.text.0.body`) != "Salt and herring" {
		t.Errorf("topic: %s", topic.raw)
	}
	if got := anna.state(room, "m.room.name", "").ok().str("name"); got != "Guild" {
		t.Errorf("name: %s", got)
	}
	if got := anna.state(room, "m.room.join_rules", "").ok().str("join_rule"); got != "knock" {
		t.Errorf("initial state lost against the preset: %s", got)
	}
	alias := "#" + name + ":" + w.name
	if got := anna.state(room, "m.room.canonical_alias", "").ok().str("alias"); got != alias {
		t.Errorf("canonical alias: %s", got)
	}
	if got := anna.do("GET", v3+"/directory/room/"+url.PathEscape(alias), nil).ok().str("room_id"); got != room {
		t.Errorf("alias names %s", got)
	}
	if m := anna.state(room, "m.room.member", anna.id).ok(); m.str("displayname") != "Anna" {
		t.Errorf("member: %s", m.raw)
	}
	if m := anna.state(room, "m.room.member", bert.id).ok(); !m.get("is_direct").Bool() {
		t.Errorf("invite: %s", m.raw)
	}
	// The order of the specification.
	bert.join(room)
	types := anna.do("GET", in(room, "messages")+"?dir=f&limit=100", nil).ok().texts("chunk.#.type")
	want := []string{"m.room.create", "m.room.member", "m.room.power_levels", "m.room.canonical_alias", "m.room.history_visibility",
		"m.room.guest_access", "m.room.join_rules", "x.y", "m.room.name", "m.room.topic", "m.room.member", "m.room.member"}
	if !slices.Equal(types, want) {
		t.Errorf("order: %v", types)
	}
}

func testCreateRefusals(t *testing.T, w *world) {
	anna := w.register(t, "anna")
	name := fmt.Sprintf("taken%d", time.Now().UnixNano())
	anna.create(object{"room_alias_name": name})
	for _, tc := range []struct {
		what string
		q    any
		code string
	}{
		{"alias in use", object{"room_alias_name": name}, "M_ROOM_IN_USE"},
		{"alias with a space", object{"room_alias_name": "a b"}, "M_INVALID_PARAM"},
		{"alias with a colon", object{"room_alias_name": "a:b"}, "M_INVALID_PARAM"},
		{"version", object{"room_version": "ahoy"}, "M_UNSUPPORTED_ROOM_VERSION"},
		{"version of a wrong type", object{"room_version": 11}, "M_BAD_JSON"},
		{"invitee", object{"invite": list{"nobody"}}, "M_INVALID_PARAM"},
		{"preset", object{"preset": "x"}, "M_INVALID_PARAM"},
		{"visibility", object{"visibility": "x"}, "M_INVALID_PARAM"},
		{"initial state without type", object{"initial_state": list{object{"content": object{}}}}, "M_BAD_JSON"},
		{"initial state without content", object{"initial_state": list{object{"type": "x"}}}, "M_BAD_JSON"},
		{"second create event", object{"initial_state": list{object{"type": "m.room.create", "content": object{}}}}, "M_INVALID_ROOM_STATE"},
		{"powerless creator", object{"room_version": "11", "power_level_content_override": object{"users": object{}}}, "M_INVALID_ROOM_STATE"},
		{"creator with a level", object{"power_level_content_override": object{"users": object{anna.id: 100}}}, "M_INVALID_ROOM_STATE"},
		{"level that is a text", object{"power_level_content_override": object{"ban": "50"}}, "M_INVALID_ROOM_STATE"},
		{"not JSON", "{", "M_NOT_JSON"},
	} {
		if a := anna.do("POST", v3+"/createRoom", tc.q); a.status != 400 || a.str("errcode") != tc.code {
			t.Errorf("%s: %d %s, want %s", tc.what, a.status, a.raw, tc.code)
		}
	}
	anna.do("POST", v3+"/createRoom", object{"invite_3pid": list{object{"medium": "email", "address": "a@b.example", "id_server": "x", "id_access_token": "y"}}}).fails(403, "M_FORBIDDEN")
	anna.do("POST", v3+"/createRoom", object{"invite": list{anna.id}}).fails(403, "M_FORBIDDEN")
	// A failed request gives its alias back.
	name = fmt.Sprintf("free%d", time.Now().UnixNano())
	bad := object{"room_alias_name": name, "initial_state": list{object{"type": "m.room.create", "content": object{}}}}
	anna.do("POST", v3+"/createRoom", bad).fails(400, "M_INVALID_ROOM_STATE")
	anna.do("GET", v3+"/directory/room/"+url.PathEscape("#"+name+":"+w.name), nil).fails(404, "M_NOT_FOUND")
	anna.create(object{"room_alias_name": name})
}

// "Room Versions": rooms of all versions can be made, joined, used and redacted in.
func testVersions(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	for v := 1; v <= 12; v++ {
		room := anna.create(object{"room_version": fmt.Sprint(v), "preset": "public_chat"})
		bert.join(room)
		e := bert.say(room, "x")
		bert.do("PUT", in(room, "redact", e, "r"), object{"reason": "typo"}).ok()
		got := anna.do("GET", in(room, "event", e), nil).ok()
		if got.get("content").Raw != "{}" || !got.get("unsigned.redacted_because").Exists() {
			t.Errorf("version %d: %s", v, got.raw)
		}
	}
}

// MSC3757: in rooms of its versions state belongs to the user with whose id its key begins.
func testOwnedState(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	for _, version := range []string{"org.matrix.msc3757.10", "org.matrix.msc3757.11"} {
		room := anna.create(object{"room_version": version, "preset": "public_chat", "power_level_content_override": object{"state_default": 0}})
		bert.join(room)
		long := bert.id + "_" + strings.Repeat("x", 255)
		for _, key := range []string{bert.id, bert.id + "_device", long} {
			bert.set(room, "org.example", key, object{"a": 1})
			anna.set(room, "org.example", key, object{"a": 2}) // who has more power
			if got := anna.state(room, "org.example", key).ok().get("a").Int(); got != 2 {
				t.Errorf("%s: %d", version, got)
			}
		}
		bert.do("PUT", in(room, "state", "org.example", anna.id+"_device"), object{}).fails(403, "M_FORBIDDEN")
		bert.do("PUT", in(room, "state", "org.example", "@nobody_x"), object{}).fails(403, "M_FORBIDDEN")
		bert.do("PUT", in(room, "state", "org.example", long+"x"), object{}).fails(403, "M_FORBIDDEN")
		bert.do("PUT", in(room, "state", "org.example", strings.Repeat("x", 512)), object{}).fails(413, "M_TOO_LARGE")
	}
	room := anna.create(object{"preset": "public_chat"})
	anna.do("PUT", in(room, "state", "org.example", anna.id+"_device"), object{}).fails(403, "M_FORBIDDEN")
	if versions := anna.do("GET", v3+"/capabilities", nil).ok().get("capabilities.m\\.room_versions.available").Map(); versions["org.matrix.msc3757.11"].Str != "unstable" {
		t.Errorf("versions: %v", versions)
	}
}

// Client-server API, "Transaction identifiers".
func testTransactions(t *testing.T, w *world) {
	anna := w.register(t, "anna")
	room := anna.create(object{})
	path := in(room, "send", "m.room.message", "tx")
	first := anna.do("PUT", path, object{"body": "a"}).ok().str("event_id")
	for range 4 {
		if again := anna.do("PUT", path, object{"body": "b"}).ok().str("event_id"); again != first {
			t.Errorf("another event for the same transaction: %s", again)
		}
	}
	e := anna.do("GET", in(room, "event", first), nil).ok()
	if e.str("unsigned.transaction_id") != "tx" || e.str("content.body") != "a" || e.str("room_id") != room {
		t.Errorf("event: %s", e.raw)
	}
	redact := in(room, "redact", first, "rx")
	if a, b := anna.do("PUT", redact, object{}).ok().str("event_id"), anna.do("PUT", redact, object{}).ok().str("event_id"); a != b {
		t.Errorf("two redactions for one transaction")
	}
}

// Client-server API, "Getting events for a room" and "Sending events to a room".
func testState(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{"preset": "public_chat"})
	first := anna.set(room, "m.room.name", "", object{"name": "One"})
	if again := anna.set(room, "m.room.name", "", object{"name": "One"}); again != first {
		t.Errorf("a state event that changes nothing was sent again")
	}
	anna.do("PUT", in(room, "state", "m.room.name"), object{"name": "Two"}).ok()
	if got := anna.do("GET", in(room, "state", "m.room.name"), nil).ok().str("name"); got != "Two" {
		t.Errorf("name: %s", got)
	}
	e := anna.do("GET", in(room, "state", "m.room.name", "")+"?format=event", nil).ok()
	if e.str("content.name") != "Two" || e.str("unsigned.prev_content.name") != "One" || e.get("state_key").Str != "" || e.str("sender") != anna.id {
		t.Errorf("event: %s", e.raw)
	}
	anna.set(room, "x.y", "key/with slash", object{"a": 1})
	if got := anna.state(room, "x.y", "key/with slash").ok().get("a").Int(); got != 1 {
		t.Errorf("state key with a slash: %d", got)
	}
	anna.state(room, "x.y", "none").fails(404, "M_NOT_FOUND")
	if all := anna.do("GET", in(room, "state"), nil).ok().texts("#.type"); !slices.Contains(all, "m.room.create") || !slices.Contains(all, "x.y") {
		t.Errorf("state: %v", all)
	}
	bert.do("GET", in(room, "state"), nil).fails(403, "M_FORBIDDEN")
	bert.state(room, "m.room.name", "").fails(403, "M_FORBIDDEN")
	bert.do("PUT", in(room, "state", "m.room.name"), object{"name": "x"}).fails(403, "M_FORBIDDEN")
	bert.join(room)
	bert.do("PUT", in(room, "state", "m.room.name"), object{"name": "x"}).fails(403, "M_FORBIDDEN")
	bert.do("PUT", in(room, "send", "m.room.message", "t"), `[]`).fails(400, "M_BAD_JSON")
	bert.do("PUT", in(room, "send", "m.room.message", "t"), object{"body": 1.5}).fails(400, "M_BAD_JSON")
	bert.do("PUT", in(room, "send", "m.room.message", "t"), object{"body": strings.Repeat("x", 65536)}).fails(413, "M_TOO_LARGE")
	// A join and an invite as plain state events.
	carl := w.register(t, "carl")
	carl.do("PUT", v3+"/profile/"+carl.id+"/displayname", object{"displayname": "Carl"}).ok()
	anna.set(room, "m.room.member", carl.id, object{"membership": "invite"})
	carl.set(room, "m.room.member", carl.id, object{"membership": "join"})
	if m := anna.state(room, "m.room.member", carl.id).ok(); m.str("membership") != "join" || m.str("displayname") != "Carl" {
		t.Errorf("member: %s", m.raw)
	}
	carl.set(room, "m.room.member", carl.id, object{"membership": "leave"})
	anna.do("PUT", in(room, "state", "m.room.member", carl.id), object{"membership": "king"}).fails(400, "M_BAD_JSON")
	anna.do("PUT", in(room, "state", "m.room.member", "carl"), object{"membership": "ban"}).fails(400, "M_INVALID_PARAM")
	nowhere := "!nowhere:" + w.name
	anna.do("PUT", in(nowhere, "send", "m.room.message", "t"), object{}).fails(403, "M_FORBIDDEN")
	anna.do("GET", in(nowhere, "state"), nil).fails(403, "M_FORBIDDEN")
	anna.do("GET", in("nowhere", "state"), nil).fails(400, "M_INVALID_PARAM")
}

// Client-server API, "m.room.canonical_alias": M_BAD_ALIAS.
func testCanonicalAlias(t *testing.T, w *world) {
	anna := w.register(t, "anna")
	room, other := anna.create(object{}), anna.create(object{})
	suffix := fmt.Sprintf("%d:%s", time.Now().UnixNano(), w.name)
	mine, theirs := "#mine"+suffix, "#theirs"+suffix
	anna.do("PUT", v3+"/directory/room/"+url.PathEscape(mine), object{"room_id": room}).ok()
	anna.do("PUT", v3+"/directory/room/"+url.PathEscape(theirs), object{"room_id": other}).ok()
	put := func(content object) *reply {
		return anna.do("PUT", in(room, "state", "m.room.canonical_alias"), content)
	}
	put(object{"alias": theirs}).fails(400, "M_BAD_ALIAS")
	put(object{"alias": "#none" + suffix}).fails(400, "M_BAD_ALIAS")
	put(object{"alias": mine, "alt_aliases": list{theirs}}).fails(400, "M_BAD_ALIAS")
	put(object{"alias": "none"}).fails(400, "M_INVALID_PARAM")
	put(object{"alias": 1}).fails(400, "M_BAD_JSON")
	put(object{"alias": mine, "alt_aliases": list{mine}}).ok()
	// One that stands may stay when it is gone.
	anna.do("DELETE", v3+"/directory/room/"+url.PathEscape(mine), nil).ok()
	if c := anna.state(room, "m.room.canonical_alias", "").ok(); string(c.raw) != "{}" {
		t.Errorf("the deleted alias is canonical still: %s", c.raw)
	}
	put(object{}).ok()
}

// Client-server API, "Redactions".
func testRedaction(t *testing.T, w *world) {
	anna, bert, carl := w.register(t, "anna"), w.register(t, "bert"), w.register(t, "carl")
	room := anna.create(object{"preset": "public_chat"})
	bert.join(room)
	carl.join(room)
	e := bert.say(room, "secret")
	carl.do("PUT", in(room, "redact", e, "1"), object{}).fails(403, "M_FORBIDDEN")
	anna.do("PUT", in(room, "redact", e, "2"), object{"reason": "spam"}).ok()
	got := carl.do("GET", in(room, "event", e), nil).ok()
	if got.get("content.body").Exists() || got.str("unsigned.redacted_because.content.reason") != "spam" || got.str("unsigned.redacted_because.content.redacts") != e {
		t.Errorf("redacted: %s", got.raw)
	}
	e = bert.say(room, "again")
	bert.send(room, "m.room.redaction", object{"redacts": e})
	if got := carl.do("GET", in(room, "event", e), nil).ok(); got.get("content.body").Exists() {
		t.Errorf("redacted by send: %s", got.raw)
	}
	bert.do("PUT", in(room, "redact", "$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "3"), object{}).fails(404, "M_NOT_FOUND")
	// Who may redact in one room does not in others, and is not told that it has worked.
	for range 4 { // of other partitions, too
		other := anna.create(object{})
		anna.do("PUT", in(room, "redact", anna.say(other, "elsewhere"), fmt.Sprint("o", txns.Add(1))), object{}).fails(400, "M_UNKNOWN")
	}
}
