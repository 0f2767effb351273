package directory_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"hanse/services/client/clienttest"
)

const v3 = clienttest.V3

// Client-server API, "Room aliases"; server-server API, GET /query/directory.
func TestRemoteAlias(t *testing.T) {
	c := clienttest.New(t)
	get := func(alias string) *clienttest.Reply {
		return c.Do("GET", v3+"/directory/room/"+url.PathEscape(alias), "", nil)
	}
	get("#a:far.example").Fails(502, "M_UNKNOWN")
	c.Far(map[string]string{"/query/directory?room_alias=#a:far.example": `{"room_id":"!r:far.example","servers":["far.example","not a server"]}`,
		"/query/directory?room_alias=#bad:far.example": `{"room_id":"r"}`})
	if a := get("#a:far.example").OK(); a.Str("room_id") != "!r:far.example" || fmt.Sprint(a.Get("servers")) != "[far.example]" {
		t.Errorf("alias: %s", a.Raw)
	}
	get("#b:far.example").Fails(404, "M_NOT_FOUND")
	get("#bad:far.example").Fails(502, "M_UNKNOWN")
}

// Client-server API, "Published Room Directory": the server parameter.
func TestRemotePublicRooms(t *testing.T) {
	c := clienttest.New(t)
	anna := c.Register("anna")
	c.Far(map[string]string{"/publicRooms": `{"chunk":[{"room_id":"!r:far.example","num_joined_members":1,"world_readable":true,"guest_can_join":false,"x":1}]}`})
	a := anna.Do("POST", v3+"/publicRooms?server=far.example", map[string]any{"limit": 3, "since": "s", "filter": map[string]any{"generic_search_term": "x"}}).OK()
	if !strings.Contains(string(a.Raw), "!r:far.example") {
		t.Errorf("answer: %s", a.Raw)
	}
	anna.Do("GET", v3+"/publicRooms?server=nowhere.example", nil).Fails(404, "M_NOT_FOUND")
	anna.Do("GET", v3+"/publicRooms?server=not+a+server", nil).Fails(400, "M_INVALID_PARAM")
	c.Remote.Mu.Lock()
	defer c.Remote.Mu.Unlock()
	if body := string(c.Remote.Asked[0].Body); body != `{"limit":3,"since":"s","filter":{"generic_search_term":"x"}}` || c.Remote.Asked[0].Method != "POST" {
		t.Errorf("asked %s", body)
	}
}

// Client-server API, "Discovering rooms within spaces" and "Room Summaries", of rooms that only others know.
func TestRemoteHierarchy(t *testing.T) {
	c := clienttest.New(t)
	anna := c.Register("anna")
	summary := func(room, rule, more string) string {
		return fmt.Sprintf(`{"room_id":%q,"join_rule":%q,"num_joined_members":2,"world_readable":false,"guest_can_join":false%s}`, room, rule, more)
	}
	child := func(room, order string) string {
		return fmt.Sprintf(`{"type":"m.space.child","state_key":%q,"content":{"via":["far.example"],"order":%q},"sender":"@x:far.example","origin_server_ts":1}`, room, order)
	}
	space := `,"room_type":"m.space","children_state":`
	allowed := `,"allowed_room_ids":["!mine:a.example"]`
	c.Far(map[string]string{
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
		list, _ := anna.Do("GET", "/_matrix/client/v1/rooms/"+url.PathEscape("!root:far.example")+"/hierarchy", nil).OK().Get("rooms").([]any)
		for _, r := range list {
			rooms = append(rooms, r.(map[string]any)["room_id"].(string))
		}
		return rooms
	}
	want := []string{"!root:far.example", "!sub:far.example", "!leaf:far.example", "!b:far.example", "!plain:far.example"}
	if got := walk(); !slices.Equal(got, want) {
		t.Errorf("hierarchy: %v, want %v", got, want)
	}
	c.Join(anna.ID, "!mine:a.example", "join")
	if got := walk(); !slices.Equal(got, append(want, "!ours:far.example")) {
		t.Errorf("hierarchy for a member: %v", got)
	}
	path := "/_matrix/client/v1/room_summary/"
	a := anna.Do("GET", path+url.PathEscape("!b:elsewhere.example")+"?via=far.example", nil)
	a.Fails(404, "M_NOT_FOUND")
	a = anna.Do("GET", path+url.PathEscape("!root:far.example")+"?via=nowhere.example&via=far.example", nil).OK()
	if a.Str("join_rule") != "public" || a.Get("children_state") != nil {
		t.Errorf("summary: %s", a.Raw)
	}
	anna.Do("GET", path+url.PathEscape("!liar:far.example"), nil).Fails(404, "M_NOT_FOUND")
	c.Do("GET", path+url.PathEscape("!root:far.example")+"?via=far.example", "", nil).Fails(404, "M_NOT_FOUND") // only for users
}
