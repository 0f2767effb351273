package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"hanse/pkg/matrix/id"
	"hanse/pkg/token"
	"hanse/tools/e2e/world"
	"hanse/tools/mxclient"
)

// bad is a request that has to be refused.
type bad struct {
	what         string
	method, path string
	token        string // "-": none
	body         string
	status       int
	code         string // "" takes any
}

// badInput: what is wrong gets the status and the errcode that the specification names, at each server.
func badInput(s *scene) {
	for i := range s.Servers {
		server := s.Servers[i]
		for _, b := range clientMistakes(s, server) {
			s.refuse(server, b, false)
		}
		for _, b := range federationMistakes() {
			s.refuse(server, b, true)
		}
	}
}

func deep(levels int) string {
	return strings.Repeat(`{"a":`, levels) + "1" + strings.Repeat("}", levels)
}

// clientMistakes is the table of the client API.
func clientMistakes(s *scene, server *world.Server) []bad {
	s.Helper()
	register := func() *mxclient.Client {
		return try(server.API.RegisterShared(s.ctx, server.SharedSecret, s.name("clumsy"), password, false))(s)
	}
	me, other, gone := register(), register(), register()
	if err := gone.Logout(s.ctx); err != nil {
		s.Fatal(err)
	}
	mine := try(me.CreateRoom(s.ctx, mxclient.NewRoom{Preset: "private_chat"}))(s)
	theirs := try(other.CreateRoom(s.ctx, mxclient.NewRoom{Preset: "private_chat"}))(s)
	hidden := try(other.SendText(s.ctx, theirs, "t1", "secret"))(s)
	alias := s.name("taken")
	try(other.CreateRoom(s.ctx, mxclient.NewRoom{Preset: "public_chat", AliasName: alias}))(s)
	synced := try(me.Sync(s.ctx, mxclient.SyncRequest{}))(s)
	foreign := try(other.Sync(s.ctx, mxclient.SyncRequest{}))(s)

	send, state := "/rooms/"+mine+"/send/m.room.message/", "/rooms/"+mine+"/state/"
	ok := `{"msgtype":"m.text","body":"x"}`
	table := []bad{
		{"no token", "GET", "/account/whoami", "-", "", 401, "M_MISSING_TOKEN"},
		{"a made-up token", "GET", "/account/whoami", "garbage", "", 401, "M_UNKNOWN_TOKEN"},
		{"a token of a session that ended", "GET", "/account/whoami", gone.AccessToken, "", 401, "M_UNKNOWN_TOKEN"},
		{"half a token", "GET", "/account/whoami", me.AccessToken[:len(me.AccessToken)/2], "", 401, "M_UNKNOWN_TOKEN"},
		{"a token with more behind it", "GET", "/account/whoami", me.AccessToken + "x", "", 401, "M_UNKNOWN_TOKEN"},
		{"an unknown endpoint", "GET", "/no/such/thing", "", "", 404, "M_UNRECOGNIZED"},
		{"an unknown method", "PATCH", "/account/whoami", "", "", 405, "M_UNRECOGNIZED"},
		{"a wrong method", "DELETE", "/sync", "", "", 405, "M_UNRECOGNIZED"},
		{"a wrong method of a room's endpoint", "POST", send + "w1", "", ok, 405, "M_UNRECOGNIZED"},

		{"no JSON", "PUT", send + "b1", "", `{"body":`, 400, "M_NOT_JSON"},
		{"JSON and more", "PUT", send + "b2", "", ok + "x", 400, "M_NOT_JSON"},
		{"an array for an object", "PUT", send + "b3", "", `[]`, 400, "M_BAD_JSON"},
		{"invalid UTF-8", "PUT", send + "b4", "", "{\"body\":\"\xff\xfe\",\"msgtype\":\"m.text\"}", 400, "M_NOT_JSON"},
		{"a fraction", "PUT", send + "b5", "", `{"body":"x","msgtype":"m.text","n":1.5}`, 400, "M_BAD_JSON"},
		{"a number out of range", "PUT", send + "b6", "", `{"body":"x","msgtype":"m.text","n":9007199254740993}`, 400, "M_BAD_JSON"},
		{"a deep object", "PUT", send + "b7", "", deep(10_000), 400, ""},
		{"a deep array", "PUT", send + "b8", "", `{"a":` + strings.Repeat("[", 30_000) + strings.Repeat("]", 30_000) + "}", 400, ""},
		{"a large event", "PUT", send + "b9", "", `{"msgtype":"m.text","body":"` + strings.Repeat("x", 66_000) + `"}`, 413, "M_TOO_LARGE"},
		{"a huge body", "PUT", send + "b10", "", `{"msgtype":"m.text","body":"` + strings.Repeat("x", 30<<20) + `"}`, 413, "M_TOO_LARGE"},
		{"a long event type", "PUT", "/rooms/" + mine + "/send/" + strings.Repeat("t", 256) + "/b11", "", ok, 413, "M_TOO_LARGE"},
		{"a long state key", "PUT", state + "org.example/" + strings.Repeat("k", 256), "", "{}", 413, "M_TOO_LARGE"},

		{"a garbage since", "GET", "/sync?since=garbage", "", "", 400, "M_INVALID_PARAM"},
		{"another's since", "GET", "/sync?since=" + foreign.NextBatch, "", "", 400, "M_INVALID_PARAM"},
		{"a since of the future", "GET", "/sync?since=" + ahead(s, synced.NextBatch, me.UserID), "", "", 400, "M_INVALID_PARAM"},
		{"a changed since", "GET", "/sync?since=" + synced.NextBatch + "AA", "", "", 400, "M_INVALID_PARAM"},
		{"a timeout that is no number", "GET", "/sync?timeout=soon", "", "", 400, "M_INVALID_PARAM"},
		{"an unknown filter", "GET", "/sync?filter=4711", "", "", 400, ""},
		{"a broken filter", "GET", "/sync?filter=%7B", "", "", 400, ""},
		{"a garbage from", "GET", "/rooms/" + mine + "/messages?dir=b&from=garbage", "", "", 400, "M_INVALID_PARAM"},
		{"no direction", "GET", "/rooms/" + mine + "/messages", "", "", 400, "M_MISSING_PARAM"},
		{"a wrong direction", "GET", "/rooms/" + mine + "/messages?dir=x", "", "", 400, "M_INVALID_PARAM"},
		{"a negative limit", "GET", "/rooms/" + mine + "/messages?dir=b&limit=-1", "", "", 400, "M_INVALID_PARAM"},

		{"a room id that is none", "PUT", "/rooms/nothing/send/m.room.message/r1", "", ok, 400, "M_INVALID_PARAM"},
		{"an unknown room", "PUT", "/rooms/!unknown:" + server.ServerName + "/send/m.room.message/r2", "", ok, 403, "M_FORBIDDEN"},
		{"another's room", "PUT", "/rooms/" + theirs + "/send/m.room.message/r3", "", ok, 403, "M_FORBIDDEN"},
		{"another's room's history", "GET", "/rooms/" + theirs + "/messages?dir=b", "", "", 403, "M_FORBIDDEN"},
		{"another's room's state", "GET", "/rooms/" + theirs + "/state", "", "", 403, "M_FORBIDDEN"},
		{"another's room's members", "GET", "/rooms/" + theirs + "/members", "", "", 403, "M_FORBIDDEN"},
		{"another's event", "GET", "/rooms/" + theirs + "/event/" + hidden, "", "", 404, "M_NOT_FOUND"},
		{"another's event in my room", "GET", "/rooms/" + mine + "/event/" + hidden, "", "", 404, "M_NOT_FOUND"},
		{"context of another's event", "GET", "/rooms/" + mine + "/context/" + hidden, "", "", 404, "M_NOT_FOUND"},
		{"a closed room", "POST", "/join/" + theirs, "", "{}", 403, "M_FORBIDDEN"},
		{"state that is not there", "GET", state + "m.room.topic/", "", "", 404, "M_NOT_FOUND"},
		{"another's typing", "PUT", "/rooms/" + mine + "/typing/" + other.UserID, "", `{"typing":true}`, 403, "M_FORBIDDEN"},
		{"another's account data", "PUT", "/user/" + other.UserID + "/account_data/org.example", "", `{}`, 403, "M_FORBIDDEN"},
		{"another's filter", "POST", "/user/" + other.UserID + "/filter", "", `{}`, 403, "M_FORBIDDEN"},
		{"another's profile", "PUT", "/profile/" + other.UserID + "/displayname", "", `{"displayname":"x"}`, 403, "M_FORBIDDEN"},
		{"another's presence", "PUT", "/presence/" + other.UserID + "/status", "", `{"presence":"online"}`, 403, "M_FORBIDDEN"},
		{"another's message redacted", "PUT", "/rooms/" + theirs + "/redact/" + hidden + "/r4", "", `{}`, 403, "M_FORBIDDEN"},
		{"another made member", "PUT", state + "m.room.member/" + other.UserID, "", `{"membership":"join"}`, 403, "M_FORBIDDEN"},

		{"a room version that is none", "POST", "/createRoom", "", `{"room_version":"no-such"}`, 400, "M_UNSUPPORTED_ROOM_VERSION"},
		{"an alias that is taken", "POST", "/createRoom", "", `{"room_alias_name":"` + alias + `"}`, 400, "M_ROOM_IN_USE"},
		{"a preset that is none", "POST", "/createRoom", "", `{"preset":"no-such"}`, 400, ""},
		{"an invitation of nobody", "POST", "/createRoom", "", `{"invite":["nobody"]}`, 400, ""},
		{"an alias of another server", "PUT", "/directory/room/%23x:example.org", "", `{"room_id":"` + mine + `"}`, 400, ""},
		{"another's alias removed", "DELETE", "/directory/room/%23" + alias + ":" + server.ServerName, "", "", 403, "M_FORBIDDEN"},
		{"a name with capitals and spaces", "POST", "/register", "-", `{"username":"A B","password":"` + password + `","auth":{"type":"m.login.dummy"}}`, 400, "M_INVALID_USERNAME"},
		{"a login of an unknown kind", "POST", "/login", "-", `{"type":"org.example"}`, 400, ""},
		{"a login without a password", "POST", "/login", "-", `{"type":"m.login.password","identifier":{"type":"m.id.user","user":"x"}}`, 400, ""},
		{"keys of another", "POST", "/keys/upload", "", `{"device_keys":{"user_id":"` + other.UserID + `","device_id":"X","algorithms":[],"keys":{},"signatures":{}}}`, 400, ""},
		{"devices deleted without proof", "POST", "/delete_devices", "", `{"devices":["` + me.DeviceID + `"]}`, 401, ""},
	}
	for i := range table {
		table[i].path = "/_matrix/client/v3" + table[i].path
		if table[i].token == "" {
			table[i].token = me.AccessToken
		}
	}
	return table
}

// ahead changes a sync token to one of the future.
func ahead(s *scene, text, user string) string {
	s.Helper()
	t := try(token.ParseSync(text, id.User(user)))(s)
	t.UserSeq += 1 << 20
	return t.Encode(id.User(user))
}

// federationMistakes is the table of the federation API.
func federationMistakes() []bad {
	forged := `X-Matrix origin="example.org",destination="x",key="ed25519:a",sig="AAAA"`
	return []bad{
		{"no signature", "GET", "/_matrix/federation/v1/state/!r:x?event_id=$e", "", "", 401, "M_UNAUTHORIZED"},
		{"garbage for a signature", "GET", "/_matrix/federation/v1/query/profile?user_id=@a:b", "X-Matrix garbage", "", 400, "M_UNAUTHORIZED"},
		{"a bearer token", "GET", "/_matrix/federation/v1/query/profile?user_id=@a:b", "Bearer x", "", 401, "M_UNAUTHORIZED"},
		{"a forged signature", "PUT", "/_matrix/federation/v1/send/1", forged, `{"origin":"example.org","origin_server_ts":1,"pdus":[]}`, 401, "M_UNAUTHORIZED"},
		{"an unknown endpoint", "GET", "/_matrix/federation/v1/no/such", "", "", 404, "M_UNRECOGNIZED"},
		{"a wrong method", "DELETE", "/_matrix/federation/v1/version", "", "", 405, "M_UNRECOGNIZED"},
		{"a wrong method of keys", "POST", "/_matrix/key/v2/server", "", "", 405, "M_UNRECOGNIZED"},
		{"no JSON for the notary", "POST", "/_matrix/key/v2/query", "", `{`, 400, "M_NOT_JSON"},
	}
}

// refuse sends a bad request and judges the answer.
func (s *scene) refuse(server *world.Server, b bad, federation bool) {
	s.Helper()
	base, client := server.BaseURL, http.DefaultClient
	if federation {
		base, client = server.HTTPSURL, server.HTTPClient()
	}
	path := strings.NewReplacer("!", "%21", "#", "%23", "$", "%24", "@", "%40").Replace(b.path)
	req := try(http.NewRequestWithContext(s.ctx, b.method, base+path, strings.NewReader(b.body)))(s)
	switch {
	case federation && b.token != "":
		req.Header.Set("Authorization", b.token)
	case !federation && b.token != "-":
		req.Header.Set("Authorization", "Bearer "+b.token)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		s.Errorf("%s: %v", b.what, err)
		return
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		s.Errorf("%s: %v", b.what, err)
		return
	}
	var answer struct {
		Code string `json:"errcode"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		s.Errorf("%s: %d %q: %v", b.what, resp.StatusCode, raw, err)
		return
	}
	uia := b.status == http.StatusUnauthorized && b.code == "" // user-interactive authentication has no errcode
	if resp.StatusCode != b.status || b.code != "" && answer.Code != b.code || answer.Code == "" && !uia {
		s.Errorf("%s: %s %s: %d %s, want %d %s: %s", b.what, b.method, b.path[:min(len(b.path), 120)], resp.StatusCode, answer.Code, b.status, b.code,
			fmt.Sprintf("%.200s", raw))
	}
}
