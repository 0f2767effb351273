package discovery_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/discovery"
	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
)

type names struct{}

func (names) ForHost(string) id.Server { return "a.example:8448" }

func get(t *testing.T, cfg discovery.Config, path string) *httptest.ResponseRecorder {
	t.Helper()
	rt := httpx.NewRouter(httpx.RouterConfig{Name: "test", Registerer: prometheus.NewRegistry()})
	discovery.New(cfg, names{}).Routes(rt)
	w := httptest.NewRecorder()
	rt.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w
}

// Client-server API, "Server Discovery"; server-server API, "Resolving server names". The router is one for servers: it adds
// no CORS headers of its own.
func TestWellKnown(t *testing.T) {
	cfg := discovery.Config{PublicBaseURL: "https://m.a.example", PublicServer: "f.a.example:443", Support: discovery.Support{
		Page: "https://a.example/help", Contacts: []discovery.Contact{{Role: "m.role.admin", Email: "root@a.example"}}}}
	for _, c := range []struct{ path, want, cors string }{
		{"client", `{"m.homeserver":{"base_url":"https://m.a.example"}}`, "*"},
		{"server", `{"m.server":"f.a.example:443"}`, ""},
		{"support", `{"contacts":[{"email_address":"root@a.example","role":"m.role.admin"}],"support_page":"https://a.example/help"}`, "*"},
	} {
		w := get(t, cfg, "/.well-known/matrix/"+c.path)
		var v any
		if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
			t.Fatalf("%s: %v", c.path, err)
		}
		body, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if w.Code != 200 || string(body) != c.want || w.Header().Get("Access-Control-Allow-Origin") != c.cors {
			t.Errorf("%s: %d %s, CORS %q", c.path, w.Code, body, w.Header().Get("Access-Control-Allow-Origin"))
		}
		if w := get(t, discovery.Config{}, "/.well-known/matrix/"+c.path); w.Code != 404 || !strings.Contains(w.Body.String(), "M_NOT_FOUND") {
			t.Errorf("%s, not configured: %d %s", c.path, w.Code, w.Body)
		}
	}
}

func TestPage(t *testing.T) {
	w := get(t, discovery.Config{PublicBaseURL: "https://m.a.example"}, "/")
	if w.Code != 200 || w.Header().Get("Content-Type") != "text/html; charset=utf-8" {
		t.Fatalf("%d %s", w.Code, w.Header().Get("Content-Type"))
	}
	for _, text := range []string{"a.example:8448", "<code>https://m.a.example</code>"} {
		if !strings.Contains(w.Body.String(), text) {
			t.Errorf("the page lacks %q: %s", text, w.Body)
		}
	}
	bad := discovery.Config{PublicBaseURL: `https://x/<script>`}
	if w := get(t, bad, "/"); strings.Contains(w.Body.String(), "<script>") {
		t.Errorf("the page runs what is configured: %s", w.Body)
	}
}
