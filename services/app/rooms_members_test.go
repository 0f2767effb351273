package app_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
)

// Client-server API, "Room membership".
func testMembership(t *testing.T, w *world) {
	anna, bert, carl := w.register(t, "anna"), w.register(t, "bert"), w.register(t, "carl")
	room := anna.create(object{})
	bert.do("POST", in(room, "join"), object{}).fails(403, "M_FORBIDDEN")
	bert.do("POST", in(room, "invite"), object{"user_id": carl.id}).fails(403, "M_FORBIDDEN")
	anna.do("POST", in(room, "invite"), object{"user_id": bert.id, "reason": "come"}).ok()
	anna.do("POST", in(room, "invite"), object{}).fails(400, "M_MISSING_PARAM")
	anna.do("POST", in(room, "invite"), object{"user_id": "bert"}).fails(400, "M_INVALID_PARAM")
	anna.do("POST", in(room, "invite"), object{"medium": "email", "address": "a@b.example", "id_server": "x", "id_access_token": "y"}).fails(403, "M_FORBIDDEN")
	if m := anna.state(room, "m.room.member", bert.id).ok(); m.str("membership") != "invite" || m.str("reason") != "come" {
		t.Errorf("invite: %s", m.raw)
	}
	bert.do("GET", in(room, "messages")+"?dir=b", nil).fails(403, "M_FORBIDDEN") // not in it yet
	if got := bert.do("POST", v3+"/join/"+url.PathEscape(room), object{"reason": "gladly"}).ok().str("room_id"); got != room {
		t.Errorf("joined %s", got)
	}
	if got := bert.do("GET", v3+"/joined_rooms", nil).ok().texts("joined_rooms"); !slices.Contains(got, room) {
		t.Errorf("joined rooms: %v", got)
	}
	bert.do("POST", in(room, "join"), object{}).ok() // twice is once
	bert.do("POST", in(room, "kick"), object{"user_id": anna.id}).fails(403, "M_FORBIDDEN")
	anna.do("POST", in(room, "kick"), object{"user_id": carl.id}).fails(403, "M_FORBIDDEN")
	anna.do("POST", in(room, "kick"), object{"user_id": bert.id, "reason": "rude"}).ok()
	if m := anna.state(room, "m.room.member", bert.id).ok(); m.str("membership") != "leave" || m.str("reason") != "rude" {
		t.Errorf("kick: %s", m.raw)
	}
	bert.do("PUT", in(room, "send", "m.room.message", "x"), object{}).fails(403, "M_FORBIDDEN")
	anna.do("POST", in(room, "unban"), object{"user_id": bert.id}).fails(403, "M_BAD_STATE")
	anna.do("POST", in(room, "ban"), object{"user_id": bert.id}).ok()
	anna.do("POST", in(room, "invite"), object{"user_id": bert.id}).fails(403, "M_FORBIDDEN")
	bert.do("POST", in(room, "join"), object{}).fails(403, "M_FORBIDDEN")
	anna.do("POST", in(room, "unban"), object{"user_id": bert.id}).ok()
	anna.do("POST", in(room, "invite"), object{"user_id": bert.id}).ok()
	bert.do("POST", in(room, "forget"), object{}).fails(400, "M_UNKNOWN")
	bert.do("POST", in(room, "leave"), object{"reason": "no"}).ok() // rejects
	bert.do("POST", in(room, "leave"), object{}).ok()
	bert.do("POST", in(room, "forget"), object{}).ok()
	bert.do("GET", in(room, "messages")+"?dir=b", nil).fails(403, "M_FORBIDDEN")
	carl.do("POST", in(room, "leave"), object{}).fails(403, "M_FORBIDDEN")
	carl.do("POST", in("!nowhere:"+w.name, "leave"), object{}).fails(403, "M_FORBIDDEN")
	carl.do("POST", in("!nowhere:"+w.name, "join"), object{}).fails(404, "M_NOT_FOUND")
	carl.do("POST", v3+"/join/nowhere", object{}).fails(400, "M_INVALID_PARAM")
	carl.do("POST", v3+"/join/"+url.PathEscape("#none:"+w.name), object{}).fails(404, "M_NOT_FOUND")
}

// Client-server API, "Knocking on rooms" and "Restricted rooms".
func testKnock(t *testing.T, w *world) {
	anna, bert, carl := w.register(t, "anna"), w.register(t, "bert"), w.register(t, "carl")
	room := anna.create(object{"initial_state": list{object{"type": "m.room.join_rules", "content": object{"join_rule": "knock"}}}})
	if got := bert.do("POST", v3+"/knock/"+url.PathEscape(room), object{"reason": "please"}).ok().str("room_id"); got != room {
		t.Errorf("knocked on %s", got)
	}
	if m := anna.state(room, "m.room.member", bert.id).ok(); m.str("membership") != "knock" || m.str("reason") != "please" {
		t.Errorf("knock: %s", m.raw)
	}
	anna.do("POST", in(room, "invite"), object{"user_id": bert.id}).ok()
	bert.join(room)
	carl.do("POST", v3+"/knock/"+url.PathEscape(room), nil).ok()
	carl.do("POST", in(room, "leave"), nil).ok() // retracts
	closed := anna.create(object{})
	carl.do("POST", v3+"/knock/"+url.PathEscape(closed), object{}).fails(403, "M_FORBIDDEN")

	space := anna.create(object{"preset": "public_chat"})
	restricted := anna.create(object{"initial_state": list{object{"type": "m.room.join_rules", "content": object{
		"join_rule": "restricted", "allow": list{object{"type": "m.room_membership", "room_id": space}}}}}})
	carl.do("POST", in(restricted, "join"), object{}).fails(403, "M_FORBIDDEN")
	carl.join(space)
	carl.join(restricted)
}

// Client-server API, "Guest Access".
func testGuests(t *testing.T, w *world) {
	anna, guest := w.register(t, "anna"), w.guest(t)
	open := anna.create(object{"preset": "public_chat", "initial_state": list{object{"type": "m.room.guest_access", "content": object{"guest_access": "can_join"}}}})
	closed := anna.create(object{"preset": "public_chat"})
	guest.do("POST", in(closed, "join"), object{}).fails(403, "M_GUEST_ACCESS_FORBIDDEN")
	guest.do("POST", in("!nowhere:"+w.name, "join"), object{}).fails(403, "M_GUEST_ACCESS_FORBIDDEN")
	guest.do("PUT", in(closed, "state", "m.room.member", guest.id), object{"membership": "join"}).fails(403, "M_GUEST_ACCESS_FORBIDDEN")
	guest.join(open)
	guest.say(open, "hello")
	guest.do("GET", in(open, "messages")+"?dir=b", nil).ok()
	guest.do("POST", v3+"/createRoom", object{}).fails(403, "M_GUEST_ACCESS_FORBIDDEN")
	guest.do("POST", in(open, "invite"), object{"user_id": anna.id}).fails(403, "M_GUEST_ACCESS_FORBIDDEN")
	for _, read := range []string{"state", "state/m.room.create/", "members"} {
		guest.do("GET", in(open)+"/"+read, nil).ok()
	}
	guest.do("POST", in(open, "leave"), object{}).ok()

	guest.do("GET", v3+"/sync?timeout=0", nil).ok()
	device := v3 + "/devices/" + guest.do("GET", v3+"/devices", nil).ok().str("devices.0.device_id")
	guest.do("GET", device, nil).ok()
	guest.do("PUT", device, object{"display_name": "Mine"}).ok()
	guest.do("DELETE", device, object{}).fails(403, "M_GUEST_ACCESS_FORBIDDEN")
	profile := v3 + "/profile/" + guest.id
	guest.do("PUT", profile+"/displayname", object{"displayname": "Guest"}).ok()
	guest.do("DELETE", profile+"/displayname", nil).ok()
	guest.do("PUT", profile+"/avatar_url", object{"avatar_url": "mxc://x/y"}).fails(403, "M_GUEST_ACCESS_FORBIDDEN")
	guest.do("PUT", profile+"/m.tz", object{"m.tz": "Europe/Berlin"}).fails(403, "M_GUEST_ACCESS_FORBIDDEN")
	guest.do("DELETE", profile+"/avatar_url", nil).fails(403, "M_GUEST_ACCESS_FORBIDDEN")
	guest.do("PUT", v3+"/sendToDevice/m.x/1", object{"messages": object{anna.id: object{"*": object{}}}}).ok()
	guest.do("POST", v3+"/keys/upload", object{}).ok()
	guest.do("POST", v3+"/keys/query", object{"device_keys": object{anna.id: list{}}}).ok()
	guest.do("POST", v3+"/keys/claim", object{"one_time_keys": object{}}).ok()
	guest.do("POST", v3+"/keys/signatures/upload", object{}).fails(403, "M_GUEST_ACCESS_FORBIDDEN")
}

// Client-server API, "Guest Access", "Server behaviour": guests leave a room when it does not admit them any more; others stay.
func testGuestsRemoved(t *testing.T, w *world) {
	for _, end := range []string{"changed", "redacted"} {
		anna, bert, guest, invited := w.register(t, "anna"), w.register(t, "bert"), w.guest(t), w.guest(t)
		room := anna.create(object{"preset": "public_chat"})
		access := anna.set(room, "m.room.guest_access", "", object{"guest_access": "can_join"})
		bert.join(room)
		guest.join(room)
		anna.do("POST", in(room, "invite"), object{"user_id": invited.id}).ok()
		if end == "changed" {
			anna.set(room, "m.room.guest_access", "", object{"guest_access": "forbidden"})
		} else {
			anna.do("PUT", in(room, "redact", access, "1"), object{}).ok()
		}
		for _, p := range []*person{guest, invited} {
			eventually(t, "a guest leaves, as guest access was "+end, func() bool {
				return anna.state(room, "m.room.member", p.id).ok().str("membership") == "leave"
			})
		}
		if is := anna.state(room, "m.room.member", bert.id).ok().str("membership"); is != "join" {
			t.Errorf("%s: a user who is no guest: %s", end, is)
		}
		guest.do("POST", in(room, "join"), object{}).fails(403, "M_GUEST_ACCESS_FORBIDDEN")
	}
}

// Client-server API, "Joining rooms", and "Restricted rooms": what else the body of a join has becomes part of the event, but
// for who vouches for the user.
func testJoinContent(t *testing.T, w *world) {
	anna := w.register(t, "anna")
	room := anna.create(object{"preset": "public_chat"})
	for _, path := range []string{in(room, "join"), v3 + "/join/" + url.PathEscape(room)} {
		bert := w.register(t, "bert")
		bert.do("POST", path, object{"reason": "why not", "org.example": object{"a": 1}, "membership": "ban", "displayname": "Bert",
			"join_authorised_via_users_server": anna.id, "third_party_signed": object{}}).ok()
		got := bert.state(room, "m.room.member", bert.id).ok()
		if got.str("membership") != "join" || got.str("reason") != "why not" || got.get(`org\.example.a`).Int() != 1 || got.str("displayname") != "Bert" ||
			got.get("join_authorised_via_users_server").Exists() || got.get("third_party_signed").Exists() {
			t.Errorf("%s: %s", path, got.raw)
		}
		bert.do("PUT", in(room, "state", "m.room.member", bert.id), object{"membership": "join", "join_authorised_via_users_server": anna.id}).ok()
		if got := bert.state(room, "m.room.member", bert.id).ok(); got.get("join_authorised_via_users_server").Exists() {
			t.Errorf("%s", got.raw)
		}
	}
}

// MSC4289 and MSC4291: creators have no power level, and a room that exists has its create event: 400.
func testCreators(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	levels := func(user string) object { return object{"users": object{user: 100}} }
	initial := func(user string) list {
		return list{object{"type": "m.room.power_levels", "content": levels(user)}}
	}
	for _, q := range []object{
		{"power_level_content_override": levels(anna.id)}, {"initial_state": initial(anna.id)},
		{"initial_state": initial(bert.id), "creation_content": object{"additional_creators": list{bert.id}}},
		{"creation_content": object{"additional_creators": list{"nobody"}}}, {"creation_content": object{"additional_creators": bert.id}},
	} {
		q["room_version"] = "12"
		if got := anna.do("POST", v3+"/createRoom", q); got.status != 400 {
			t.Errorf("%v: %d %s", q, got.status, got.raw)
		}
	}
	room := anna.create(object{"room_version": "12", "creation_content": object{"additional_creators": list{bert.id}}})
	for _, user := range []string{anna.id, bert.id} {
		anna.do("PUT", in(room, "state", "m.room.power_levels", ""), levels(user)).fails(400, "M_BAD_JSON")
	}
	anna.set(room, "m.room.power_levels", "", levels("@carl:"+w.name))
	anna.do("POST", in(room, "upgrade"), object{"new_version": "12", "additional_creators": list{"nobody"}}).fails(400, "M_INVALID_PARAM")
	anna.do("POST", in(room, "upgrade"), object{"new_version": "12", "additional_creators": bert.id}).fails(400, "M_BAD_JSON")
	anna.do("POST", in(room, "upgrade"), object{"new_version": "11", "additional_creators": list{"nobody"}}).ok() // it knows none
	for _, version := range []string{"11", "12"} {
		room := anna.create(object{"room_version": version})
		anna.do("PUT", in(room, "state", "m.room.create", ""), object{"room_version": version, "x": 1}).fails(400, "M_INVALID_PARAM")
		anna.do("PUT", in(room, "send", "m.room.create", "1"), object{"room_version": version}).fails(400, "M_INVALID_PARAM")
	}
}

// Client-server API, "Room Upgrades", as Synapse: what users have set for the room goes along.
func testUpgradeCarries(t *testing.T, w *world) {
	anna, bert, carl := w.register(t, "anna"), w.register(t, "bert"), w.register(t, "carl")
	old := anna.create(object{"preset": "public_chat", "room_version": "11"})
	data := func(p *person, rest string) string { return v3 + "/user/" + p.id + rest }
	for _, p := range []*person{bert, carl} {
		p.join(old)
		p.do("PUT", data(p, "/rooms/"+url.PathEscape(old)+"/tags/m.favourite"), object{"order": 0.5}).ok()
		p.do("PUT", data(p, "/account_data/m.direct"), object{anna.id: list{"!x:y", old}, carl.id: list{"!x:y"}}).ok()
		rules := v3 + "/pushrules/global/"
		p.do("PUT", rules+"room/"+url.PathEscape(old), object{"actions": list{"notify"}}).ok()
		p.do("PUT", rules+"override/"+url.PathEscape(old), object{"actions": list{},
			"conditions": list{object{"kind": "event_match", "key": "room_id", "pattern": old}}}).ok()
		p.do("PUT", rules+"override/"+url.PathEscape(old)+"/enabled", object{"enabled": false}).ok()
		p.do("PUT", rules+"override/other", object{"actions": list{}, "conditions": list{object{"kind": "event_match", "key": "type", "pattern": "x"}}}).ok()
	}
	carl.do("POST", in(old, "leave"), object{}).ok() // and comes into the new room later
	successor := anna.do("POST", in(old, "upgrade"), object{"new_version": "12"}).ok().str("replacement_room")
	has := func(p *person) bool {
		direct := p.do("GET", data(p, "/account_data/m.direct"), nil).ok().get("@this").Map()
		rules := p.do("GET", v3+"/pushrules/global/", nil).ok()
		mute := rules.get(fmt.Sprintf(`override.#(rule_id==%q)`, successor))
		return p.do("GET", data(p, "/rooms/"+url.PathEscape(successor)+"/tags"), nil).ok().get(`tags.m\.favourite.order`).Num == 0.5 &&
			direct[anna.id].String() == fmt.Sprintf("[%q,%q,%q]", "!x:y", old, successor) && direct[carl.id].String() == `["!x:y"]` &&
			rules.get(fmt.Sprintf(`room.#(rule_id==%q).actions.0`, successor)).Str == "notify" &&
			mute.Get("conditions.0.pattern").Str == successor && mute.Get("enabled").Type == gjson.False
	}
	eventually(t, "bert's settings are there", func() bool { return has(bert) })
	if has(carl) {
		t.Error("somebody who had left")
	}
	carl.join(successor)
	if !has(carl) {
		t.Error("not on the join")
	}
	// Somebody else's room that claims to be the successor gets nothing.
	liar := anna.create(object{"preset": "public_chat", "creation_content": object{"predecessor": object{"room_id": old, "event_id": "$x"}}})
	bert.join(liar)
	if got := bert.do("GET", data(bert, "/rooms/"+url.PathEscape(liar)+"/tags"), nil).ok(); len(got.get("tags").Map()) > 0 {
		t.Errorf("%s", got.raw)
	}
}

// Client-server API, "Stripped state", and MSC4319: who is invited is shown who invites, also here.
func testInviterShown(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	anna.do("PUT", v3+"/profile/"+anna.id+"/displayname", object{"displayname": "Anna"}).ok()
	room := anna.create(object{"invite": list{bert.id}, "is_direct": true, "preset": "trusted_private_chat"})
	shown := bert.do("GET", v3+"/sync?timeout=0", nil).ok().get("rooms.invite").Map()[room].Get(`invite_state.events.#(type=="m.room.member")#`).Array()
	if len(shown) != 2 || shown[0].Get("state_key").Str != anna.id || shown[0].Get("content.displayname").Str != "Anna" || shown[1].Get("state_key").Str != bert.id {
		t.Errorf("%s", shown)
	}
}

// Client-server API, "Invite permission": M_INVITE_BLOCKED.
func testInvitePermission(t *testing.T, w *world) {
	anna, bert := w.register(t, "anna"), w.register(t, "bert")
	room := anna.create(object{})
	config := v3 + "/user/" + bert.id + "/account_data/m.invite_permission_config"
	bert.do("PUT", config, object{"default_action": "block"}).ok()
	anna.do("POST", in(room, "invite"), object{"user_id": bert.id}).fails(403, "M_INVITE_BLOCKED")
	anna.do("PUT", in(room, "state", "m.room.member", bert.id), object{"membership": "invite"}).fails(403, "M_INVITE_BLOCKED")
	anna.do("POST", v3+"/createRoom", object{"invite": list{bert.id}}).fails(403, "M_INVITE_BLOCKED")
	bert.do("PUT", config, object{}).ok()
	anna.do("POST", in(room, "invite"), object{"user_id": bert.id}).ok()

	// MSC4155: who is blocked is refused, an invite of an ignored one is made, and not told of as long as it is ignored.
	carl := w.register(t, "carl")
	told := func() bool {
		return bert.do("GET", v3+"/sync?timeout=0", nil).ok().get("rooms.invite").Map()[room].Exists()
	}
	bert.do("PUT", config, object{"blocked_users": list{carl.id}}).ok()
	if other := carl.create(object{}); !told() {
		t.Error("an invite of somebody else is not told")
	} else {
		carl.do("POST", in(other, "invite"), object{"user_id": bert.id}).fails(403, "M_INVITE_BLOCKED")
	}
	bert.do("PUT", config, object{"ignored_servers": list{"*"}}).ok()
	eventually(t, "an ignored invite is not told", func() bool { return !told() })
	anna.do("POST", in(anna.create(object{}), "invite"), object{"user_id": bert.id}).ok()
	bert.do("DELETE", strings.Replace(config, v3, "/_matrix/client/unstable/org.matrix.msc3391", 1), nil).ok()
	eventually(t, "an invite is told that is ignored no more", told)
}

// Client-server API, "Getting events for a room": GET /members and /joined_members.
func testMembers(t *testing.T, w *world) {
	anna, bert, carl := w.register(t, "anna"), w.register(t, "bert"), w.register(t, "carl")
	anna.do("PUT", v3+"/profile/"+anna.id+"/displayname", object{"displayname": "Anna"}).ok()
	room := anna.create(object{"preset": "public_chat"})
	at := anna.do("GET", in(room, "messages")+"?dir=b&limit=1", nil).ok().str("start")
	bert.join(room)
	anna.do("POST", in(room, "invite"), object{"user_id": carl.id}).ok()
	who := func(p *person, query string) []string {
		users := p.do("GET", in(room, "members")+query, nil).ok().texts("chunk.#.state_key")
		slices.Sort(users)
		return users
	}
	for query, want := range map[string][]string{
		"":                       {anna.id, bert.id, carl.id},
		"?membership=join":       {anna.id, bert.id},
		"?not_membership=join":   {carl.id},
		"?membership=ban":        nil,
		"?at=" + at:              {anna.id},
		"?not_membership=invite": {anna.id, bert.id},
	} {
		if got := who(anna, query); !slices.Equal(got, want) {
			t.Errorf("members%s: %v, want %v", query, got, want)
		}
	}
	anna.do("GET", in(room, "members")+"?membership=x", nil).fails(400, "M_INVALID_PARAM")
	anna.do("GET", in(room, "members")+"?at=x", nil).fails(400, "M_INVALID_PARAM")
	joined := anna.do("GET", in(room, "joined_members"), nil).ok()
	if len(joined.get("joined").Map()) != 2 || joined.get("joined").Map()[anna.id].Get("display_name").Str != "Anna" {
		t.Errorf("joined members: %s", joined.raw)
	}
	carl.do("GET", in(room, "joined_members"), nil).fails(403, "M_FORBIDDEN")
	carl.do("GET", in(room, "members"), nil).fails(403, "M_FORBIDDEN")
	// Who left sees those who were there.
	bert.do("POST", in(room, "leave"), object{}).ok()
	w.register(t, "dora").join(room)
	want := []string{anna.id, bert.id, carl.id}
	if got := who(bert, ""); !slices.Equal(got, want) {
		t.Errorf("members for who left: %v", got)
	}
	// Tokens from before one's own join, and from before the room.
	dora := w.register(t, "dora")
	early := dora.client("")
	early.poll(0)
	before := url.QueryEscape(early.since)
	dora.join(room)
	if got := who(dora, "?at="+before); slices.Contains(got, dora.id) || !slices.Contains(got, bert.id) {
		t.Errorf("members before the join: %v", got)
	}
	if got := dora.page(room, "?dir=f&limit=1&from="+before).str("chunk.0.state_key"); got != dora.id {
		t.Errorf("messages from before the join begin with that of %q", got)
	}
	closed := anna.create(object{"preset": "public_chat", "initial_state": list{object{"type": "m.room.history_visibility", "content": object{"history_visibility": "joined"}}}})
	anna.say(closed, "for members only")
	dora.join(closed)
	dora.do("GET", in(closed, "members")+"?at="+before, nil).fails(403, "M_FORBIDDEN")
}
