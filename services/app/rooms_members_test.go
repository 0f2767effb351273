package app_test

import (
	"net/url"
	"slices"
	"testing"
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
	guest.do("POST", in(open, "leave"), object{}).ok()
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
