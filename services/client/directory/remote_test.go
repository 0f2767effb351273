package directory_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/partition"
	"hanse/pkg/state"
	fedv1 "hanse/proto/federation/v1"
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

// asked counts the requests to other servers about a room.
func asked(c *clienttest.Cluster, room string) (n int) {
	c.Remote.Mu.Lock()
	defer c.Remote.Mu.Unlock()
	for _, q := range c.Remote.Asked {
		if strings.HasPrefix(q.Uri, "/_matrix/federation/v1/hierarchy/"+url.PathEscape(room)) {
			n++
		}
	}
	return n
}

// A room that others know is asked for once, however many want to know at once and one after the other. What is told of it is shown
// to each by their own rights.
func TestHierarchyIsAskedForOnce(t *testing.T) {
	c := clienttest.New(t)
	anna, bert := c.Register("anna"), c.Register("bert")
	c.Join(anna.ID, "!mine:a.example", "join")
	const room = "!club:far.example"
	release, waiting := make(chan struct{}), make(chan struct{}, 100)
	c.Remote.Mu.Lock()
	c.Remote.Answer = func(*fedv1.DoRequest) (int, string) {
		waiting <- struct{}{}
		<-release
		return 200, `{"room":{"room_id":"` + room + `","join_rule":"restricted","allowed_room_ids":["!mine:a.example"],"num_joined_members":2,"world_readable":false,"guest_can_join":false}}`
	}
	c.Remote.Mu.Unlock()
	path := "/_matrix/client/v1/rooms/" + url.PathEscape(room) + "/hierarchy"
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if a := anna.Do("GET", path, nil); a.Status != 200 {
				t.Errorf("anna: %d %s", a.Status, a.Raw)
			}
		})
	}
	<-waiting
	close(release)
	all.Wait()
	bert.Do("GET", path, nil).Fails(403, "M_FORBIDDEN")
	anna.Do("GET", path, nil).OK()
	if n := asked(c, room); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// Client-server API, "Discovering rooms within spaces": whoever may not know of a room is not shown it. Of a room that we are in nobody else
// is asked: others may say that it is open.
func TestHierarchyOfClosedRoom(t *testing.T) {
	c := clienttest.New(t)
	anna := c.Register("anna")
	const room = "!closed:far.example"
	part := partition.Of(room)
	q := new(pgx.Batch)
	q.Queue(`INSERT INTO room (part, room_nid, room_id, version, sid, extremities, depth, joined, joined_local) VALUES ($1, 1, $2, '11', 1, '{}', 1, 2, 1)`, int32(part), room)
	q.Queue(`INSERT INTO event (part, event_nid, room_nid, event_id, ord, depth, type, state_key, sender, origin_ts, auth, prev, json)
		VALUES ($1, 1, 1, '$rules', 1, 1, 'm.room.join_rules', '', '@x:far.example', 1, '{}', '{}', $2)`, int32(part),
		[]byte(`{"type":"m.room.join_rules","room_id":"`+room+`","sender":"@x:far.example","state_key":"","content":{"join_rule":"invite"},"depth":1,"origin_server_ts":1,"prev_events":[],"auth_events":[],"hashes":{},"signatures":{}}`))
	b := state.NewWriter(state.NewStore(state.DefaultConfig(), nil)).Batch()
	_, err := b.Root(part, 1, state.New(func(yield func(state.Key, int64) bool) { yield(state.Key{Type: "m.room.join_rules"}, 1) }))
	clienttest.Must(t, err)
	b.Queue(q)
	clienttest.Must(t, c.Shards.For(part).SendBatch(t.Context(), q).Close())
	c.Far(map[string]string{"/hierarchy/" + room: `{"room":{"room_id":"` + room + `","join_rule":"public","num_joined_members":2,"world_readable":true,"guest_can_join":true}}`})
	anna.Do("GET", "/_matrix/client/v1/rooms/"+url.PathEscape(room)+"/hierarchy?via=far.example", nil).Fails(403, "M_FORBIDDEN")
	anna.Do("GET", "/_matrix/client/v1/room_summary/"+url.PathEscape(room)+"?via=far.example", nil).Fails(404, "M_NOT_FOUND")
	if n := asked(c, room); n != 0 {
		t.Errorf("asked %d times", n)
	}
}
