package client_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"hanse/pkg/httpx"
	"hanse/pkg/partition"
	"hanse/services/client/clienttest"
)

// Text that PostgreSQL cannot hold is the client's mistake, wherever it is.
func TestNulAndBrokenText(t *testing.T) {
	c := clienttest.New(t)
	anna := c.Register("anna")
	own := v3 + "/user/" + string(anna.ID)
	for _, tc := range []struct {
		method, path string
		body         any
	}{
		{"GET", v3 + "/devices/%00", nil},
		{"GET", v3 + "/devices/%ff", nil},
		{"PUT", own + "/account_data/a%00b", map[string]any{}},
		{"PUT", v3 + "/profile/" + string(anna.ID) + "/displayname", `{"displayname":"a\u0000b"}`},
		{"PUT", v3 + "/profile/" + string(anna.ID) + "/a.b", `{"a.b":"a\u0000b"}`},
		{"PUT", v3 + "/sendToDevice/m.x/t", `{"messages":{"` + string(anna.ID) + `":{"a\u0000":{}}}}`},
		{"POST", v3 + "/keys/upload", `{"one_time_keys":{"a\u0000:b":"x"}}`},
		{"POST", v3 + "/keys/claim", `{"one_time_keys":{"` + string(anna.ID) + `":{"D":"a\u0000"}}}`},
		{"POST", v3 + "/users/@b:a.example/report", `{"reason":"a\u0000"}`},
		{"POST", v3 + "/room_keys/version", `{"algorithm":"a\u0000","auth_data":{}}`},
	} {
		if a := anna.Do(tc.method, tc.path, tc.body); a.Status != 400 {
			t.Errorf("%s %s: %d %s", tc.method, tc.path, a.Status, a.Raw)
		}
	}
}

// Awkward text in the path or the body of any endpoint is the client's mistake, or none: never 5xx.
func TestAwkwardText(t *testing.T) {
	c := clienttest.New(t)
	rt := httpx.NewRouter(httpx.RouterConfig{Name: "patterns"})
	c.Client.Routes(rt)
	anna := c.Register("anna")
	filled := map[string]string{"userId": string(anna.ID), "deviceId": anna.Device, "roomId": "!r:a.example", "roomIdOrAlias": "!r:a.example",
		"roomAlias": "%23r:a.example", "eventId": "$e", "version": "1", "scope": "global", "kind": "content", "filterId": "0"}
	texts := map[string][2]string{"NUL": {"%00", `\u0000`}, "lone surrogate": {"%ed%a0%80", `\ud800`}, "U+FFFD": {"%ef%bf%bd", `\ufffd`},
		"U+10FFFF": {"%f4%8f%bf%bf", `\udbff\udfff`}, "newline": {"%0a", `\n`}, "DEL": {"%7f", `\u007f`}, "invalid UTF-8": {"%ff", "\xff"},
		"long": {incompressible(6000), incompressible(6000)}}
	for _, pattern := range rt.Patterns() {
		method, path, _ := strings.Cut(pattern, " ")
		if strings.Contains(path, "/logout") || strings.Contains(path, "/deactivate") || strings.Contains(path, "/account/password") || method == "OPTIONS" {
			continue // the user has to stay
		}
		if method == "DELETE" && strings.Contains(path, "/devices/") || strings.HasSuffix(path, "/delete_devices") {
			continue
		}
		fill := func(awkward, end string) string {
			out := path
			for name := range strings.SplitSeq(path, "{") {
				name, _, ok := strings.Cut(name, "}")
				if !ok {
					continue
				}
				value := filled[name]
				if value == "" {
					value = "x"
				}
				if name == awkward {
					value += end
				}
				out = strings.Replace(out, "{"+name+"}", value, 1)
			}
			return out
		}
		if anna.Do(method, fill("", ""), `{}`).Status >= 500 {
			continue // of a role that is not here
		}
		for what, text := range texts {
			for name := range strings.SplitSeq(path, "{") {
				if name, _, ok := strings.Cut(name, "}"); ok {
					if r := anna.Do(method, fill(name, text[0]), `{}`); r.Status >= 500 {
						t.Errorf("%s with %s in %s: %d %s", pattern, what, name, r.Status, r.Raw)
					}
				}
			}
			if method == "GET" || method == "HEAD" {
				continue
			}
			for _, body := range awkwardBodies(text[1], string(anna.ID)) {
				if r := anna.Do(method, fill("", ""), body); r.Status >= 500 {
					t.Errorf("%s with %s: %d %s, %.200s", pattern, what, r.Status, r.Raw, body)
				}
			}
		}
	}
	anna.Do("GET", v3+"/account/whoami", nil).OK()
}

// awkwardBodies have the members that endpoints know, with an awkward end of their strings.
func awkwardBodies(end, user string) []string {
	s := `"x` + end + `"`
	return []string{
		`{"messages":{"` + user + `":{` + s + `:{}}}}`,
		`{"messages":{"@b:other.example":{` + s + `:{}}}}`,
		`{"messages":{"@b` + end + `:other.example":{"D":{}}}}`,
		`{"type":` + s + `,"identifier":{"type":"m.id.user","user":` + s + `},"user":` + s + `,"password":` + s + `,"device_id":` + s + `,"initial_device_display_name":` + s + `}`,
		`{"username":"u` + end + `","password":"p","auth":{"type":"m.login.dummy","session":` + s + `}}`,
		`{"displayname":` + s + `,"avatar_url":` + s + `,"display_name":` + s + `,"x":` + s + `}`,
		`{` + s + `:` + s + `}`,
		`{"presence":"online","status_msg":` + s + `,"search_term":` + s + `,"reason":` + s + `}`,
		`{"one_time_keys":{` + s + `:"k"},"fallback_keys":{` + s + `:"k"}}`,
		`{"device_keys":{"` + user + `":[` + s + `]},"one_time_keys":{"` + user + `":{` + s + `:` + s + `}}}`,
		`{"algorithm":` + s + `,"auth_data":{},"version":` + s + `,"rooms":{` + s + `:{"sessions":{` + s + `:{"first_message_index":0,"forwarded_count":0,"is_verified":true,"session_data":{}}}}}}`,
		`{"first_message_index":0,"forwarded_count":0,"is_verified":true,"session_data":{"x":` + s + `}}`,
		`{"room":{"timeline":{"types":[` + s + `]}},"event_fields":[` + s + `],"order":0.5}`,
		`{"actions":["notify"],"pattern":` + s + `,"conditions":[{"kind":` + s + `,"key":` + s + `}],"enabled":true}`,
		`{"pushkey":` + s + `,"kind":"http","app_id":` + s + `,"app_display_name":` + s + `,"device_display_name":` + s + `,"lang":` + s + `,"data":{"url":"https://p.example/_matrix/push/v1/notify","x":` + s + `}}`,
		`{"master_key":{"user_id":"` + user + `","usage":["master"],"keys":{` + s + `:` + s + `}}}`,
		`{"` + user + `":{` + s + `:{"user_id":"` + user + `","device_id":` + s + `}}}`,
		`{"room_id":"!r` + end + `:a.example","filter":{"generic_search_term":` + s + `},"since":` + s + `,"third_party_instance_id":` + s + `}`,
		`{"m.fully_read":"$e` + end + `","m.read":` + s + `,"thread_id":` + s + `,"event_id":` + s + `}`,
		`{"devices":[` + s + `],"tags":{` + s + `:{}}}`,
	}
}

func incompressible(n int) string {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = "abcdefghijklmnopqrstuvwxyz0123456789"[r.IntN(36)]
	}
	return string(b)
}

// Nothing of what other servers cannot take is queued for them.
func TestAwkwardTextIsNotQueued(t *testing.T) {
	c := clienttest.New(t)
	anna := c.Register("anna")
	for i, body := range []string{`{"messages":{"@b:other.example":{"\u0000":{}}}}`, `{"messages":{"@b:other.example":{"D":{"x":"\ud800"}}}}`,
		`{"messages":{"@b:other.example":{"":{}}}}`} {
		if r := anna.Do("PUT", fmt.Sprint(v3, "/sendToDevice/m.x/t", i), body); r.Status != 400 {
			t.Errorf("%s: %d %s", body, r.Status, r.Raw)
		}
	}
	anna.Do("PUT", v3+"/sendToDevice/m.x/good", `{"messages":{"@b:other.example":{"D":{"x":"\u0000 is text"}}}}`).OK()
	part := partition.Of("other.example")
	var n int
	clienttest.Must(t, c.Shards.For(part).QueryRow(t.Context(), `SELECT count(*) FROM fed_edu WHERE part = $1`, int32(part)).Scan(&n))
	if n != 1 {
		t.Errorf("%d EDUs are queued", n)
	}
}
