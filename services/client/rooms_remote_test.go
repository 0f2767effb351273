package client

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	fedv1 "hanse/proto/federation/v1"
)

// far answers requests to far.example by the beginning of their paths.
func (c *cluster) far(answers map[string]string) {
	c.remote.mu.Lock()
	defer c.remote.mu.Unlock()
	c.remote.answer = func(q *fedv1.DoRequest) (int, string) {
		uri, err := url.PathUnescape(q.Uri)
		for prefix, body := range answers {
			if err == nil && q.Destination == "far.example" && strings.HasPrefix(uri, "/_matrix/federation/v1"+prefix) {
				return http.StatusOK, body
			}
		}
		return http.StatusNotFound, `{"errcode":"M_NOT_FOUND","error":"none"}`
	}
}

// Server-server API: what a client waits for is asked even of a server that backs off; what clients ask often, of many
// servers, is not asked if somebody has waited in vain a moment ago.
func TestUserWaitsForServerThatBacksOff(t *testing.T) {
	c := newCluster(t)
	anna := c.register("anna")
	rita := "@rita:far.example"
	for _, tc := range []struct {
		method, path string
		body         any
		asked        string
		sparing      bool
	}{
		{"GET", "/directory/room/" + url.PathEscape("#a:far.example"), nil, "/query/directory", false},
		{"POST", "/publicRooms?server=far.example", map[string]any{}, "/publicRooms", false},
		{"GET", "/profile/" + rita, nil, "/query/profile", false},
		{"POST", "/keys/query", map[string]any{"device_keys": map[string]any{rita: []string{}}}, "/user/keys/query", true},
		{"POST", "/keys/claim", map[string]any{"one_time_keys": map[string]any{rita: map[string]any{"R": "signed_curve25519"}}}, "/user/keys/claim", true},
		{"GET", "/rooms/" + url.PathEscape("!r:far.example") + "/hierarchy", nil, "/hierarchy", true},
	} {
		c.remote.mu.Lock()
		c.remote.asked = nil
		c.remote.mu.Unlock()
		if strings.HasSuffix(tc.path, "/hierarchy") {
			anna.do(tc.method, "/_matrix/client/v1"+tc.path, tc.body)
		} else {
			anna.do(tc.method, v3+tc.path, tc.body)
		}
		c.remote.mu.Lock()
		asked := c.remote.asked
		c.remote.mu.Unlock()
		if len(asked) == 0 || !strings.HasPrefix(asked[0].Uri, "/_matrix/federation/v1"+tc.asked) {
			t.Errorf("%s: asked %v", tc.path, asked)
			continue
		}
		if !asked[0].IgnoreBackoff || asked[0].Sparing != tc.sparing {
			t.Errorf("%s: in spite of a backoff %v, sparing %v, want %v", tc.path, asked[0].IgnoreBackoff, asked[0].Sparing, tc.sparing)
		}
	}
}

// Client-server API, "Room aliases"; server-server API, GET /query/directory.
func TestRemoteAlias(t *testing.T) {
	c := newCluster(t)
	get := func(alias string) *reply {
		return c.do("GET", v3+"/directory/room/"+url.PathEscape(alias), "", nil)
	}
	get("#a:far.example").fails(502, "M_UNKNOWN")
	c.far(map[string]string{"/query/directory?room_alias=#a:far.example": `{"room_id":"!r:far.example","servers":["far.example","not a server"]}`,
		"/query/directory?room_alias=#bad:far.example": `{"room_id":"r"}`})
	if a := get("#a:far.example").ok(); a.str("room_id") != "!r:far.example" || fmt.Sprint(a.get("servers")) != "[far.example]" {
		t.Errorf("alias: %s", a.raw)
	}
	get("#b:far.example").fails(404, "M_NOT_FOUND")
	get("#bad:far.example").fails(502, "M_UNKNOWN")
}

// Client-server API, "Published Room Directory": the server parameter.
func TestRemotePublicRooms(t *testing.T) {
	c := newCluster(t)
	anna := c.register("anna")
	c.far(map[string]string{"/publicRooms": `{"chunk":[{"room_id":"!r:far.example","num_joined_members":1,"world_readable":true,"guest_can_join":false,"x":1}]}`})
	a := anna.do("POST", v3+"/publicRooms?server=far.example", map[string]any{"limit": 3, "since": "s", "filter": map[string]any{"generic_search_term": "x"}}).ok()
	if !strings.Contains(string(a.raw), "!r:far.example") {
		t.Errorf("answer: %s", a.raw)
	}
	anna.do("GET", v3+"/publicRooms?server=nowhere.example", nil).fails(404, "M_NOT_FOUND")
	anna.do("GET", v3+"/publicRooms?server=not+a+server", nil).fails(400, "M_INVALID_PARAM")
	c.remote.mu.Lock()
	defer c.remote.mu.Unlock()
	if body := string(c.remote.asked[0].Body); body != `{"limit":3,"since":"s","filter":{"generic_search_term":"x"}}` || c.remote.asked[0].Method != "POST" {
		t.Errorf("asked %s", body)
	}
}

// Client-server API, "Discovering rooms within spaces" and "Room Summaries", of rooms that only others know.
func TestRemoteHierarchy(t *testing.T) {
	c := newCluster(t)
	anna := c.register("anna")
	summary := func(room, rule, more string) string {
		return fmt.Sprintf(`{"room_id":%q,"join_rule":%q,"num_joined_members":2,"world_readable":false,"guest_can_join":false%s}`, room, rule, more)
	}
	child := func(room, order string) string {
		return fmt.Sprintf(`{"type":"m.space.child","state_key":%q,"content":{"via":["far.example"],"order":%q},"sender":"@x:far.example","origin_server_ts":1}`, room, order)
	}
	space := `,"room_type":"m.space","children_state":`
	allowed := `,"allowed_room_ids":["!mine:a.example"]`
	c.far(map[string]string{
		"/hierarchy/!root:far.example": `{"room":` + summary("!root:far.example", "public", space+"["+
			strings.Join([]string{child("!b:far.example", "b"), child("!sub:far.example", "a"), child("!hidden:far.example", "c"), child("!ours:far.example", "d"), child("!plain:far.example", "bb"),
				`{"type":"m.space.child","state_key":"x","content":{}}`, `1`}, ",")+"]") +
			`,"children":[` + strings.Join([]string{summary("!b:far.example", "public", ""), summary("!sub:far.example", "public", space+`[]`),
			summary("!hidden:far.example", "invite", ""), strings.Replace(summary("!plain:far.example", "public", ""), `"join_rule":"public",`, "", 1),
			summary("!ours:far.example", "restricted", allowed), "null"}, ",") + `]}`,
		"/hierarchy/!sub:far.example": `{"room":` + summary("!sub:far.example", "public", space+"["+child("!leaf:far.example", "")+"]") +
			`,"children":[` + summary("!leaf:far.example", "knock", "") + `]}`,
		"/hierarchy/!liar:far.example": `{"room":` + summary("!root:far.example", "public", "") + `}`,
	})
	walk := func() []string {
		var rooms []string
		list, _ := anna.do("GET", "/_matrix/client/v1/rooms/"+url.PathEscape("!root:far.example")+"/hierarchy", nil).ok().get("rooms").([]any)
		for _, r := range list {
			rooms = append(rooms, r.(map[string]any)["room_id"].(string))
		}
		return rooms
	}
	want := []string{"!root:far.example", "!sub:far.example", "!leaf:far.example", "!b:far.example", "!plain:far.example"}
	if got := walk(); !slices.Equal(got, want) {
		t.Errorf("hierarchy: %v, want %v", got, want)
	}
	c.join(anna.id, "!mine:a.example", "join")
	if got := walk(); !slices.Equal(got, append(want, "!ours:far.example")) {
		t.Errorf("hierarchy for a member: %v", got)
	}
	path := "/_matrix/client/v1/room_summary/"
	a := anna.do("GET", path+url.PathEscape("!b:elsewhere.example")+"?via=far.example", nil)
	a.fails(404, "M_NOT_FOUND")
	a = anna.do("GET", path+url.PathEscape("!root:far.example")+"?via=nowhere.example&via=far.example", nil).ok()
	if a.str("join_rule") != "public" || a.get("children_state") != nil {
		t.Errorf("summary: %s", a.raw)
	}
	anna.do("GET", path+url.PathEscape("!liar:far.example"), nil).fails(404, "M_NOT_FOUND")
	c.do("GET", path+url.PathEscape("!root:far.example")+"?via=far.example", "", nil).fails(404, "M_NOT_FOUND") // only for users
}

// Client-server API, "Guest Access", "Server behaviour": guests join rooms of other servers that say that they admit guests. When
// we are in the room and that is not so, the guest leaves again.
func TestGuestsJoinElsewhere(t *testing.T) {
	c := newCluster(t, func(cfg *Config, _ *Deps) { cfg.Registration.Guests = true })
	token := c.do("POST", v3+"/register?kind=guest", "", map[string]any{}).ok().str("access_token")
	summary := func(room string, guests bool) string {
		return fmt.Sprintf(`{"room":{"room_id":%q,"join_rule":"public","num_joined_members":2,"world_readable":false,"guest_can_join":%v}}`, room, guests)
	}
	c.far(map[string]string{
		"/hierarchy/!open:far.example":   summary("!open:far.example", true),
		"/hierarchy/!closed:far.example": summary("!closed:far.example", false),
	})
	for _, q := range []struct {
		room         string
		joins, leave int
	}{{"!closed:far.example", 0, 0}, {"!unknown:far.example", 0, 0}, {"!open:far.example", 1, 1}} {
		c.do("POST", v3+"/join/"+url.PathEscape(q.room)+"?via=far.example", token, map[string]any{}).fails(403, "M_GUEST_ACCESS_FORBIDDEN")
		c.rooms.mu.Lock()
		if len(c.rooms.joins) != q.joins || len(c.rooms.leaves) != q.leave {
			t.Errorf("%s: %d joins, %d leaves", q.room, len(c.rooms.joins), len(c.rooms.leaves))
		}
		c.rooms.mu.Unlock()
	}
	c.do("PUT", v3+"/rooms/"+url.PathEscape("!open:far.example")+"/state/m.room.member/@x:a.example", token,
		map[string]any{"membership": "join"}).fails(403, "M_GUEST_ACCESS_FORBIDDEN")
}
