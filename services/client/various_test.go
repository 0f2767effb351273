package client

import (
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"strings"
	"testing"

	"hanse/pkg/httpx"
	"hanse/pkg/partition"
	"hanse/pkg/ratelimit"
)

// Client-server API, "API Versions", "Capabilities negotiation".
func TestDiscovery(t *testing.T) {
	c := newCluster(t)
	if a := c.do("GET", "/_matrix/client/versions", "", nil).ok(); a.header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("versions: %s", a.raw)
	}
	anna := c.register("anna")
	if a := anna.do("GET", v3+"/capabilities", nil).ok(); a.str("capabilities", "m.room_versions", "default") != "12" {
		t.Errorf("capabilities: %s", a.raw)
	}
	c.do("GET", v3+"/capabilities", "", nil).fails(401, "M_MISSING_TOKEN")
}

// Client-server API, "Presence".
func TestPresence(t *testing.T) {
	c := newCluster(t)
	anna, bert := c.register("anna"), c.register("bert")
	path := v3 + "/presence/" + string(anna.id) + "/status"
	if a := anna.do("GET", path, nil).ok(); a.str("presence") != "offline" {
		t.Errorf("presence: %s", a.raw)
	}
	anna.do("PUT", path, map[string]string{"presence": "online", "status_msg": "at sea"}).ok()
	if a := anna.do("GET", path, nil).ok(); a.str("presence") != "online" || a.str("status_msg") != "at sea" || a.get("currently_active") != true {
		t.Errorf("presence: %s", a.raw)
	}
	bert.do("GET", path, nil).fails(403, "M_FORBIDDEN")
	bert.do("PUT", path, map[string]string{"presence": "online"}).fails(403, "M_FORBIDDEN")
	anna.do("PUT", path, map[string]string{"presence": "asleep"}).fails(400, "M_INVALID_PARAM")
	anna.do("PUT", path, map[string]string{}).fails(400, "M_MISSING_PARAM")
	c.redis.FlushAll()
	if a := anna.do("GET", path, nil).ok(); a.str("presence") != "offline" {
		t.Errorf("presence after Redis was wiped: %s", a.raw)
	}
	c.redis.SetError("down")
	anna.do("PUT", path, map[string]string{"presence": "online"}).ok()
	anna.do("GET", path, nil).ok()
	c.redis.SetError("")
}

// Standard error response: "M_UNRECOGNIZED [...] 405 if the method is not the right one", for each endpoint and method.
func TestMethods(t *testing.T) {
	c := newCluster(t)
	rt := httpx.NewRouter(httpx.RouterConfig{CORS: true})
	c.client.Routes(rt)
	known := make(map[string]bool)
	paths := make(map[string]bool)
	for _, p := range rt.Patterns() {
		method, path, _ := strings.Cut(p, " ")
		path = strings.ReplaceAll(path, "{}", "x")
		known[method+" "+path], paths[path] = true, true
	}
	for path := range paths {
		for _, method := range []string{"PATCH", "TRACE", "PROPFIND", "GET", "PUT", "POST", "DELETE"} {
			if known[method+" "+path] || method == "GET" && strings.HasSuffix(path, "/x") {
				continue // a word may be a parameter of another pattern
			}
			w := httptest.NewRecorder()
			rt.ServeHTTP(w, httptest.NewRequest(method, path, nil))
			if w.Code != 405 && strings.Contains(w.Body.String(), "M_UNRECOGNIZED") || method == "PATCH" && w.Code != 405 {
				t.Errorf("%s %s: %d %s", method, path, w.Code, w.Body)
			}
		}
	}
}

// Client-server API, "User Directory".
func TestUserDirectory(t *testing.T) {
	c := newCluster(t)
	anna, bert := c.register("anna"), c.register("bertram")
	c.register("bertha")
	c.join(anna.id, "!r:a.example", "join")
	c.join(bert.id, "!r:a.example", "join")
	bert.do("PUT", v3+"/profile/"+string(bert.id)+"/displayname", map[string]string{"displayname": "Captain Ahab"}).ok()
	search := func(u *user, term string) []any {
		return u.do("POST", v3+"/user_directory/search", map[string]any{"search_term": term}).ok().get("results").([]any)
	}
	for term, want := range map[string]int{"bert": 1, "anna": 1 /* oneself */, "BERTRAM": 1, "ahab": 1, "capt aha": 1, "@bertram:a.example": 1, "hab": 0, "": 0, "%": 0} {
		if got := search(anna, term); len(got) != want {
			t.Errorf("%q: %v", term, got)
		}
	}
	all := newCluster(t, func(cfg *Config, _ *Deps) { cfg.UserDirectory.SearchAll = true })
	dora := all.register("dora")
	all.register("emil")
	if got := search(dora, "emil"); len(got) != 1 {
		t.Errorf("search of all: %v", got)
	}
	if a := dora.do("POST", v3+"/user_directory/search", map[string]any{"search_term": "e", "limit": 0}).ok(); a.get("limited") != true {
		t.Errorf("limited: %s", a.raw)
	}
	anna.do("POST", v3+"/user_directory/search", map[string]any{}).fails(400, "M_MISSING_PARAM")
	anna.do("POST", v3+"/user_directory/search", map[string]any{"search_term": 5}).fails(400, "M_BAD_JSON")
	anna.do("POST", v3+"/user_directory/search", map[string]any{"search_term": "x", "limit": -1}).fails(400, "M_INVALID_PARAM")
}

func TestVarious(t *testing.T) {
	c := newCluster(t)
	anna := c.register("anna")
	for _, path := range []string{v3 + "/voip/turnServer", v3 + "/thirdparty/protocols", v3 + "/account/3pid",
		"/_matrix/client/v1/media/config", "/_matrix/media/v3/config"} {
		anna.do("GET", path, nil).ok()
		c.do("GET", path, "", nil).fails(401, "M_MISSING_TOKEN")
	}
	const mutual = "/_matrix/client/v1/mutual_rooms"
	if a := anna.do("GET", mutual+"?user_id=@bert:a.example", nil).ok(); a.get("count") != 0.0 {
		t.Errorf("mutual rooms: %s", a.raw)
	}
	anna.do("GET", mutual, nil).fails(400, "M_MISSING_PARAM")
	for _, q := range []string{"nobody", string(anna.id), "@bert:a.example&from=x"} {
		anna.do("GET", mutual+"?user_id="+q, nil).fails(400, "M_INVALID_PARAM")
	}
	anna.do("POST", v3+"/account/3pid/add", map[string]any{}).fails(403, "M_FORBIDDEN")
	c.do("POST", v3+"/register/email/requestToken", "", map[string]any{}).fails(400, "M_THREEPID_MEDIUM_NOT_SUPPORTED")
	token := anna.do("POST", v3+"/user/"+string(anna.id)+"/openid/request_token", map[string]any{}).ok()
	if token.str("token_type") != "Bearer" || token.str("matrix_server_name") != "a.example" || token.get("expires_in") != 3600.0 {
		t.Errorf("OpenID token: %s", token.raw)
	}
	if u, err := c.users.OpenIDTokenOwner(t.Context(), token.str("access_token")); err != nil || u != anna.id {
		t.Errorf("owner of the OpenID token: %q, %v", u, err)
	}
	anna.do("POST", v3+"/user/@bert:a.example/openid/request_token", map[string]any{}).fails(403, "M_FORBIDDEN")
	anna.do("POST", v3+"/users/@bert:a.example/report", map[string]string{"reason": "rude"}).ok()
	anna.do("POST", v3+"/users/@bert:a.example/report", map[string]string{}).fails(400, "M_MISSING_PARAM")
	anna.do("POST", v3+"/rooms/!none:a.example/report", map[string]string{"reason": "rude"}).fails(404, "M_NOT_FOUND")
	anna.do("POST", v3+"/rooms/!none:a.example/report/$x", map[string]string{"reason": "rude"}).fails(404, "M_NOT_FOUND")
}

// Client-server API, "Rate limiting".
func TestRateLimits(t *testing.T) {
	c := newCluster(t, func(_ *Config, d *Deps) {
		l, err := ratelimit.New(ratelimit.Config{Limits: map[string]ratelimit.Limit{
			"login": {PerSecond: 0.01, Burst: 2}, "request": {PerSecond: 0.01, Burst: 3},
		}})
		must(t, err)
		d.Limits = l
	})
	anna := c.register("anna")
	bad := map[string]any{"type": "m.login.password", "user": "anna", "password": "wrong"}
	c.do("POST", v3+"/login", "", bad).fails(403, "M_FORBIDDEN")
	c.do("POST", v3+"/login", "", bad).fails(403, "M_FORBIDDEN")
	a := c.do("POST", v3+"/login", "", bad).fails(429, "M_LIMIT_EXCEEDED")
	if a.header.Get("Retry-After") == "" || a.get("retry_after_ms") == nil {
		t.Errorf("answer: %v %s", a.header, a.raw)
	}
	for range 3 {
		anna.do("GET", v3+"/account/whoami", nil).ok()
	}
	anna.do("GET", v3+"/account/whoami", nil).fails(429, "M_LIMIT_EXCEEDED")
}

// Client-server API, "Login": guesses at a password are limited by account, however its name is written.
func TestLoginLimitOfAnAccount(t *testing.T) {
	c := newCluster(t, func(_ *Config, d *Deps) {
		l, err := ratelimit.New(ratelimit.Config{Limits: map[string]ratelimit.Limit{"login_user": {PerSecond: 0.001, Burst: 3}}})
		must(t, err)
		d.Limits = l
	})
	anna := c.register("anna")
	guess := func(name string) *reply {
		return c.do("POST", v3+"/login", "", map[string]any{"type": "m.login.password", "password": "wrong",
			"identifier": map[string]any{"type": "m.id.user", "user": name}})
	}
	for _, name := range []string{"anna", "Anna", "@ANNA:a.example"} {
		guess(name).fails(403, "M_FORBIDDEN")
	}
	for _, name := range []string{"anna", "aNNa", "@AnnA:a.example"} {
		guess(name).fails(429, "M_LIMIT_EXCEEDED")
	}
	anna.do("DELETE", v3+"/devices/X", map[string]any{"auth": anna.auth()}).fails(429, "M_LIMIT_EXCEEDED")
}

// Limits go by the /64 of an IPv6 address, of which a client has each address.
func TestLimitsByNetwork(t *testing.T) {
	c := newCluster(t, func(_ *Config, d *Deps) {
		l, err := ratelimit.New(ratelimit.Config{Limits: map[string]ratelimit.Limit{"login": {PerSecond: 0.001, Burst: 1}, "register": {PerSecond: 0.001, Burst: 1}}})
		must(t, err)
		d.Limits = l
	})
	rt := httpx.NewRouter(httpx.RouterConfig{})
	c.client.Routes(rt)
	for _, path := range []string{"/login", "/register"} {
		for _, tc := range []struct {
			from    string
			limited bool
		}{{"2001:db8:1:2::1", false}, {"2001:db8:1:2:ffff::9", true}, {"2001:db8:1:3::1", false}} {
			r := httptest.NewRequest("POST", v3+path, strings.NewReader(`{"type":"x"}`))
			r.RemoteAddr = "[" + tc.from + "]:1000"
			w := httptest.NewRecorder()
			rt.ServeHTTP(w, r)
			if (w.Code == 429) != tc.limited {
				t.Errorf("%s from %s: %d %s", path, tc.from, w.Code, w.Body)
			}
		}
	}
}

// Text that PostgreSQL cannot hold is the client's mistake, wherever it is.
func TestNulAndBrokenText(t *testing.T) {
	c := newCluster(t)
	anna := c.register("anna")
	own := v3 + "/user/" + string(anna.id)
	for _, tc := range []struct {
		method, path string
		body         any
	}{
		{"GET", v3 + "/devices/%00", nil},
		{"GET", v3 + "/devices/%ff", nil},
		{"PUT", own + "/account_data/a%00b", map[string]any{}},
		{"PUT", v3 + "/profile/" + string(anna.id) + "/displayname", `{"displayname":"a\u0000b"}`},
		{"PUT", v3 + "/profile/" + string(anna.id) + "/a.b", `{"a.b":"a\u0000b"}`},
		{"PUT", v3 + "/sendToDevice/m.x/t", `{"messages":{"` + string(anna.id) + `":{"a\u0000":{}}}}`},
		{"POST", v3 + "/keys/upload", `{"one_time_keys":{"a\u0000:b":"x"}}`},
		{"POST", v3 + "/keys/claim", `{"one_time_keys":{"` + string(anna.id) + `":{"D":"a\u0000"}}}`},
		{"POST", v3 + "/users/@b:a.example/report", `{"reason":"a\u0000"}`},
		{"POST", v3 + "/room_keys/version", `{"algorithm":"a\u0000","auth_data":{}}`},
	} {
		if a := anna.do(tc.method, tc.path, tc.body); a.status != 400 {
			t.Errorf("%s %s: %d %s", tc.method, tc.path, a.status, a.raw)
		}
	}
}

// Awkward text in the path or the body of any endpoint is the client's mistake, or none: never 5xx.
func TestAwkwardText(t *testing.T) {
	c := newCluster(t)
	rt := httpx.NewRouter(httpx.RouterConfig{Name: "patterns"})
	c.client.Routes(rt)
	anna := c.register("anna")
	filled := map[string]string{"userId": string(anna.id), "deviceId": anna.device, "roomId": "!r:a.example", "roomIdOrAlias": "!r:a.example",
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
		if anna.do(method, fill("", ""), `{}`).status >= 500 {
			continue // of a role that is not here
		}
		for what, text := range texts {
			for name := range strings.SplitSeq(path, "{") {
				if name, _, ok := strings.Cut(name, "}"); ok {
					if r := anna.do(method, fill(name, text[0]), `{}`); r.status >= 500 {
						t.Errorf("%s with %s in %s: %d %s", pattern, what, name, r.status, r.raw)
					}
				}
			}
			if method == "GET" || method == "HEAD" {
				continue
			}
			for _, body := range awkwardBodies(text[1], string(anna.id)) {
				if r := anna.do(method, fill("", ""), body); r.status >= 500 {
					t.Errorf("%s with %s: %d %s, %.200s", pattern, what, r.status, r.raw, body)
				}
			}
		}
	}
	anna.do("GET", v3+"/account/whoami", nil).ok()
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
	c := newCluster(t)
	anna := c.register("anna")
	for i, body := range []string{`{"messages":{"@b:other.example":{"\u0000":{}}}}`, `{"messages":{"@b:other.example":{"D":{"x":"\ud800"}}}}`,
		`{"messages":{"@b:other.example":{"":{}}}}`} {
		if r := anna.do("PUT", fmt.Sprint(v3, "/sendToDevice/m.x/t", i), body); r.status != 400 {
			t.Errorf("%s: %d %s", body, r.status, r.raw)
		}
	}
	anna.do("PUT", v3+"/sendToDevice/m.x/good", `{"messages":{"@b:other.example":{"D":{"x":"\u0000 is text"}}}}`).ok()
	part := partition.Of("other.example")
	var n int
	must(t, c.shards.For(part).QueryRow(t.Context(), `SELECT count(*) FROM fed_edu WHERE part = $1`, int32(part)).Scan(&n))
	if n != 1 {
		t.Errorf("%d EDUs are queued", n)
	}
}
