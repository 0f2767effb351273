package specapi

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// server answers /account/whoami well and /sync badly.
func server(t *testing.T) *url.URL {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		body := `{"user_id":"@a:x"}`
		if strings.HasSuffix(r.URL.Path, "/sync") {
			body = `{"rooms":{}}`
		}
		if _, err := io.WriteString(w, body); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(srv.Close)
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

type reports struct {
	mu   sync.Mutex
	errs []string
}

func (r *reports) add(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errs = append(r.errs, err.Error())
}

func get(t *testing.T, c *http.Client, u string) string {
	t.Helper()
	resp, err := c.Get(u)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func check(t *testing.T, r *reports, s *Spec) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.errs) != 1 || !strings.Contains(r.errs[0], "next_batch") {
		t.Errorf("reports: %q", r.errs)
	}
	seen := map[string]int{}
	for _, o := range s.Seen() {
		seen[o.Name] = o.Status[200]
	}
	if seen["GET /_matrix/client/v3/account/whoami"] != 1 || seen["GET /_matrix/client/v3/sync"] != 1 {
		t.Errorf("seen: %v", seen)
	}
}

func fresh(t *testing.T) *Spec {
	s := load(t)
	return &Spec{src: s.src, routes: s.routes, compiler: s.compiler, seen: map[string]*counter{}, compiled: map[string]*lazySchema{}}
}

func TestRoundTripper(t *testing.T) {
	u, s, r := server(t), fresh(t), &reports{}
	c := &http.Client{Transport: s.RoundTripper(nil, r.add)}
	for _, p := range []string{"/_matrix/client/v3/account/whoami", "/_matrix/client/v3/sync", "/metrics"} {
		if body := get(t, c, u.String()+p); !strings.HasPrefix(body, "{") {
			t.Errorf("%s: %q", p, body)
		}
	}
	check(t, r, s)
}

func TestProxy(t *testing.T) {
	u, s, r := server(t), fresh(t), &reports{}
	p := httptest.NewServer(s.Proxy(u, nil, r.add))
	defer p.Close()
	get(t, p.Client(), p.URL+"/_matrix/client/r0/account/whoami")
	get(t, p.Client(), p.URL+"/_matrix/client/v3/sync")
	check(t, r, s)
}

func TestValidateConcurrently(t *testing.T) {
	s := must(loadEmbedded())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for _, ops := range s.routes.byMethod {
				for _, op := range ops {
					for status := range op.status {
						code := 200
						if status != "200" {
							code = 400
						}
						req := &http.Request{Method: op.method, URL: exampleURL(op)}
						// Most answers are wrong: it is about the data race detector.
						_ = s.Validate(req, code, http.Header{"Content-Type": {"application/json"}}, []byte(`{}`))
					}
				}
			}
		})
	}
	wg.Wait()
	if len(s.Seen()) != len(s.Operations()) {
		t.Errorf("seen %d of %d operations", len(s.Seen()), len(s.Operations()))
	}
}
