package client_test

import (
	"net/http/httptest"
	"strings"
	"testing"

	"hanse/pkg/httpx"
	"hanse/services/client/clienttest"
)

const v3 = clienttest.V3

// Client-server API, "API Versions", "Capabilities negotiation".
func TestDiscovery(t *testing.T) {
	c := clienttest.New(t)
	if a := c.Do("GET", "/_matrix/client/versions", "", nil).OK(); a.Header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("versions: %s", a.Raw)
	}
	anna := c.Register("anna")
	if a := anna.Do("GET", v3+"/capabilities", nil).OK(); a.Str("capabilities", "m.room_versions", "default") != "12" {
		t.Errorf("capabilities: %s", a.Raw)
	}
	c.Do("GET", v3+"/capabilities", "", nil).Fails(401, "M_MISSING_TOKEN")
}

// Standard error response: "M_UNRECOGNIZED [...] 405 if the method is not the right one", for each endpoint and method.
func TestMethods(t *testing.T) {
	c := clienttest.New(t)
	rt := httpx.NewRouter(httpx.RouterConfig{CORS: true})
	c.Client.Routes(rt)
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

// Endpoints of few lines each: they answer those with a session, and nobody else.
func TestSmallEndpoints(t *testing.T) {
	c := clienttest.New(t)
	anna := c.Register("anna")
	for _, path := range []string{v3 + "/voip/turnServer", v3 + "/thirdparty/protocols", v3 + "/account/3pid"} {
		anna.Do("GET", path, nil).OK()
		c.Do("GET", path, "", nil).Fails(401, "M_MISSING_TOKEN")
	}
	const mutual = "/_matrix/client/v1/mutual_rooms"
	if a := anna.Do("GET", mutual+"?user_id=@bert:a.example", nil).OK(); a.Get("count") != 0.0 {
		t.Errorf("mutual rooms: %s", a.Raw)
	}
	anna.Do("GET", mutual, nil).Fails(400, "M_MISSING_PARAM")
	for _, q := range []string{"nobody", string(anna.ID), "@bert:a.example&from=x"} {
		anna.Do("GET", mutual+"?user_id="+q, nil).Fails(400, "M_INVALID_PARAM")
	}
	anna.Do("POST", v3+"/account/3pid/add", map[string]any{}).Fails(403, "M_FORBIDDEN")
	c.Do("POST", v3+"/register/email/requestToken", "", map[string]any{}).Fails(400, "M_THREEPID_MEDIUM_NOT_SUPPORTED")
	token := anna.Do("POST", v3+"/user/"+string(anna.ID)+"/openid/request_token", map[string]any{}).OK()
	if token.Str("token_type") != "Bearer" || token.Str("matrix_server_name") != "a.example" || token.Get("expires_in") != 3600.0 {
		t.Errorf("OpenID token: %s", token.Raw)
	}
	if u, err := c.Users.OpenIDTokenOwner(t.Context(), token.Str("access_token")); err != nil || u != anna.ID {
		t.Errorf("owner of the OpenID token: %q, %v", u, err)
	}
	anna.Do("POST", v3+"/user/@bert:a.example/openid/request_token", map[string]any{}).Fails(403, "M_FORBIDDEN")
	anna.Do("POST", v3+"/users/@bert:a.example/report", map[string]string{"reason": "rude"}).OK()
	anna.Do("POST", v3+"/users/@bert:a.example/report", map[string]string{}).Fails(400, "M_MISSING_PARAM")
	anna.Do("POST", v3+"/rooms/!none:a.example/report", map[string]string{"reason": "rude"}).Fails(404, "M_NOT_FOUND")
	anna.Do("POST", v3+"/rooms/!none:a.example/report/$x", map[string]string{"reason": "rude"}).Fails(404, "M_NOT_FOUND")
}
