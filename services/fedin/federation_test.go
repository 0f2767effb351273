package fedin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/roomdir"
	logv1 "hanse/proto/log/v1"
	roomv1 "hanse/proto/room/v1"
)

const public = `{"join_rule":"public"}`

// The server-server API over HTTP, with the room role behind it.
func TestFederationIn(t *testing.T) {
	w := newInbound(t)
	for name, test := range map[string]func(*testing.T, *inbound){
		"join": testFedJoin, "join without members": testFedJoinOmit, "join refused": testFedJoinRefused, "leave": testFedLeave, "knock": testFedKnock, "invite": testFedInvite,
		"stripped invite": testFedInviteStripped, "create event in chains": testFedChainCreate,
		"events": testFedEvents, "transaction": testFedTransaction, "transaction of others": testFedTransactionOthers,
		"acl": testFedACL, "visibility": testFedVisibility, "history": testFedHistory, "missing": testFedMissing,
		"ephemeral": testFedEphemeral, "ephemeral of unknown members": testFedEphemeralPartial, "device lists": testFedDeviceLists, "directory": testFedDirectory, "spaces": testFedSpaces,
	} {
		t.Run(name, func(t *testing.T) {
			own := *w
			own.t = t
			test(t, &own)
		})
	}
}

// Server-server API, "Joining Rooms".
func testFedJoin(t *testing.T, w *inbound) {
	anna := w.account("anna")
	for _, version := range []string{"10", "11", "12"} {
		room := w.create(version, anna, public)
		p := w.peer(id.Server("join" + version + ".test"))
		j := p.join(room, p.user("eve"))
		if e := w.stored(room, j.last.ID); e == nil || e.Flags != 0 {
			t.Fatalf("version %s: the join is not there: %+v", version, e)
		}
		// A second time the same answer comes.
		again := p.do("PUT", fedv2Path+"/send_join/"+url.PathEscape(string(room))+"/x", j.last.JSON).ok()
		if got := again.list("state.#.type"); !slices.Contains(got, "m.room.create") || !slices.Contains(got, "m.room.power_levels") {
			t.Errorf("state: %v", got)
		}
		if len(again.list("auth_chain")) < 2 || again.get("members_omitted").Bool() {
			t.Errorf("%.300s", again.raw)
		}
		if got := again.list("servers_in_room"); !slices.Equal(got, []string{string(ours)}) { // those before the join
			t.Errorf("servers: %v", got)
		}
		if known, err := event.Parse([]byte(again.get("event").Raw), j.rules); err != nil || known.ID != j.last.ID {
			t.Errorf("event: %v %v", known, err)
		}
		old := p.do("PUT", fedPath("send_join", string(room), "x"), j.last.JSON).ok()
		if old.get("0").Int() != 200 || !old.get("1.state").IsArray() {
			t.Errorf("version 1 of the endpoint: %.200s", old.raw)
		}
	}
}

// Server-server API, PUT /v2/send_join, "omit_members".
func testFedJoinOmit(t *testing.T, w *inbound) {
	anna := w.account("annaomit")
	for _, named := range []bool{false, true} {
		room := w.create("11", anna, public)
		if named {
			w.set(room, anna, "m.room.name", `{"name":"a name"}`)
		}
		for i := range 60 {
			user := w.account(fmt.Sprintf("omit%d-%v", i, named))
			w.owner(room, func(ctx context.Context, c roomv1.RoomClient) error {
				_, err := c.Join(ctx, &roomv1.JoinRequest{RoomId: string(room), UserId: string(user), Cause: w.cause(user)})
				return err
			})
		}
		p := w.peer(id.Server(fmt.Sprintf("omit%v.test", named)))
		j := p.join(room, p.user("eve"))
		uri := fedv2Path + "/send_join/" + url.PathEscape(string(room)) + "/x"
		all := p.do("PUT", uri, j.last.JSON).ok()
		if got := all.list("state"); all.get("members_omitted").Bool() || len(got) < 61 {
			t.Errorf("not asked for: %d events", len(got))
		}
		some := p.do("PUT", uri+"?omit_members=true", j.last.JSON).ok()
		if !some.get("members_omitted").Bool() {
			t.Fatalf("%.300s", some.raw)
		}
		if got := some.list("servers_in_room"); !slices.Equal(got, []string{string(ours)}) {
			t.Errorf("servers: %v", got)
		}
		members, seen := 0, map[string]bool{}
		for _, e := range some.get("state").Array() {
			known, err := event.Parse([]byte(e.Raw), j.rules)
			must(t, err)
			seen[string(known.ID)] = true
			if known.Type == "m.room.member" {
				members++
			}
		}
		if want := map[bool]int{false: 5, true: 0}[named]; members != want {
			t.Errorf("%d members, not %d", members, want)
		}
		// What is in the state is not told twice, and nothing is missing of what it cites.
		for _, e := range some.get("auth_chain").Array() {
			known, err := event.Parse([]byte(e.Raw), j.rules)
			must(t, err)
			if seen[string(known.ID)] {
				t.Errorf("%s %s is told twice", known.Type, known.ID)
			}
			seen[string(known.ID)] = true
		}
		for _, list := range []string{"state", "auth_chain"} {
			for _, e := range some.get(list).Array() {
				known, err := event.Parse([]byte(e.Raw), j.rules)
				must(t, err)
				for _, a := range known.AuthEvents {
					if !seen[string(a)] {
						t.Errorf("auth event %s of %s is missing", a, known.Type)
					}
				}
			}
		}
	}
}

func testFedJoinRefused(t *testing.T, w *inbound) {
	anna := w.account("anna2")
	p := w.peer("refused.test")
	eve := string(p.user("eve"))
	closed := string(w.create("11", anna, `{"join_rule":"invite"}`))
	open := string(w.create("11", anna, public))
	p.do("GET", fedPath("make_join", closed, eve)+"?ver=11", nil).fails(403, "M_FORBIDDEN")
	p.do("GET", fedPath("make_join", open, eve)+"?ver=9", nil).fails(400, "M_INCOMPATIBLE_ROOM_VERSION")
	p.do("GET", fedPath("make_join", open, eve), nil).fails(400, "M_INCOMPATIBLE_ROOM_VERSION")
	p.do("GET", fedPath("make_join", open, "@eve:other.test")+"?ver=11", nil).fails(403, "M_FORBIDDEN")
	p.do("GET", fedPath("make_join", open, "eve")+"?ver=11", nil).fails(400, "M_INVALID_PARAM")
	p.do("GET", fedPath("make_join", "!nowhere:ours.test", eve)+"?ver=11", nil).fails(404, "M_NOT_FOUND")
	p.do("GET", fedPath("make_join", "room", eve)+"?ver=11", nil).fails(400, "M_INVALID_PARAM")
	p.do("GET", fedPath("make_knock", open, eve)+"?ver=11", nil).fails(403, "M_FORBIDDEN")

	made := p.do("GET", fedPath("make_join", open, eve)+"?ver=11", nil).ok()
	r, err := w.rooms.Room(t.Context(), id.Room(open))
	must(t, err)
	pdu := p.sign([]byte(made.get("event").Raw), r.Rules)
	send := func(room string, body any) *reply {
		return p.do("PUT", fedv2Path+"/send_join/"+url.PathEscape(room)+"/x", body)
	}
	send(closed, pdu.JSON).fails(400, "M_INVALID_PARAM")
	send(open, "[]").fails(400, "M_BAD_JSON")
	send(open, "{}").fails(400, "M_BAD_JSON")
	forged := strings.Replace(string(pdu.JSON), `"origin_server_ts":1`, `"origin_server_ts":2`, 1)
	send(open, forged).fails(400, "M_INVALID_PARAM")
	stranger := w.peer("stranger.test")
	stranger.do("PUT", fedv2Path+"/send_join/"+url.PathEscape(open)+"/x", pdu.JSON).fails(403, "M_FORBIDDEN")
	leave := p.sign([]byte(strings.Replace(made.get("event").Raw, `"join"`, `"leave"`, 1)), r.Rules)
	send(open, leave.JSON).fails(400, "M_INVALID_PARAM")
	big := strings.Replace(made.get("event").Raw, `"membership"`, `"displayname":"`+strings.Repeat("x", 70_000)+`","membership"`, 1)
	send(open, big).fails(413, "M_TOO_LARGE")
}

// Server-server API, "Leaving Rooms (Rejecting Invites)".
func testFedLeave(t *testing.T, w *inbound) {
	anna := w.account("anna3")
	room := w.create("11", anna, public)
	p := w.peer("leave.test")
	j := p.join(room, p.user("eve"))
	for _, v1 := range []bool{true, false} {
		made := p.do("GET", fedPath("make_leave", string(room), string(j.user)), nil).ok()
		pdu := p.sign([]byte(made.get("event").Raw), j.rules)
		if v1 {
			old := p.do("PUT", fedPath("send_leave", string(room), string(pdu.ID)), pdu.JSON).ok()
			if string(old.raw) != "[200,{}]" {
				t.Errorf("%s", old.raw)
			}
			p.do("GET", fedPath("make_leave", string(room), string(j.user)), nil).fails(403, "M_FORBIDDEN")
			j = p.join(room, j.user)
			continue
		}
		if got := p.do("PUT", fedv2Path+"/send_leave/"+url.PathEscape(string(room))+"/x", pdu.JSON).ok(); string(got.raw) != "{}" {
			t.Errorf("%s", got.raw)
		}
	}
	p.do("GET", fedPath("state_ids", string(room))+"?event_id="+url.QueryEscape(string(j.last.ID)), nil).fails(403, "M_FORBIDDEN")
}

// Server-server API, "Knocking upon a room".
func testFedKnock(t *testing.T, w *inbound) {
	anna := w.account("anna4")
	room := w.create("12", anna, `{"join_rule":"knock"}`, intent(anna, "m.room.name", "", `{"name":"Hall"}`))
	p := w.peer("knock.test")
	made := p.do("GET", fedPath("make_knock", string(room), string(p.user("eve")))+"?ver=12", nil).ok()
	r, err := w.rooms.Room(t.Context(), room)
	must(t, err)
	pdu := p.sign([]byte(made.get("event").Raw), r.Rules)
	answer := p.do("PUT", fedPath("send_knock", string(room), string(pdu.ID)), pdu.JSON).ok()
	if got := answer.list("knock_room_state.#.type"); !slices.Contains(got, "m.room.create") || !slices.Contains(got, "m.room.name") {
		t.Fatalf("%s", answer.raw)
	}
	if len(answer.get("knock_room_state.0.signatures").Map()) == 0 {
		t.Error("the state is not full events")
	}
	if e := w.stored(room, pdu.ID); e == nil || e.Flags != 0 {
		t.Errorf("the knock: %+v", e)
	}
}

// Server-server API, "Inviting to a room".
func testFedInvite(t *testing.T, w *inbound) {
	p := w.peer("invite.test")
	eve := p.user("eve")
	for _, version := range []string{"1", "2", "11", "12"} {
		bert := w.account("bert" + version)
		far := newFarRoom(p, eve, version)
		pdu := far.invite(bert)
		body := map[string]any{"room_version": version, "event": json.RawMessage(pdu.JSON), "invite_room_state": far.state}
		uri := fedv2Path + "/invite/" + url.PathEscape(string(far.id)) + "/" + url.PathEscape(string(pdu.ID))
		var signed *reply
		at := "event"
		switch version {
		case "1":
			uri, at = strings.Replace(uri, "/v2/", "/v1/", 1), "1.event"
			signed = p.do("PUT", uri, pdu.JSON).ok()
		case "2": // which the create event tells
			uri, at = strings.Replace(uri, "/v2/", "/v1/", 1), "1.event"
			shown, err := json.Marshal(map[string]any{"invite_room_state": far.state})
			must(t, err)
			signed = p.do("PUT", uri, json.RawMessage(fmt.Sprintf(`%s,"unsigned":%s}`, pdu.JSON[:len(pdu.JSON)-1], shown))).ok()
		default:
			signed = p.do("PUT", uri, body).ok()
		}
		if !signed.get(at + ".signatures." + strings.ReplaceAll(string(ours), ".", `\.`)).Exists() {
			t.Fatalf("version %s: %s", version, signed.raw)
		}
		m, err := w.users.Membership(t.Context(), bert, far.id)
		if err != nil || m.Membership != "invite" || m.RoomVersion != version {
			t.Fatalf("version %s: %+v %v", version, m, err)
		}
		if version != "1" && !strings.Contains(string(m.Stripped), "m.room.create") {
			t.Errorf("version %s: stripped state %s", version, m.Stripped)
		}
	}
	testFedInviteRefused(t, w, p, eve)
}

func testFedInviteRefused(t *testing.T, w *inbound, p *peer, eve id.User) {
	carl := w.account("carl")
	far := newFarRoom(p, eve, "12")
	put := func(pdu *event.PDU, version string, state []json.RawMessage) *reply {
		return p.do("PUT", fedv2Path+"/invite/"+url.PathEscape(string(far.id))+"/x",
			map[string]any{"room_version": version, "event": json.RawMessage(pdu.JSON), "invite_room_state": state})
	}
	good := far.invite(carl)
	put(good, "99", far.state).fails(400, "M_INCOMPATIBLE_ROOM_VERSION")
	put(good, "12", nil).fails(400, "M_INVALID_PARAM")           // no create event
	put(good, "12", far.state[1:]).fails(400, "M_INVALID_PARAM") // no create event
	put(far.invite("@nobody:ours.test"), "12", far.state).fails(403, "M_FORBIDDEN")
	put(far.invite("@x:other.test"), "12", far.state).fails(400, "M_INVALID_PARAM")
	put(far.event("m.room.member", new(string(carl)), `{"membership":"join"}`), "12", far.state).fails(400, "M_INVALID_PARAM")
	put(far.event("m.room.message", nil, `{"membership":"invite"}`), "12", far.state).fails(400, "M_INVALID_PARAM")
	other := newFarRoom(p, eve, "12")
	put(other.invite(carl), "12", other.state).fails(400, "M_INVALID_PARAM")
	put(good, "12", other.state).fails(400, "M_INVALID_PARAM")
	tampered := slices.Clone(far.state)
	tampered[0] = json.RawMessage(strings.Replace(string(tampered[0]), `"signatures":{"invite.test"`, `"signatures":{"other.test"`, 1))
	put(good, "12", tampered).fails(400, "M_INVALID_PARAM")
	put(good, "12", append(strippedOf(t, far.state[1:]), other.state[0])).fails(400, "M_INVALID_PARAM")
	put(good, "12", strippedOf(t, far.state[1:])).fails(400, "M_INVALID_PARAM") // no create event
	p.do("PUT", fedv2Path+"/invite/"+url.PathEscape(string(far.id))+"/x", map[string]any{}).fails(400, "M_MISSING_PARAM")
	w.peer("invite2.test").do("PUT", fedv2Path+"/invite/"+url.PathEscape(string(far.id))+"/x",
		map[string]any{"room_version": "12", "event": json.RawMessage(good.JSON), "invite_room_state": far.state}).fails(400, "M_INVALID_PARAM")

	_, err := w.users.PutAccountData(t.Context(), carl, "", "m.invite_permission_config", []byte(`{"default_action":"block"}`))
	must(t, err)
	put(good, "12", far.state).fails(403, "M_INVITE_BLOCKED")
}

// strippedOf reduces events to stripped state.
func strippedOf(t *testing.T, state []json.RawMessage) []json.RawMessage {
	t.Helper()
	out := make([]json.RawMessage, len(state))
	for i, b := range state {
		o, err := canonjson.ParseObject(b)
		must(t, err)
		out[i] = o.Only("content", "sender", "state_key", "type").Bytes()
	}
	return out
}

// Server-server API, PUT /v2/invite: the checks of invite_room_state are a SHOULD. tuwunel and Dendrite send stripped state,
// which is shown and proves nothing.
func testFedInviteStripped(t *testing.T, w *inbound) {
	p := w.peer("stripped.test")
	for _, version := range []string{"11", "12"} {
		bert := w.account("stripped" + version)
		far := newFarRoom(p, p.user("eve"), version)
		pdu := far.invite(bert)
		p.do("PUT", fedv2Path+"/invite/"+url.PathEscape(string(far.id))+"/"+url.PathEscape(string(pdu.ID)),
			map[string]any{"room_version": version, "event": json.RawMessage(pdu.JSON), "invite_room_state": strippedOf(t, far.state)}).ok()
		m, err := w.users.Membership(t.Context(), bert, far.id)
		if err != nil || m.Membership != "invite" || !strings.Contains(string(m.Stripped), "m.room.create") {
			t.Errorf("version %s: %+v %v", version, m, err)
		}
	}
}

// Server-server API, "Definitions", and room version 12: the create event is one of the auth events of all others.
func testFedChainCreate(t *testing.T, w *inbound) {
	p := w.peer("chain.test")
	for _, version := range []string{"11", "12"} {
		room := w.create(version, w.account("chain"+version), public)
		j := p.join(room, p.user("eve"))
		create := func(list string, answer *reply) {
			t.Helper()
			if n := len(answer.get(list + `.#(type=="m.room.create")#`).Array()); n != 1 {
				t.Errorf("version %s: %d create events in %s", version, n, list)
			}
		}
		again := p.do("PUT", fedv2Path+"/send_join/"+url.PathEscape(string(room))+"/x", j.last.JSON).ok()
		create("auth_chain", again)
		at := url.QueryEscape(string(j.last.ID))
		create("auth_chain", p.do("GET", fedPath("state", string(room))+"?event_id="+at, nil).ok())
		create("auth_chain", p.do("GET", fedPath("event_auth", string(room), string(j.last.ID)), nil).ok())
		createID := again.get(`state.#(type=="m.room.create")`)
		pdu, err := event.Parse([]byte(createID.Raw), j.rules)
		must(t, err)
		ids := p.do("GET", fedPath("state_ids", string(room))+"?event_id="+at, nil).ok()
		if !slices.Contains(ids.list("auth_chain_ids"), string(pdu.ID)) {
			t.Errorf("version %s: %s", version, ids.raw)
		}
		if n := len(p.do("GET", fedPath("event_auth", string(room), string(pdu.ID)), nil).ok().list("auth_chain")); n != 0 {
			t.Errorf("version %s: the create event has an auth chain of %d", version, n)
		}
	}
}

// Server-server API, "Transactions": events of a user who joined.
func testFedTransaction(t *testing.T, w *inbound) {
	anna := w.account("anna5")
	p := w.peer("txn.test")
	for _, version := range []string{"10", "12"} {
		room := w.create(version, anna, public)
		j := p.join(room, p.user("eve"))
		one := j.message("one")
		j.last = one
		two := j.message("two")
		answer := p.transaction([][]byte{one.JSON, two.JSON}).ok()
		for _, pdu := range []*event.PDU{one, two} {
			if got := answer.get("pdus").Map()[string(pdu.ID)]; got.Raw != "{}" {
				t.Fatalf("%s", answer.raw)
			}
			if e := w.stored(room, pdu.ID); e == nil || !e.Visible() {
				t.Fatalf("event %+v", e)
			}
		}
		// Again, in another transaction: known events are fine.
		if got := p.transaction([][]byte{two.JSON}).ok(); got.get("pdus").Map()[string(two.ID)].Raw != "{}" {
			t.Fatalf("%s", got.raw)
		}
		j.last = two
		three := j.message("three")
		uri := fedPath("send", "same"+version)
		first := p.do("PUT", uri, p.body([][]byte{three.JSON})).ok()
		second := p.do("PUT", uri, p.body(nil)).ok()
		if string(first.raw) != string(second.raw) {
			t.Errorf("a repeated transaction was answered with %s, at first with %s", second.raw, first.raw)
		}
	}
}

// Server-server API, "Checks performed on receipt of a PDU": what is wrong costs its own entry.
func testFedTransactionOthers(t *testing.T, w *inbound) {
	anna := w.account("anna6")
	room := w.create("11", anna, public)
	p := w.peer("bad.test")
	j := p.join(room, p.user("eve"))
	good := j.message("good")
	unsigned := []byte(strings.Replace(string(good.JSON), `"bad.test":{`, `"worse.test":{`, 1))
	notIn := (&joined{p: p, room: room, user: p.user("mallory"), rules: j.rules, last: j.last, auth: j.auth}).message("not in the room")
	elsewhere := (&joined{p: p, room: "!elsewhere:bad.test", user: j.user, rules: j.rules, last: j.last, auth: j.auth}).message("elsewhere")
	tampered := []byte(strings.Replace(string(j.message("tampered").JSON), "tampered", "TAMPERED", 1))
	deep := `{"room_id":"` + string(room) + `","content":` + strings.Repeat(`{"a":`, 300) + "1" + strings.Repeat("}", 300) + `}`
	big := j.event("m.room.message", nil, `{"body":"`+strings.Repeat("x", 60_000)+`"}`)
	bigger := []byte(strings.Replace(string(big.JSON), `"body":"`, `"body":"`+strings.Repeat("x", 140_000), 1))

	answer := p.transaction([][]byte{unsigned, notIn.JSON, elsewhere.JSON, tampered, []byte(deep), bigger, []byte(`1`), []byte(`{}`),
		[]byte(`{"room_id":"` + string(room) + `","type":1}`), good.JSON}).ok()
	results := answer.get("pdus").Map()
	if r := results[string(good.ID)]; r.Raw != "{}" && r.Get("error").Str == "" {
		t.Fatalf("%s", answer.raw)
	}
	for _, eventID := range []id.Event{notIn.ID, elsewhere.ID} {
		if results[string(eventID)].Get("error").Str == "" {
			t.Errorf("%s has no error: %s", eventID, answer.raw)
		}
	}
	if len(results) < 5 {
		t.Errorf("%d results: %s", len(results), answer.raw)
	}
	// The same bytes with their signature are taken afterwards.
	if r := p.transaction([][]byte{good.JSON}).ok(); r.get("pdus").Map()[string(good.ID)].Raw != "{}" || w.stored(room, good.ID) == nil {
		t.Errorf("%s", r.raw)
	}
	// Limits.
	many := make([][]byte, 51)
	for i := range many {
		many[i] = []byte(`{}`)
	}
	p.transaction(many).fails(400, "M_BAD_JSON")
	p.transaction(nil, make([]any, 101)...).fails(400, "M_BAD_JSON")
	p.do("PUT", fedPath("send", "x1"), "[]").fails(400, "M_BAD_JSON")
	p.do("PUT", fedPath("send", "x2"), `{"pdus":{}}`).fails(400, "M_BAD_JSON")
	p.do("PUT", fedPath("send", strings.Repeat("x", 300)), `{}`).fails(400, "M_INVALID_PARAM")
	if got := p.do("PUT", fedPath("send", "x3"), `{}`).ok(); string(got.raw) != `{"pdus":{}}` {
		t.Errorf("%s", got.raw)
	}
}

// Server-server API, "Server Access Control Lists (ACLs)".
func testFedACL(t *testing.T, w *inbound) {
	anna := w.account("anna7")
	room := w.create("11", anna, public)
	p := w.peer("acl.test")
	j := p.join(room, p.user("eve"))
	w.set(room, anna, "m.room.server_acl", `{"allow":["*"],"deny":["acl.test"]}`)
	msg := j.message("banned")
	answer := p.transaction([][]byte{msg.JSON}).ok()
	if !strings.Contains(answer.get("pdus").Map()[string(msg.ID)].Get("error").Str, "banned") || w.stored(room, msg.ID) != nil {
		t.Errorf("%s", answer.raw)
	}
	r, ev := string(room), url.QueryEscape(string(j.last.ID))
	for _, c := range []struct {
		method, uri string
		body        any
	}{
		{"GET", fedPath("make_join", r, string(j.user)) + "?ver=11", nil},
		{"GET", fedPath("make_leave", r, string(j.user)), nil},
		{"GET", fedPath("make_knock", r, string(j.user)) + "?ver=11", nil},
		{"PUT", fedPath("send_join", r, "x"), msg.JSON},
		{"PUT", fedv2Path + "/send_join/" + url.PathEscape(r) + "/x", msg.JSON},
		{"PUT", fedPath("send_leave", r, "x"), msg.JSON},
		{"PUT", fedv2Path + "/send_leave/" + url.PathEscape(r) + "/x", msg.JSON},
		{"PUT", fedPath("send_knock", r, "x"), msg.JSON},
		{"PUT", fedPath("invite", r, "x"), msg.JSON},
		{"PUT", fedv2Path + "/invite/" + url.PathEscape(r) + "/x", map[string]any{"room_version": "11", "event": json.RawMessage(msg.JSON)}},
		{"GET", fedPath("state", r) + "?event_id=" + ev, nil},
		{"GET", fedPath("state_ids", r) + "?event_id=" + ev, nil},
		{"GET", fedPath("backfill", r) + "?limit=1&v=" + ev, nil},
		{"GET", fedPath("event_auth", r, string(j.last.ID)), nil},
		{"GET", fedPath("event", string(j.last.ID)), nil},
		{"POST", fedPath("get_missing_events", r), map[string]any{"earliest_events": []string{}, "latest_events": []id.Event{j.last.ID}}},
		{"GET", fedPath("timestamp_to_event", r) + "?ts=1&dir=f", nil},
	} {
		p.do(c.method, c.uri, c.body).fails(http.StatusForbidden, "M_FORBIDDEN")
	}
	p.do("GET", fedPath("hierarchy", r), nil).fails(404, "M_NOT_FOUND")

	// Redacted, as others can do it, a list allows nobody.
	room = w.create("11", anna, public)
	j = p.join(room, p.user("eve"))
	w.set(room, anna, "m.room.server_acl", `{"allow":["*"]}`)
	uri := fedPath("event_auth", string(room), string(j.last.ID))
	p.do("GET", uri, nil).ok()
	row, err := w.rooms.Room(t.Context(), room)
	must(t, err)
	m, err := w.rooms.State(t.Context(), row.Part, row.SID)
	must(t, err)
	list, err := w.rooms.StateEvent(t.Context(), row.Part, m, "m.room.server_acl", "")
	must(t, err)
	_, err = w.shards.For(row.Part).Exec(t.Context(), `UPDATE event SET redacted_by = event_nid WHERE part = $1 AND event_nid = $2`, int32(row.Part), list.NID)
	must(t, err)
	w.rooms.Forget(row.Part, list.NID)
	p.do("GET", uri, nil).fails(http.StatusForbidden, "M_FORBIDDEN")
}

// Server-server API, PUT /v2/send_join, "omit_members": what comes from members whom we do not know yet is theirs, as far as
// their servers are in the room.
func testFedEphemeralPartial(t *testing.T, w *inbound) {
	anna := w.account("annaP")
	room := w.create("11", anna, public)
	p, stranger := w.peer("partial.test"), w.peer("stranger.test")
	p.join(room, p.user("eve"))
	said := w.say(room, anna, "read this")
	r, err := w.rooms.Room(t.Context(), room)
	must(t, err)
	typing := make(chan *logv1.Typing, 10)
	sub, err := w.bus.SubscribeTyping(func(m *logv1.Typing) { typing <- m })
	must(t, err)
	defer sub.Stop()
	must(t, w.bus.Conn().Flush())
	for _, from := range []*peer{stranger, p} {
		user := from.user("unknown")
		for _, edu := range []any{
			eduOf("m.typing", map[string]any{"room_id": room, "user_id": user, "typing": true}),
			eduOf("m.receipt", map[string]any{string(room): map[string]any{"m.read": map[string]any{string(user): map[string]any{
				"data": map[string]any{"ts": 1}, "event_ids": []id.Event{said}}}}}),
			eduOf("m.device_list_update", map[string]any{"user_id": user, "device_id": "D", "stream_id": 1}),
		} { // the owner knows nothing of the mark, and takes it off with whatever it writes
			_, err = w.shards.For(r.Part).Exec(t.Context(), `UPDATE room SET full_pos = $1 WHERE part = $2 AND room_nid = $3`, roomdb.PartialState, int32(r.Part), r.NID)
			must(t, err)
			from.transaction(nil, edu).ok()
		}
	}
	select {
	case m := <-typing:
		if m.UserId != "@unknown:partial.test" {
			t.Errorf("typing: %v", m)
		}
	case <-time.After(2 * time.Minute):
		t.Error("no typing")
	}
	receipts, err := w.rooms.ReceiptsSince(t.Context(), r.Part, r.NID, 0, r.LastPos+100)
	must(t, err)
	if len(receipts) != 1 || receipts[0].User != "@unknown:partial.test" {
		t.Errorf("receipts: %+v", receipts)
	}
	changed, err := w.rooms.DeviceChanges(t.Context(), r.Part, r.NID, 0, r.LastPos+100)
	must(t, err)
	if !slices.Equal(changed, []id.User{"@unknown:partial.test"}) {
		t.Errorf("devices of %v changed", changed)
	}
}

// Server-server API, "EDUs": typing, receipts, presence, messages to devices.
func testFedEphemeral(t *testing.T, w *inbound) {
	anna := w.account("anna8")
	room := w.create("11", anna, public)
	p := w.peer("edu.test")
	j := p.join(room, p.user("eve"))
	said := w.say(room, anna, "read this")
	typing, seen := make(chan *logv1.Typing, 10), make(chan *logv1.Presence, 10)
	subT, err := w.bus.SubscribeTyping(func(m *logv1.Typing) { typing <- m })
	must(t, err)
	defer subT.Stop()
	subP, err := w.bus.SubscribePresence(func(m *logv1.Presence) { seen <- m })
	must(t, err)
	defer subP.Stop()
	must(t, w.bus.Conn().Flush())
	receipt := func(user id.User) any {
		return map[string]any{string(room): map[string]any{"m.read": map[string]any{string(user): map[string]any{
			"data": map[string]any{"ts": 1234}, "event_ids": []id.Event{said}}}}}
	}
	_, err = w.users.PutDevice(t.Context(), anna, "PHONE", nil)
	must(t, err)
	message := map[string]any{"sender": j.user, "type": "m.test", "message_id": "m1",
		"messages": map[string]any{string(anna): map[string]any{"*": map[string]any{"hello": 1}}, "@other:elsewhere.test": map[string]any{"*": map[string]any{}}}}
	for range 2 { // the second time in another transaction
		p.transaction(nil,
			eduOf("m.typing", map[string]any{"room_id": room, "user_id": "@mallory:edu.test", "typing": true}),
			eduOf("m.typing", map[string]any{"room_id": room, "user_id": anna, "typing": true}),
			eduOf("m.typing", map[string]any{"room_id": "!x:y", "user_id": j.user, "typing": true}),
			eduOf("m.typing", map[string]any{"room_id": room, "user_id": j.user, "typing": true}),
			eduOf("m.receipt", receipt("@mallory:edu.test")), eduOf("m.receipt", receipt(anna)), eduOf("m.receipt", receipt(j.user)),
			eduOf("m.presence", map[string]any{"push": []any{
				map[string]any{"user_id": anna, "presence": "online"}, map[string]any{"user_id": j.user, "presence": "asleep"},
				map[string]any{"user_id": j.user, "presence": "online", "status_msg": "here", "last_active_ago": 1000, "currently_active": true}}}),
			eduOf("m.direct_to_device", message), eduOf("m.direct_to_device", map[string]any{"sender": anna, "type": "m.test", "message_id": "m2", "messages": message["messages"]}),
			eduOf("m.unknown", map[string]any{}), eduOf("m.typing", []any{}), "not an EDU", nil,
		).ok()
	}
	select {
	case m := <-typing:
		if m.UserId != string(j.user) || m.RoomId != string(room) || !m.Typing || m.Local {
			t.Errorf("typing: %v", m)
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("no typing")
	}
	select {
	case m := <-seen:
		if m.UserId != string(j.user) || m.Presence != "online" || m.StatusMsg != "here" || m.Local {
			t.Errorf("presence: %v", m)
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("no presence")
	}
	r, err := w.rooms.Room(t.Context(), room)
	must(t, err)
	receipts, err := w.rooms.ReceiptsSince(t.Context(), r.Part, r.NID, 0, r.LastPos+100)
	must(t, err)
	if len(receipts) != 1 || receipts[0].User != j.user || receipts[0].TS != 1234 {
		t.Errorf("receipts: %+v", receipts)
	}
	seq, err := w.users.Seq(t.Context(), anna)
	must(t, err)
	got, _, err := w.users.ToDeviceSince(t.Context(), anna, "PHONE", 0, seq, 10, 1<<20)
	must(t, err)
	if len(got) != 1 || got[0].Sender != j.user || string(got[0].Content) != `{"hello":1}` {
		t.Errorf("messages: %+v", got)
	}
}

// Server-server API, "Published Room Directory" and "Querying for information".
func testFedDirectory(t *testing.T, w *inbound) {
	anna := w.account("anna9")
	p := w.peer("dir.test")
	alias := id.NewAlias("hall", ours)
	room := w.create("11", anna, public, intent(anna, "m.room.name", "", `{"name":"The Hall of Mirrors"}`))
	w.owner(room, func(ctx ctx, c roomv1.RoomClient) error {
		_, err := c.SetPublished(ctx, &roomv1.SetPublishedRequest{RoomId: string(room), Published: true})
		return err
	})
	must(t, w.dir.Add(t.Context(), roomdir.Alias{Alias: alias, Room: room, Creator: anna}))
	got := p.do("GET", fedPath("query/directory")+"?room_alias="+url.QueryEscape(string(alias)), nil).ok()
	if got.get("room_id").Str != string(room) || !slices.Contains(got.list("servers"), string(ours)) {
		t.Errorf("%s", got.raw)
	}
	p.do("GET", fedPath("query/directory")+"?room_alias="+url.QueryEscape("#none:ours.test"), nil).fails(404, "M_NOT_FOUND")
	p.do("GET", fedPath("query/directory")+"?room_alias="+url.QueryEscape("#hall:other.test"), nil).fails(400, "M_INVALID_PARAM")
	p.do("GET", fedPath("query/directory"), nil).fails(400, "M_MISSING_PARAM")

	if got := p.do("GET", fedPath("publicRooms")+"?limit=10", nil).ok(); !slices.Contains(got.list("chunk.#.room_id"), string(room)) {
		t.Errorf("%s", got.raw)
	}
	found := p.do("POST", fedPath("publicRooms"), map[string]any{"filter": map[string]any{"generic_search_term": "mirrors"}}).ok()
	if ids := found.list("chunk.#.room_id"); len(ids) != 1 || ids[0] != string(room) {
		t.Errorf("%s", found.raw)
	}
	if got := p.do("POST", fedPath("publicRooms"), map[string]any{"filter": map[string]any{"room_types": []string{"m.space"}}}).ok(); len(got.list("chunk")) != 0 {
		t.Errorf("%s", got.raw)
	}
	// A room whose access control list denies a server is not shown to it.
	w.set(room, anna, "m.room.server_acl", `{"allow":["*"],"deny":["denied.test"]}`)
	if got := w.peer("denied.test").do("GET", fedPath("publicRooms")+"?limit=10", nil).ok(); slices.Contains(got.list("chunk.#.room_id"), string(room)) {
		t.Errorf("shown to a denied server: %s", got.raw)
	}
	if got := p.do("GET", fedPath("publicRooms")+"?limit=10", nil).ok(); !slices.Contains(got.list("chunk.#.room_id"), string(room)) {
		t.Errorf("not shown to others: %s", got.raw)
	}
	p.do("GET", fedPath("publicRooms")+"?since=rubbish", nil).fails(400, "M_INVALID_PARAM")
	p.do("GET", fedPath("publicRooms")+"?limit=many", nil).fails(400, "M_INVALID_PARAM")
}

// Server-server API, "Spaces".
func testFedSpaces(t *testing.T, w *inbound) {
	anna := w.account("anna10")
	p := w.peer("space.test")
	open, closed := w.create("11", anna, public), w.create("11", anna, `{"join_rule":"invite"}`)
	inner := w.create("11", anna, fmt.Sprintf(`{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":%q}]}`, open))
	space := w.create("11", anna, public)
	w.owner("any", func(ctx ctx, c roomv1.RoomClient) error {
		resp, err := c.Create(ctx, &roomv1.CreateRequest{Creator: string(anna), RoomVersion: "11", CreateContent: []byte(`{"type":"m.space"}`), Cause: w.cause(anna),
			OriginServerTs: time.Now().UnixMilli(), Events: []*roomv1.EventIntent{intent(anna, "m.room.member", string(anna), `{"membership":"join"}`),
				intent(anna, "m.room.join_rules", "", public)}})
		space = id.Room(resp.GetRoomId())
		return err
	})
	for i, child := range []id.Room{open, closed, inner, "!far:away.test"} {
		w.send(space, anna, intent(anna, "m.space.child", string(child), fmt.Sprintf(`{"via":["ours.test"],"suggested":%t,"order":"%d"}`, i == 0, i)))
	}
	got := p.do("GET", fedPath("hierarchy", string(space)), nil).ok()
	if kids := got.list("children.#.room_id"); len(kids) != 1 || kids[0] != string(open) {
		t.Errorf("children: %s", got.raw)
	}
	if no := got.list("inaccessible_children"); !slices.Equal(no, []string{string(closed), string(inner)}) {
		t.Errorf("inaccessible: %v", no)
	}
	if len(got.list("room.children_state")) != 4 || got.get("room.room_type").Str != "m.space" {
		t.Errorf("%s", got.raw)
	}
	p.join(open, p.user("eve")) // whose members may join inner
	if got := p.do("GET", fedPath("hierarchy", string(space)), nil).ok(); !slices.Contains(got.list("children.#.room_id"), string(inner)) {
		t.Errorf("%s", got.raw)
	}
	if got := p.do("GET", fedPath("hierarchy", string(space))+"?suggested_only=true", nil).ok(); len(got.list("room.children_state")) != 1 {
		t.Errorf("%s", got.raw)
	}
	p.do("GET", fedPath("hierarchy", string(closed)), nil).fails(404, "M_NOT_FOUND")
	p.do("GET", fedPath("hierarchy", "!nowhere:x"), nil).fails(404, "M_NOT_FOUND")
}
