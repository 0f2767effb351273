package specapi

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

const (
	ev   = `{"event_id":"$e","type":"m.room.message","sender":"@a:x","origin_server_ts":1,"content":{}}`
	evIn = `{"event_id":"$e","type":"m.room.message","sender":"@a:x","origin_server_ts":1,"content":{},"room_id":"!r:x"}`
	pdu  = `{"auth_events":[],"prev_events":[],"content":{},"depth":1,"hashes":{"sha256":"x"},"origin_server_ts":1,"sender":"@a:x","type":"t","signatures":{}}`
)

func TestValidate(t *testing.T) {
	s := load(t)
	c := "/_matrix/client/v3/"
	for _, tt := range []struct {
		method, path string
		status       int
		body         string
		want         string // part of the reason; empty: valid
	}{
		// GET /sync
		{"GET", c + "sync", 200, `{"next_batch":"s"}`, ""},
		{"GET", c + "sync?since=x", 200, `{"next_batch":"s","rooms":{"join":{"!r:x":{"timeline":{"events":[` + ev + `],"limited":false}}}}}`, ""},
		{"GET", c + "sync", 200, `{}`, "next_batch"},
		{"GET", c + "sync", 200, `{"next_batch":1}`, "want string"},
		{"GET", c + "sync", 200, `{"next_batch":"s","rooms":{"join":{"!r:x":{"timeline":{"limited":true}}}}}`, "events"},
		{"GET", c + "sync", 200, `{"next_batch":"s","rooms":{"join":{"!r:x":{"timeline":{"events":[{"type":"t"}]}}}}}`, "event_id"},
		{"GET", c + "sync", 200, `{"next_batch":"s","rooms":{"join":{"r":{}}}}`, "additional"},
		{"GET", c + "sync", 200, `{"next_batch":"s","device_one_time_keys_count":{"signed_curve25519":"5"}}`, "want integer"},
		{"GET", "/_matrix/client/r0/sync", 200, `{}`, "next_batch"},
		// PUT /send
		{"PUT", c + "rooms/!r:x/send/m.room.message/1", 200, `{"event_id":"$x"}`, ""},
		{"PUT", c + "rooms/!r:x/send/m.room.message/1", 200, `{"event_id":"x"}`, "mx-event-id"},
		{"PUT", c + "rooms/!r:x/send/m.room.message/1", 200, `{}`, "event_id"},
		{"PUT", c + "rooms/!r:x/send/a%2Fb/1", 200, `{}`, "event_id"},
		// errors
		{"PUT", c + "rooms/!r:x/send/m.room.message/1", 403, `{"errcode":"M_FORBIDDEN","error":"no"}`, ""},
		{"PUT", c + "rooms/!r:x/send/m.room.message/1", 403, `{"error":"no"}`, "errcode"},
		{"PUT", c + "rooms/!r:x/send/m.room.message/1", 403, `{"errcode":"forbidden"}`, "errcode"},
		{"PUT", c + "rooms/!r:x/send/m.room.message/1", 429, `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":"5"}`, "want integer"},
		{"PUT", c + "rooms/!r:x/send/m.room.message/1", 429, `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":5}`, ""},
		{"PUT", c + "rooms/!r:x/send/m.room.message/1", 400, `{"errcode":"M_LIMIT_EXCEEDED"}`, "with status"},
		{"GET", c + "account/whoami", 403, `{"errcode":"M_UNKNOWN_TOKEN"}`, "needs status 401"},
		{"GET", c + "account/whoami", 401, `{"errcode":"M_UNKNOWN_TOKEN","soft_logout":true}`, ""},
		{"GET", c + "account/whoami", 500, `oops`, "not JSON"},
		// POST /register: interactive authentication
		{"POST", c + "register", 401, `{"flows":[{"stages":["m.login.dummy"]}],"session":"x","params":{}}`, ""},
		{"POST", c + "register", 401, `{"flows":[{"stages":"m.login.dummy"}],"session":"x"}`, "want array"},
		{"POST", c + "register", 401, `{"session":"x"}`, "flows"},
		{"POST", c + "register", 200, `{"user_id":"@a:x","access_token":"t","device_id":"D"}`, ""},
		{"POST", c + "register", 200, `{"access_token":"t"}`, "user_id"},
		{"POST", c + "register", 201, `{"user_id":"@a:x"}`, "not documented"},
		// POST /login
		{"POST", c + "login", 200, `{"user_id":"@a:x","access_token":"t","device_id":"D"}`, ""},
		{"POST", c + "login", 200, `{"user_id":"a","access_token":"t","device_id":"D"}`, "mx-user-id"},
		// state
		{"GET", c + "rooms/!r:x/state/m.room.name", 200, `{"name":"n"}`, ""},
		{"GET", c + "rooms/!r:x/state/m.room.name/", 200, `[]`, "want object"},
		{"GET", c + "rooms/!r:x/state", 200, `[` + evIn + `]`, ""},
		{"GET", c + "rooms/!r:x/state", 200, `[{}]`, "missing"},
		// messages
		{"GET", c + "rooms/!r:x/messages?dir=b", 200, `{"chunk":[` + evIn + `],"start":"a"}`, ""},
		{"GET", c + "rooms/!r:x/messages?dir=b", 200, `{"chunk":[` + evIn + `]}`, "start"},
		{"GET", c + "rooms/!r:x/messages?dir=b", 200, `{"chunk":[` + ev + `],"start":"a"}`, "room_id"},
		// members, whoami, createRoom, keys
		{"GET", c + "rooms/!r:x/joined_members", 200, `{"joined":{"@a:x":{"display_name":"A"}}}`, ""},
		{"GET", c + "rooms/!r:x/joined_members", 200, `{"joined":[]}`, "want object"},
		{"GET", c + "account/whoami", 200, `{"user_id":"@a:x"}`, ""},
		{"POST", c + "createRoom", 200, `{"room":"!r:x"}`, "room_id"},
		{"POST", c + "keys/upload", 200, `{"one_time_key_counts":{"signed_curve25519":1.5}}`, "want integer"},
		{"GET", "/_matrix/client/versions", 200, `{"versions":["v1.19"]}`, ""},
		{"GET", "/_matrix/client/versions", 200, `{"versions":"v1.19"}`, "want array"},
		// federation
		{"PUT", "/_matrix/federation/v1/send/1", 200, `{"pdus":{"$a":{}}}`, ""},
		{"PUT", "/_matrix/federation/v1/send/1", 200, `{}`, "pdus"},
		{"PUT", "/_matrix/federation/v2/send_join/!r:x/$e", 200, `{"origin":"x","auth_chain":[],"state":[` + pdu + `],"event":` + pdu + `}`, ""},
		{"PUT", "/_matrix/federation/v2/send_join/!r:x/$e", 200, `{"origin":"x","auth_chain":{},"state":[]}`, "want array"},
		{"GET", "/_matrix/key/v2/server", 200, `{"server_name":"x"}`, "verify_keys"},
		{"GET", "/_matrix/federation/v1/backfill/!r:x", 400, `{}`, "errcode"},
		// paths
		{"GET", c + "nonsense", 200, `{}`, "not in the specification"},
		{"GET", c + "nonsense", 404, `{"errcode":"M_UNRECOGNIZED"}`, ""},
		{"PATCH", c + "sync", 405, `<html>`, "not JSON"},
		{"GET", "/_matrix/client/unstable/org.x/y", 200, `?`, ""},
		{"GET", "/_synapse/admin/v1/register", 200, `{}`, ""},
		{"OPTIONS", c + "sync", 204, ``, ""},
	} {
		u, err := url.Parse("http://localhost" + tt.path)
		if err != nil {
			t.Fatal(err)
		}
		err = s.Validate(&http.Request{Method: tt.method, URL: u}, tt.status,
			http.Header{"Content-Type": {"application/json; charset=utf-8"}}, []byte(tt.body))
		var v *Violation
		switch {
		case err != nil && !errors.As(err, &v):
			t.Fatalf("%s %s: %v", tt.method, tt.path, err)
		case tt.want == "" && err != nil:
			t.Errorf("%s %s %d %s: %v", tt.method, tt.path, tt.status, tt.body, err)
		case tt.want != "" && err == nil:
			t.Errorf("%s %s %d %s: accepted", tt.method, tt.path, tt.status, tt.body)
		case tt.want != "" && !strings.Contains(v.Reason, tt.want):
			t.Errorf("%s %s %d %s: reason %q lacks %q", tt.method, tt.path, tt.status, tt.body, v.Reason, tt.want)
		}
	}
}

func TestValidateRequest(t *testing.T) {
	s := load(t)
	for _, tt := range []struct{ method, path, body, want string }{
		{"PUT", "/_matrix/federation/v1/send/1", `{"origin":"x","origin_server_ts":1,"pdus":[]}`, ""},
		{"PUT", "/_matrix/federation/v1/send/1", `{"origin":"x","pdus":[]}`, "origin_server_ts"},
		{"PUT", "/_matrix/federation/v1/send/1", ``, "required"},
		{"POST", "/_matrix/client/v3/rooms/!r:x/invite", `{"user_id":"@a:x"}`, ""},
		{"POST", "/_matrix/client/v3/rooms/!r:x/invite", `{"id_server":"i","id_access_token":"t","medium":"email","address":"a@x"}`, ""},
		{"POST", "/_matrix/client/v3/rooms/!r:x/invite", `{}`, "missing"},
		{"GET", "/_matrix/client/v3/none", ``, "not in the specification"},
	} {
		u, err := url.Parse("http://localhost" + tt.path)
		if err != nil {
			t.Fatal(err)
		}
		err = s.ValidateRequest(&http.Request{Method: tt.method, URL: u}, []byte(tt.body))
		if (tt.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s %s %s: %v, want %q", tt.method, tt.path, tt.body, err, tt.want)
		}
	}
}

func TestWrongContentTypeIsAViolation(t *testing.T) {
	s := load(t)
	u := &url.URL{Path: "/_matrix/client/versions"}
	err := s.Validate(&http.Request{Method: "GET", URL: u}, 200, http.Header{"Content-Type": {"text/plain"}}, []byte(`{"versions":[]}`))
	if err == nil || !strings.Contains(err.Error(), "content type") {
		t.Errorf("got %v", err)
	}
}
