package fedin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/partition"
	"hanse/pkg/userdb"
	roomv1 "hanse/proto/room/v1"
)

type ctx = context.Context

// farRoom is a room of the peer's that we are not in.
type farRoom struct {
	p       *peer
	id      id.Room
	creator id.User
	rules   *roomversion.Rules
	last    *event.PDU
	auth    []id.Event
	state   []json.RawMessage
	hashes  [][32]byte
}

func newFarRoom(p *peer, creator id.User, version string) *farRoom {
	p.w.t.Helper()
	rules, _ := roomversion.Get(version)
	r := &farRoom{p: p, creator: creator, rules: rules}
	if !rules.RoomIDIsCreateHash {
		r.id = id.Room(fmt.Sprintf("!far%d:%s", p.w.n.Add(1), p.name))
	}
	create := fmt.Sprintf(`{"room_version":%q,"n":%d}`, version, p.w.n.Add(1))
	if !rules.ImplicitCreator {
		create = fmt.Sprintf(`{"creator":%q,"room_version":%q}`, creator, version)
	}
	made := r.event("m.room.create", new(""), create)
	r.id = made.RoomID
	r.add(made)
	r.add(r.event("m.room.member", new(string(creator)), `{"membership":"join"}`))
	r.add(r.event("m.room.join_rules", new(""), `{"join_rule":"invite"}`))
	return r
}

func (r *farRoom) add(pdu *event.PDU) {
	r.last = pdu
	r.state = append(r.state, json.RawMessage(pdu.JSON))
	hash, err := event.ReferenceHash(pdu.JSON, r.rules)
	must(r.p.w.t, err)
	r.hashes = append(r.hashes, hash)
	if pdu.Type != "m.room.create" || !r.rules.RoomIDIsCreateHash {
		r.auth = append(r.auth, pdu.ID)
	}
}

func (r *farRoom) event(typ string, key *string, content string) *event.PDU {
	r.p.w.t.Helper()
	d := event.Draft{RoomID: r.id, Type: typ, StateKey: key, Sender: r.creator, Content: json.RawMessage(content), Depth: 1, OriginServerTS: time.Now().UnixMilli()}
	if r.last != nil {
		d.Depth, d.PrevEvents, d.AuthEvents = r.last.Depth+1, []id.Event{r.last.ID}, r.auth
		if r.rules.EventFormat == 1 {
			d.PrevHashes, d.AuthHashes = r.hashes[len(r.hashes)-1:], r.hashes
		}
	}
	pdu, err := event.Build(d, r.rules, r.p.name, r.p.key)
	must(r.p.w.t, err)
	return pdu
}

func (r *farRoom) invite(user id.User) *event.PDU {
	r.p.w.t.Helper()
	return r.event("m.room.member", new(string(user)), `{"membership":"invite"}`)
}

// Server-server API, "Retrieving events" and "Retrieving event authorisation information".
func testFedEvents(t *testing.T, w *inbound) {
	anna := w.account("annaE")
	for _, version := range []string{"10", "12"} {
		room := w.create(version, anna, public)
		p := w.peer(id.Server("events" + version + ".test"))
		j := p.join(room, p.user("eve"))
		said := w.say(room, anna, "hello")
		r, at := string(room), "?event_id="+url.QueryEscape(string(said))
		full := p.do("GET", fedPath("state", r)+at, nil).ok()
		ids := p.do("GET", fedPath("state_ids", r)+at, nil).ok()
		names := func(at string) (out []string) {
			for _, e := range full.get(at).Array() {
				pdu, err := event.Parse([]byte(e.Raw), j.rules)
				must(t, err)
				out = append(out, string(pdu.ID))
			}
			slices.Sort(out)
			return out
		}
		for name, want := range map[string][]string{"pdu_ids": names("pdus"), "auth_chain_ids": names("auth_chain")} {
			if got := slices.Sorted(slices.Values(ids.list(name))); !slices.Equal(got, want) || len(got) < 3 {
				t.Errorf("%s: %v, want %v", name, got, want)
			}
		}
		if !slices.Contains(names("pdus"), string(j.last.ID)) {
			t.Error("the join is not in the state after it")
		}
		before := p.do("GET", fedPath("state_ids", r)+"?event_id="+url.QueryEscape(string(j.last.ID)), nil).ok()
		if slices.Contains(before.list("pdu_ids"), string(j.last.ID)) {
			t.Error("the join is in the state before it")
		}
		chain := p.do("GET", fedPath("event_auth", r, string(said)), nil).ok()
		if types := chain.list("auth_chain.#.type"); !slices.Contains(types, "m.room.power_levels") || !slices.Contains(types, "m.room.member") {
			t.Errorf("auth chain: %v", types)
		}
		one := p.do("GET", fedPath("event", string(said)), nil).ok()
		if one.get("pdus.0.content.body").Str != "hello" || one.get("origin").Str != string(ours) || one.get("origin_server_ts").Int() == 0 {
			t.Errorf("%s", one.raw)
		}
		found := p.do("GET", fedPath("timestamp_to_event", r)+"?dir=b&ts="+fmt.Sprint(time.Now().UnixMilli()+1000), nil).ok()
		if found.get("event_id").Str != string(said) {
			t.Errorf("%s", found.raw)
		}
		p.do("GET", fedPath("timestamp_to_event", r)+"?dir=f&ts="+fmt.Sprint(time.Now().UnixMilli()+1000), nil).fails(404, "M_NOT_FOUND")
		// Of events with the same time the newest is the nearest one backwards, the oldest forwards, however many there are.
		at1 := time.Now().UnixMilli() + 100_000
		var same []string
		for range 3 {
			var pdus [][]byte
			for range 45 {
				pdu, err := event.Build(event.Draft{RoomID: room, Type: "m.room.message", Sender: j.user, Content: json.RawMessage(`{"body":"x"}`),
					Depth: j.last.Depth + 1, OriginServerTS: at1, PrevEvents: []id.Event{j.last.ID}, AuthEvents: j.auth}, j.rules, p.name, p.key)
				must(t, err)
				j.last = pdu
				pdus, same = append(pdus, pdu.JSON), append(same, string(pdu.ID))
			}
			p.transaction(pdus).ok()
		}
		for dir, want := range map[string]string{"f": same[0], "b": same[len(same)-1]} {
			if got := p.do("GET", fedPath("timestamp_to_event", r)+"?dir="+dir+"&ts="+fmt.Sprint(at1), nil).ok().get("event_id").Str; got != want {
				t.Errorf("of %d events at the same time, %s: number %d", len(same), dir, slices.Index(same, got))
			}
		}
		p.do("GET", fedPath("timestamp_to_event", r)+"?dir=x&ts=1", nil).fails(400, "M_INVALID_PARAM")
		p.do("GET", fedPath("timestamp_to_event", r)+"?dir=f&ts=x", nil).fails(400, "M_INVALID_PARAM")

		stranger := w.peer(id.Server("eventsx" + version + ".test"))
		for _, uri := range []string{fedPath("state", r) + at, fedPath("state_ids", r) + at, fedPath("event_auth", r, string(said)),
			fedPath("event", string(said)), fedPath("backfill", r) + "?limit=5&v=" + url.QueryEscape(string(said)), fedPath("state", "!none:x") + at,
			fedPath("timestamp_to_event", r) + "?dir=f&ts=1"} {
			stranger.do("GET", uri, nil).fails(403, "M_FORBIDDEN")
		}
		p.do("GET", fedPath("state", r)+"?event_id=$none", nil).fails(404, "M_NOT_FOUND")
		p.do("GET", fedPath("state", r), nil).fails(400, "M_MISSING_PARAM")
		p.do("GET", fedPath("event", "$none"), nil).fails(404, "M_NOT_FOUND")
		p.do("GET", fedPath("event", "none"), nil).fails(400, "M_INVALID_PARAM")
		p.do("GET", fedPath("event_auth", r, "$none"), nil).fails(404, "M_NOT_FOUND")
		p.do("GET", fedPath("state", "none")+at, nil).fails(400, "M_INVALID_PARAM")
	}
}

func bodies(t *testing.T, r *reply, at string) string {
	t.Helper()
	var out []string
	for _, e := range r.get(at).Array() {
		if e.Get("type").Str == "m.room.message" {
			out = append(out, e.Get("content.body").Str)
		}
	}
	return strings.Join(out, " ")
}

// Server-server API, "Backfilling and retrieving missing events".
func testFedHistory(t *testing.T, w *inbound) {
	anna := w.account("annaH")
	room := w.create("11", anna, public)
	p := w.peer("history.test")
	j := p.join(room, p.user("eve"))
	var last id.Event
	for i := range 8 {
		last = w.say(room, anna, fmt.Sprint(i))
	}
	// A branch of the peer's from the join.
	side := j.message("side")
	p.transaction([][]byte{side.JSON}).ok()
	merged := w.say(room, anna, "merged")
	get := func(q string) *reply { return p.do("GET", fedPath("backfill", string(room))+"?"+q, nil) }
	v := "v=" + url.QueryEscape(string(last))
	if got := bodies(t, get(v+"&limit=4").ok(), "pdus"); got != "7 6 5 4" {
		t.Errorf("backfill: %s", got)
	}
	all := get("v=" + url.QueryEscape(string(merged)) + "&limit=100").ok()
	if got := bodies(t, all, "pdus"); got != "merged 7 6 5 4 3 2 1 side 0" && got != "merged 7 6 5 4 3 2 1 0 side" {
		t.Errorf("backfill: %s", got)
	}
	if types := all.list("pdus.#.type"); types[len(types)-1] != "m.room.create" {
		t.Errorf("backfill does not end at the beginning: %v", types)
	}
	if got := get("v=%24none&limit=4").ok(); len(got.list("pdus")) != 0 {
		t.Errorf("%s", got.raw)
	}
	get(v).fails(400, "M_INVALID_PARAM")
	get(v+"&limit=-1").fails(400, "M_INVALID_PARAM")
	get("v=none&limit=1").fails(400, "M_INVALID_PARAM")
}

func testFedMissing(t *testing.T, w *inbound) {
	anna := w.account("annaM")
	room := w.create("11", anna, public)
	p := w.peer("missing.test")
	j := p.join(room, p.user("eve"))
	var said []id.Event
	for i := range 30 {
		said = append(said, w.say(room, anna, fmt.Sprint(i)))
	}
	ask := func(body map[string]any) *reply {
		return p.do("POST", fedPath("get_missing_events", string(room)), body)
	}
	got := ask(map[string]any{"earliest_events": []id.Event{said[2]}, "latest_events": []id.Event{said[6]}, "limit": 10}).ok()
	if got := bodies(t, got, "events"); got != "3 4 5" {
		t.Errorf("missing: %s", got)
	}
	if got := ask(map[string]any{"earliest_events": []id.Event{j.last.ID}, "latest_events": []id.Event{said[29]}, "limit": 1000}).ok(); len(got.list("events")) != 20 {
		t.Errorf("%d events", len(got.list("events")))
	}
	if got := ask(map[string]any{"earliest_events": []id.Event{}, "latest_events": []id.Event{said[29]}}).ok(); bodies(t, got, "events") != "19 20 21 22 23 24 25 26 27 28" {
		t.Errorf("by default: %s", bodies(t, got, "events"))
	}
	deep := w.stored(room, said[5]).Depth
	if got := ask(map[string]any{"earliest_events": []id.Event{}, "latest_events": []id.Event{said[8]}, "min_depth": deep}).ok(); bodies(t, got, "events") != "5 6 7" {
		t.Errorf("min_depth: %s", bodies(t, got, "events"))
	}
	ask(map[string]any{"latest_events": []string{"none"}}).fails(400, "M_INVALID_PARAM")
	p.do("POST", fedPath("get_missing_events", string(room)), "[]").fails(400, "M_BAD_JSON")
	w.peer("missing2.test").do("POST", fedPath("get_missing_events", string(room)), map[string]any{}).fails(403, "M_FORBIDDEN")
}

// Client-server API, "Room history visibility", as it applies to servers: what none of its users may see is redacted.
func testFedVisibility(t *testing.T, w *inbound) {
	anna := w.account("annaV")
	p := w.peer("visible.test")
	for _, c := range []struct{ setting, want string }{{"joined", " after"}, {"shared", "before after"}, {"invited", " after"}, {"world_readable", "before after"}} {
		room := w.create("11", anna, public, intent(anna, "m.room.history_visibility", "", fmt.Sprintf(`{"history_visibility":%q}`, c.setting)))
		w.say(room, anna, "before")
		p.join(room, p.user("eve"))
		last := w.say(room, anna, "after")
		got := p.do("GET", fedPath("backfill", string(room))+"?limit=100&v="+url.QueryEscape(string(last)), nil).ok()
		var texts []string
		for _, e := range slices.Backward(got.get("pdus").Array()) {
			if e.Get("type").Str == "m.room.message" {
				texts = append(texts, e.Get("content.body").Str)
			}
			if e.Get("type").Str == "m.room.member" && e.Get("content.membership").Str != "join" {
				t.Errorf("%s: %s", c.setting, e.Raw)
			}
		}
		if strings.Join(texts, " ") != c.want {
			t.Errorf("%s: %q, want %q", c.setting, texts, c.want)
		}
	}
	// Redacted events go out redacted.
	room := w.create("11", anna, public)
	p.join(room, p.user("eve"))
	secret := w.say(room, anna, "secret")
	w.send(room, anna, &roomv1.EventIntent{Type: "m.room.redaction", Content: []byte(fmt.Sprintf(`{"redacts":%q}`, secret)), Redacts: string(secret)})
	w.rooms.Forget(partition.Of(string(room)), w.stored(room, secret).NID)
	if got := p.do("GET", fedPath("event", string(secret)), nil).ok(); strings.Contains(string(got.raw), `"secret"`) {
		t.Errorf("%s", got.raw)
	}
}

// Server-server API, "Device Management": updates in order are applied, gaps make the list stale, rooms hear of both.
func testFedDeviceLists(t *testing.T, w *inbound) {
	anna := w.account("annaD")
	room := w.create("11", anna, public)
	p := w.peer("devices.test")
	j := p.join(room, p.user("eve"))
	part := partition.Of(string(room))
	heads := func() int64 {
		h, err := w.rooms.Heads(t.Context())
		must(t, err)
		return h[part]
	}
	changes := func(after int64) int {
		r, err := w.rooms.Room(t.Context(), room)
		must(t, err)
		users, err := w.rooms.DeviceChanges(t.Context(), part, r.NID, after, heads())
		must(t, err)
		return len(users)
	}
	update := func(stream int64, prev []int64, device string, more map[string]any) any {
		u := map[string]any{"user_id": j.user, "device_id": device, "stream_id": stream, "prev_id": prev, "keys": map[string]any{"device_id": device, "user_id": j.user}}
		for k, v := range more {
			u[k] = v
		}
		return eduOf("m.device_list_update", u)
	}
	list := func() userdb.RemoteList {
		found, err := w.users.RemoteLists(t.Context(), []id.User{j.user})
		must(t, err)
		return found[j.user]
	}
	start := heads()
	p.transaction(nil, update(5, nil, "A", nil)).ok()
	if l := list(); l.Content != nil || changes(start) != 1 {
		t.Fatalf("nobody asked for the list: %+v, %d changes", l, changes(start))
	}
	put := func(stream int64, content string) {
		t.Helper()
		must(t, w.users.UpdateRemoteList(t.Context(), j.user, func(old userdb.RemoteList) (userdb.RemoteList, bool) {
			return userdb.RemoteList{StreamID: stream, Content: []byte(content), News: old.News}, true
		}))
	}
	put(5, fmt.Sprintf(`{"user_id":%q,"stream_id":5,"devices":[{"device_id":"A","keys":{}}],"master_key":{"x":1}}`, j.user))
	p.transaction(nil, update(7, []int64{5}, "B", map[string]any{"device_display_name": "Bee"}), update(8, []int64{7}, "A", map[string]any{"deleted": true})).ok()
	l := list()
	if l.Stale || l.StreamID != 8 || !strings.Contains(string(l.Content), `"Bee"`) || strings.Contains(string(l.Content), `"A"`) || !strings.Contains(string(l.Content), "master_key") {
		t.Fatalf("%+v %s", l, l.Content)
	}
	again := func(what string, edu any, told int, stale bool) {
		t.Helper()
		before := heads()
		p.transaction(nil, edu).ok()
		if l := list(); changes(before) != told || l.Stale != stale {
			t.Errorf("%s: told %d times, %+v", what, changes(before), l)
		}
	}
	again("a repeated update", update(7, []int64{5}, "B", map[string]any{"device_display_name": "Bee"}), 0, false)
	again("a repeated deletion", update(8, []int64{7}, "A", map[string]any{"deleted": true}), 0, false)
	again("a gap", update(12, []int64{11}, "C", nil), 1, true)
	again("any after that", update(12, []int64{11}, "C", nil), 1, true)
	// Servers that do not count their updates: what they say of a device is news if we do not know it.
	one := fmt.Sprintf(`{"user_id":%q,"stream_id":1,"devices":[{"device_id":"A","keys":{"device_id":"A","user_id":%[1]q}}]}`, j.user)
	for what, edu := range map[string]any{
		"a new device with the same stream_id": update(1, nil, "B", nil),
		"new keys with the same stream_id":     update(1, []int64{1}, "A", map[string]any{"keys": map[string]any{"new": 1}}),
		"an older stream_id":                   update(0, nil, "B", nil),
		"a deletion with the same stream_id":   update(1, nil, "A", map[string]any{"deleted": true}),
		"no prev_id":                           update(2, nil, "B", nil),
	} {
		put(1, one)
		again(what, edu, 1, true)
	}
	put(1, one)
	again("what is known", update(1, nil, "A", nil), 0, false)

	put(12, `{"devices":[],"master_key":{"x":1}}`)
	again("the same cross-signing key", eduOf("m.signing_key_update", map[string]any{"user_id": j.user, "master_key": map[string]any{"x": 1}}), 0, false)
	again("another user's", eduOf("m.signing_key_update", map[string]any{"user_id": anna, "master_key": map[string]any{"x": 2}}), 0, false)
	again("another cross-signing key", eduOf("m.signing_key_update", map[string]any{"user_id": j.user, "master_key": map[string]any{"x": 2}}), 1, true)

	// Appendices, "Historical User IDs": device list updates from non-compliant user IDs are dropped.
	odd := p.join(room, p.user("härm"))
	again("a historical user id", eduOf("m.device_list_update", map[string]any{"user_id": odd.user, "device_id": "A", "stream_id": 1}), 0, true)
	again("a historical user id", eduOf("m.signing_key_update", map[string]any{"user_id": odd.user, "master_key": map[string]any{"x": 2}}), 0, true)
}
