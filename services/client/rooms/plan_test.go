package rooms

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	roomv1 "hanse/proto/room/v1"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func planOf(version string, invitees ...id.User) *plan {
	rules, _ := roomversion.Get(version)
	return &plan{rules: rules, creator: "@anna:a.example", invitees: invitees,
		isLocal:  func(u id.User) bool { return u.Server() == "a.example" },
		profiles: map[id.User]map[string]json.RawMessage{"@anna:a.example": {"displayname": json.RawMessage(`"Anna"`)}}}
}

func composed(t *testing.T, p *plan, body string) *roomv1.CreateRequest {
	t.Helper()
	var q createRequest
	must(t, json.Unmarshal([]byte(body), &q))
	invitees, err := q.check()
	must(t, err)
	p.invitees = append(p.invitees, invitees...)
	req, err := p.request(&q)
	must(t, err)
	return req
}

// Client-server API, "Creation": the order in which the server applies the events.
func TestOrderOfNewRooms(t *testing.T) {
	p := planOf("11", "@bert:a.example", "@carl:b.example")
	p.alias = "#x:a.example"
	req := composed(t, p, `{"name":"n","topic":"t","visibility":"public","initial_state":[{"type":"a","state_key":"k","content":{}}]}`)
	var got []string
	for _, e := range req.Events {
		got = append(got, e.Type+"/"+*e.StateKey)
	}
	want := []string{"m.room.member/@anna:a.example", "m.room.power_levels/", "m.room.canonical_alias/", "m.room.join_rules/",
		"m.room.history_visibility/", "a/k", "m.room.name/", "m.room.topic/", "m.room.member/@bert:a.example"}
	if !slices.Equal(got, want) {
		t.Errorf("events %v, want %v", got, want)
	}
	if !slices.Equal(p.later, []id.User{"@carl:b.example"}) {
		t.Errorf("invited later: %v", p.later)
	}
	if !req.Published || req.Cause.Key == "" || req.RoomVersion != "11" {
		t.Errorf("request %v", req)
	}
	if string(req.Events[0].Content) != `{"displayname":"Anna","membership":"join"}` {
		t.Errorf("join: %s", req.Events[0].Content)
	}
}

// initial_state wins over the preset, and power levels of its own replace all of ours.
func TestInitialStateReplaces(t *testing.T) {
	req := composed(t, planOf("11"), `{"power_level_content_override":{"ban":1},"initial_state":[
		{"type":"m.room.history_visibility","content":{"history_visibility":"joined"}},
		{"type":"m.room.guest_access","content":{"guest_access":"forbidden"}},
		{"type":"m.room.power_levels","content":{"users":{"@anna:a.example":9}}}]}`)
	count := make(map[string]string)
	for _, e := range req.Events {
		if _, twice := count[e.Type]; twice {
			t.Errorf("%s twice", e.Type)
		}
		count[e.Type] = string(e.Content)
	}
	if count["m.room.power_levels"] != `{"users":{"@anna:a.example":9}}` || req.Events[1].Type != "m.room.power_levels" {
		t.Errorf("power levels: %s", count["m.room.power_levels"])
	}
	if count["m.room.history_visibility"] != `{"history_visibility":"joined"}` {
		t.Errorf("history visibility: %s", count["m.room.history_visibility"])
	}
}

// Room version 12: with trusted_private_chat those invited become creators; nobody of them has a level.
func TestTrustedCreators(t *testing.T) {
	for _, tc := range []struct{ version, content, create, users string }{
		{"12", `{}`, `{"additional_creators":["@bert:a.example"]}`, `{}`},
		{"12", `{"additional_creators":["@dora:a.example","@anna:a.example"]}`, `{"additional_creators":["@dora:a.example","@bert:a.example"]}`, `{}`},
		{"11", `{}`, `{}`, `{"@anna:a.example":100,"@bert:a.example":100}`},
		{"11", `{"creator":"x","room_version":"1","a":1}`, `{"a":1}`, `{"@anna:a.example":100,"@bert:a.example":100}`},
	} {
		req := composed(t, planOf(tc.version, "@bert:a.example"), `{"preset":"trusted_private_chat","creation_content":`+tc.content+`}`)
		if string(req.CreateContent) != tc.create {
			t.Errorf("version %s: create %s, want %s", tc.version, req.CreateContent, tc.create)
		}
		var levels struct {
			Users json.RawMessage `json:"users"`
		}
		must(t, json.Unmarshal(req.Events[1].Content, &levels))
		if string(levels.Users) != tc.users {
			t.Errorf("version %s: users %s, want %s", tc.version, levels.Users, tc.users)
		}
	}
	for _, bad := range []string{`1`, `["x"]`, `[1]`} {
		q := createRequest{CreationContent: map[string]json.RawMessage{"additional_creators": json.RawMessage(bad)}}
		if _, err := planOf("12").request(&q); err == nil {
			t.Errorf("additional_creators %s accepted", bad)
		}
	}
}

// The first write is bounded: whom it does not invite is invited afterwards.
func TestManyInvites(t *testing.T) {
	var users []string
	for i := range maxInvites {
		users = append(users, fmt.Sprintf(`"@u%d:a.example"`, i))
	}
	p := planOf("12")
	req := composed(t, p, `{"invite":[`+strings.Join(users, ",")+`]}`)
	if len(p.later) != maxInvites-maxBatchInvites || len(req.Events) > 255 {
		t.Errorf("%d later, %d events", len(p.later), len(req.Events))
	}
	var q createRequest
	must(t, json.Unmarshal([]byte(`{"invite":["@x:a.example",`+strings.Join(users, ",")+`]}`), &q))
	if _, err := q.check(); err == nil {
		t.Error("too many invites accepted")
	}
}

// Client-server API, "Room Upgrades": what becomes of power levels.
func TestUpgradedLevels(t *testing.T) {
	var levels any
	must(t, json.Unmarshal([]byte(`{"ban":"50","users":{"@a:b":" 100 ","@c:d":"x"},"events":{"m.x":"70"},"kick":null}`), &levels))
	got, err := json.Marshal(integers(levels))
	must(t, err)
	if string(got) != `{"ban":50,"events":{"m.x":70},"users":{"@a:b":100}}` {
		t.Errorf("integers: %s", got)
	}
	if n := highest(map[string]any{"ban": 20.0, "state_default": 130.0, "events": map[string]any{"x": 170.0}, "users": map[string]any{"@a:b": 900.0}}); n != 170 {
		t.Errorf("highest: %d", n)
	}
	for before, after := range map[string]string{
		`{}`:                                   `{"events_default":50,"invite":50}`,
		`{"users_default":70,"invite":90}`:     `{"events_default":71,"invite":90,"users_default":70}`,
		`{"events_default":0,"invite":"x"}`:    `{"events_default":50,"invite":50}`,
		`{"events_default":100,"invite":10.0}`: `{"events_default":100,"invite":50}`,
	} {
		got, err := json.Marshal(silenced([]byte(before)))
		must(t, err)
		if string(got) != after {
			t.Errorf("silenced %s: %s, want %s", before, got, after)
		}
	}
}

// Client-server API, "m.room.canonical_alias".
func TestCanonicalAliases(t *testing.T) {
	for content, want := range map[string]string{
		`{}`: "", `{"alias":""}`: "", `{"alias":null}`: "", `{"alias":"#a:b","alt_aliases":["#c:d","#a:b"]}`: "#c:d #a:b",
	} {
		got, err := canonicalAliases([]byte(content))
		if err != nil || strings.Join(texts(got), " ") != want {
			t.Errorf("%s: %v %v", content, got, err)
		}
	}
	for _, content := range []string{`{"alias":1}`, `{"alias":"a"}`, `{"alt_aliases":"#a:b"}`, `{"alt_aliases":[""]}`} {
		if got, err := canonicalAliases([]byte(content)); err == nil {
			t.Errorf("%s: %v", content, got)
		}
	}
}
