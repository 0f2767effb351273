package client

import (
	"net/http/httptest"
	"strings"
	"testing"

	"hanse/pkg/httpx"
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

// Endpoints of few lines each: they answer those with a session, and nobody else.
func TestSmallEndpoints(t *testing.T) {
	c := newCluster(t)
	anna := c.register("anna")
	for _, path := range []string{v3 + "/voip/turnServer", v3 + "/thirdparty/protocols", v3 + "/account/3pid"} {
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
