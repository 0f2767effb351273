package e2e

import (
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"hanse/tools/e2e/people"
	"hanse/tools/mxclient"
)

// guide makes plain requests and expects a status; the watch judges the answers.
type guide struct {
	*scene
	*mxclient.Client
	me string // the user id, escaped
}

func (s *scene) guide(server int) *guide {
	s.Helper()
	c := try(s.server(server).API.RegisterShared(s.ctx, s.server(server).SharedSecret, s.name("guide"), password, false))(s)
	return &guide{scene: s, Client: c, me: url.PathEscape(c.UserID)}
}

// ask makes a request; path is below /_matrix/client.
func (g *guide) ask(status int, method, path, body string) gjson.Result {
	g.Helper()
	path, query, _ := strings.Cut(path, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		g.Fatal(err)
	}
	var raw []byte
	call := mxclient.Call{Method: method, Path: "/_matrix/client" + path, Query: values, Out: &raw}
	if body != "" {
		call.Body = []byte(body)
	}
	err = g.Do(g.ctx, call)
	got := 200
	var refusal *mxclient.Error
	if errors.As(err, &refusal) {
		got, raw = refusal.Status, refusal.Body
	} else if err != nil {
		g.Fatalf("%s %s: %v", method, path, err)
	}
	if got != status {
		g.Errorf("%s %s: %d %s, want %d", method, path, got, raw, status)
	}
	return gjson.ParseBytes(raw)
}

// same fails unless a value is as expected.
func (g *guide) same(what, got, want string) {
	g.Helper()
	if got != want {
		g.Errorf("%s: %q, want %q", what, got, want)
	}
}

func quoted(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(raw)
}

// tour visits what the other scenarios' clients do not ask for.
func tour(s *scene) {
	g := s.guide(0)
	g.tourAccount()
	g.tourData()
	g.tourPushRules()
	g.tourKeyBackup()
	g.tourRooms()
	g.tourDiscovery()
	s.guide(0).tourEnd()
}

func (g *guide) tourAccount() {
	g.Helper()
	g.ask(200, "GET", "/versions", "")
	g.ask(200, "GET", "/v3/login", "")
	g.ask(200, "GET", "/v3/capabilities", "")
	g.ask(200, "GET", "/r0/account/whoami", "")
	g.ask(200, "GET", "/v3/register/available?username="+g.name("free"), "")
	g.ask(400, "GET", "/v3/register/available?username="+strings.TrimPrefix(strings.Split(g.UserID, ":")[0], "@"), "")
	g.same("devices", g.ask(200, "GET", "/v3/devices", "").Get("devices.0.device_id").String(), g.DeviceID)
	g.ask(200, "PUT", "/v3/devices/"+g.DeviceID, `{"display_name":"Sextant"}`)
	g.same("device", g.ask(200, "GET", "/v3/devices/"+g.DeviceID, "").Get("display_name").String(), "Sextant")
	g.ask(404, "GET", "/v3/devices/NOSUCH", "")

	login := g.ask(200, "POST", "/v3/login", `{"type":"m.login.password","identifier":{"type":"m.id.user","user":`+quoted(g.UserID)+
		`},"password":`+quoted(password)+`,"refresh_token":true}`)
	refreshed := g.ask(200, "POST", "/v3/refresh", `{"refresh_token":`+quoted(login.Get("refresh_token").String())+`}`)
	if refreshed.Get("access_token").String() == login.Get("access_token").String() {
		g.Error("the refreshed token is the old one")
	}
	g.ask(401, "POST", "/v3/refresh", `{"refresh_token":"garbage"}`)
	second := login.Get("device_id").String()
	challenge := g.ask(401, "DELETE", "/v3/devices/"+second, `{}`)
	g.ask(200, "DELETE", "/v3/devices/"+second, `{"auth":{"type":"m.login.password","session":`+quoted(challenge.Get("session").String())+
		`,"identifier":{"type":"m.id.user","user":`+quoted(g.UserID)+`},"password":`+quoted(password)+`}}`)
	g.ask(200, "GET", "/v3/account/3pid", "")
	g.ask(200, "GET", "/v3/pushers", "")
	g.ask(200, "POST", "/v3/user/"+g.me+"/openid/request_token", `{}`)
	g.ask(200, "GET", "/v3/thirdparty/protocols", "")
}

func (g *guide) tourData() {
	g.Helper()
	g.ask(200, "PUT", "/v3/user/"+g.me+"/account_data/org.example.chart", `{"x":1}`)
	g.same("account data", g.ask(200, "GET", "/v3/user/"+g.me+"/account_data/org.example.chart", "").Get("x").String(), "1")
	g.ask(404, "GET", "/v3/user/"+g.me+"/account_data/org.example.none", "")
	filter := g.ask(200, "POST", "/v3/user/"+g.me+"/filter", `{"room":{"timeline":{"limit":5},"state":{"lazy_load_members":true}}}`).Get("filter_id").String()
	g.same("filter", g.ask(200, "GET", "/v3/user/"+g.me+"/filter/"+filter, "").Get("room.timeline.limit").String(), "5")
	g.ask(404, "GET", "/v3/user/"+g.me+"/filter/4711", "")
	for _, query := range []string{"", "?full_state=true", "?use_state_after=true", "?filter=" + filter, "?set_presence=offline"} {
		g.ask(200, "GET", "/v3/sync"+query, "")
	}
	g.ask(200, "PUT", "/v3/profile/"+g.me+"/displayname", `{"displayname":"Guide"}`)
	g.ask(200, "PUT", "/v3/profile/"+g.me+"/avatar_url", `{"avatar_url":"mxc://example.org/avatar"}`)
	g.same("name", g.ask(200, "GET", "/v3/profile/"+g.me+"/displayname", "").Get("displayname").String(), "Guide")
	g.ask(200, "GET", "/v3/profile/"+g.me, "")
	g.ask(200, "PUT", "/v3/profile/"+g.me+"/m.tz", `{"m.tz":"Europe/Berlin"}`)
	g.ask(200, "DELETE", "/v3/profile/"+g.me+"/m.tz", "")
	g.ask(200, "PUT", "/v3/presence/"+g.me+"/status", `{"presence":"online","status_msg":"here"}`)
	g.same("status", g.ask(200, "GET", "/v3/presence/"+g.me+"/status", "").Get("status_msg").String(), "here")
	g.ask(200, "POST", "/v3/user_directory/search", `{"search_term":"Guide"}`)
	g.ask(200, "GET", "/v3/joined_rooms", "")
}

func (g *guide) tourPushRules() {
	g.Helper()
	g.ask(200, "GET", "/v3/pushrules/", "")
	g.ask(200, "GET", "/v3/pushrules/global/", "")
	rule := "/v3/pushrules/global/content/org.example.whale"
	g.ask(200, "PUT", rule, `{"pattern":"whale","actions":["notify"]}`)
	g.same("rule", g.ask(200, "GET", rule, "").Get("pattern").String(), "whale")
	g.ask(200, "PUT", rule+"/actions", `{"actions":["notify",{"set_tweak":"highlight"}]}`)
	g.ask(200, "GET", rule+"/actions", "")
	g.ask(200, "PUT", rule+"/enabled", `{"enabled":false}`)
	g.same("enabled", g.ask(200, "GET", rule+"/enabled", "").Get("enabled").String(), "false")
	g.ask(200, "DELETE", rule, "")
	g.ask(404, "GET", rule, "")
}

func (g *guide) tourKeyBackup() {
	g.Helper()
	g.ask(404, "GET", "/v3/room_keys/version", "")
	version := g.ask(200, "POST", "/v3/room_keys/version", `{"algorithm":"m.megolm_backup.v1.curve25519-aes-sha2","auth_data":{"public_key":"abc","signatures":{}}}`).Get("version").String()
	g.same("version", g.ask(200, "GET", "/v3/room_keys/version", "").Get("version").String(), version)
	g.ask(200, "GET", "/v3/room_keys/version/"+version, "")
	g.ask(200, "PUT", "/v3/room_keys/version/"+version, `{"algorithm":"m.megolm_backup.v1.curve25519-aes-sha2","auth_data":{"public_key":"abc","signatures":{"x":{"y":"z"}}}}`)
	key := `{"first_message_index":1,"forwarded_count":0,"is_verified":true,"session_data":{"ephemeral":"a","ciphertext":"b","mac":"c"}}`
	keys := "/v3/room_keys/keys"
	room := keys + "/%21r:example.org"
	for path, body := range map[string]string{room + "/s1": key, room: `{"sessions":{"s2":` + key + `}}`,
		keys: `{"rooms":{"!r:example.org":{"sessions":{"s3":` + key + `}}}}`} {
		g.ask(200, "PUT", path+"?version="+version, body)
		g.ask(200, "GET", path+"?version="+version, "")
	}
	g.same("keys", g.ask(200, "GET", "/v3/room_keys/version", "").Get("count").String(), "3")
	for _, path := range []string{room + "/s1", room, keys} {
		g.ask(200, "DELETE", path+"?version="+version, "")
	}
	g.ask(200, "DELETE", "/v3/room_keys/version/"+version, "")
}

func (g *guide) tourRooms() {
	g.Helper()
	room := try(g.CreateRoom(g.ctx, mxclient.NewRoom{Preset: "public_chat", Name: "Harbour"}))(g.scene)
	at := "/v3/rooms/" + url.PathEscape(room)
	said := try(g.SendText(g.ctx, room, "s1", "Land ahoy"))(g.scene)
	g.ask(200, "GET", "/v1/rooms/"+url.PathEscape(room)+"/timestamp_to_event?dir=b&ts=9999999999999", "")
	g.ask(200, "GET", at+"/event/"+url.PathEscape(said), "")
	g.ask(200, "GET", at+"/context/"+url.PathEscape(said), "")
	g.ask(200, "GET", at+"/members", "")
	g.ask(200, "GET", at+"/joined_members", "")
	g.ask(200, "GET", at+"/state", "")
	g.same("name", g.ask(200, "GET", at+"/state/m.room.name", "").Get("name").String(), "Harbour")
	g.ask(200, "GET", at+"/state/m.room.name/?format=event", "")
	g.ask(200, "GET", at+"/aliases", "")
	g.ask(200, "POST", at+"/read_markers", `{"m.fully_read":`+quoted(said)+`,"m.read":`+quoted(said)+`}`)
	data := "/v3/user/" + g.me + "/rooms/" + url.PathEscape(room)
	g.ask(200, "PUT", data+"/account_data/org.example", `{"n":1}`)
	g.ask(200, "GET", data+"/account_data/org.example", "")
	g.ask(200, "PUT", data+"/tags/m.favourite", `{"order":0.5}`)
	g.same("tag", g.ask(200, "GET", data+"/tags", "").Get(`tags.m\.favourite.order`).String(), "0.5")
	g.ask(200, "DELETE", data+"/tags/m.favourite", "")
	g.ask(200, "PUT", "/v3/directory/list/room/"+url.PathEscape(room), `{"visibility":"public"}`)
	g.same("listed", g.ask(200, "GET", "/v3/directory/list/room/"+url.PathEscape(room), "").Get("visibility").String(), "public")
	g.ask(200, "POST", "/v3/publicRooms", `{"limit":5,"filter":{"generic_search_term":"harbour"}}`)
	g.ask(200, "POST", at+"/report/"+url.PathEscape(said), `{"reason":"too loud"}`)
	g.ask(200, "POST", at+"/report", `{"reason":"too loud"}`)
	g.ask(200, "GET", "/v1/rooms/"+url.PathEscape(room)+"/hierarchy", "")
	g.ask(200, "GET", "/v1/room_summary/"+url.PathEscape(room), "")
	upgraded := g.ask(200, "POST", at+"/upgrade", `{"new_version":"11"}`).Get("replacement_room").String()
	g.same("tombstone", g.ask(200, "GET", at+"/state/m.room.tombstone", "").Get("replacement_room").String(), upgraded)
	g.ask(200, "POST", at+"/leave", `{}`)
	g.ask(200, "POST", at+"/forget", `{}`)
	g.ask(200, "POST", "/v3/rooms/"+url.PathEscape(upgraded)+"/join", `{}`)
}

// tourDiscovery asks one server about the other's rooms, and looks at what is public.
func (g *guide) tourDiscovery() {
	g.Helper()
	far := g.guide(1)
	room := try(far.CreateRoom(g.ctx, mxclient.NewRoom{Preset: "public_chat", Name: "Far harbour", Visibility: "public"}))(g.scene)
	g.ask(200, "GET", "/v3/publicRooms?server="+url.QueryEscape(g.server(1).ServerName), "")
	g.ask(200, "POST", "/v3/publicRooms?server="+url.QueryEscape(g.server(1).ServerName), `{"limit":3,"filter":{"generic_search_term":"far"}}`)
	space := try(g.CreateRoom(g.ctx, mxclient.NewRoom{Preset: "public_chat", CreationContent: map[string]any{"type": "m.space"}}))(g.scene)
	g.ask(200, "PUT", "/v3/rooms/"+url.PathEscape(space)+"/state/m.space.child/"+url.PathEscape(room), `{"via":[`+quoted(g.server(1).ServerName)+`]}`)
	children := g.ask(200, "GET", "/v1/rooms/"+url.PathEscape(space)+"/hierarchy", "").Get("rooms.#").String()
	g.same("rooms of the space", children, "2")
	g.same("summary", g.ask(200, "GET", "/v1/room_summary/"+url.PathEscape(room)+"?via="+url.QueryEscape(g.server(1).ServerName), "").Get("name").String(), "Far harbour")
	g.ask(200, "GET", "/v3/profile/"+far.me, "")

	// An invitation from afar that is rejected, and one that is taken back.
	for range 2 {
		if err := far.Invite(g.ctx, room, g.UserID); err != nil {
			g.Fatal(err)
		}
		g.eventually("the invitation", func() bool {
			synced := try(g.Sync(g.ctx, mxclient.SyncRequest{Timeout: time.Second}))(g.scene)
			_, ok := synced.Rooms.Invite[room]
			return ok
		})
		g.ask(200, "POST", "/v3/rooms/"+url.PathEscape(room)+"/leave", `{}`)
		g.eventually("the rejection", func() bool {
			var member struct{ Membership string }
			err := far.StateContent(g.ctx, room, "m.room.member", g.UserID, &member)
			return err == nil && member.Membership == "leave"
		})
	}
	for _, kind := range []people.Kind{people.Go, people.JS} {
		p := g.person(kind, 0, "guest")
		g.join(p, room, g.server(1))
		g.do(p, "leave", people.Args{"room": room}, nil)
	}
}

// tourEnd closes accounts.
func (g *guide) tourEnd() {
	g.Helper()
	auth := func(session, password string) string {
		return `"auth":{"type":"m.login.password","session":` + quoted(session) + `,"identifier":{"type":"m.id.user","user":` + quoted(g.UserID) + `},"password":` + quoted(password) + `}`
	}
	session := g.ask(401, "POST", "/v3/account/password", `{"new_password":"a new long password"}`).Get("session").String()
	g.ask(200, "POST", "/v3/account/password", `{"new_password":"a new long password",`+auth(session, password)+`}`)
	session = g.ask(401, "POST", "/v3/account/deactivate", `{}`).Get("session").String()
	g.ask(401, "POST", "/v3/account/deactivate", `{`+auth(session, password)+`}`)
	g.ask(200, "POST", "/v3/account/deactivate", `{`+auth(session, "a new long password")+`}`)
	g.ask(401, "GET", "/v3/account/whoami", "")
	other := g.guide(0)
	other.ask(200, "POST", "/v3/logout/all", `{}`)
	other.ask(401, "GET", "/v3/account/whoami", "")
}
