package httpx

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/merr"
)

func echo(names ...string) Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		var got []string
		for _, n := range names {
			got = append(got, Param(r, n))
		}
		return OK(w, got)
	}
}

func testRouter(t testing.TB) *Router {
	t.Helper()
	rt := NewRouter(RouterConfig{Name: "test", CORS: true, Registerer: prometheus.NewRegistry(), MaxConcurrent: 2})
	cs := rt.Group("/_matrix/client/v3", "/_matrix/client/r0")
	cs.Handle("GET /rooms/{room}/state", echo("room"))
	cs.Handle("GET /rooms/{room}/state/{type}", echo("room", "type"))
	cs.Handle("GET /rooms/{room}/state/{type}/{key}", echo("room", "type", "key"))
	cs.Handle("PUT /rooms/{room}/send/{type}/{txn}", echo("room", "type", "txn"))
	cs.Handle("GET /pushrules/global/", echo())
	cs.Handle("GET /profile/{user}", echo("user"))
	cs.Handle("GET /profile/{user}/displayname", echo("user"))
	cs.Handle("POST /json", func(w http.ResponseWriter, r *http.Request) error {
		var v struct {
			A string `json:"a"`
		}
		if err := Decode(r, &v); err != nil {
			return err
		}
		return OK(w, v.A)
	}, MaxBody(1000))
	cs.Handle("GET /panic", func(http.ResponseWriter, *http.Request) error { panic("ouch") })
	cs.Handle("GET /fail", func(http.ResponseWriter, *http.Request) error { return errors.New("secret: 10.0.0.1") })
	rt.Handle("GET /_matrix/federation/v1/state/{rest...}", echo("rest"))
	return rt
}

// Client-server API, "API Standards": paths are percent-encoded; unknown endpoints and methods.
func TestRouting(t *testing.T) {
	rt := testRouter(t)
	const v3 = "/_matrix/client/v3"
	cases := []struct {
		method, path string
		status       int
		body         string
	}{
		{"GET", v3 + "/rooms/!a:b.c/state", 200, `["!a:b.c"]`},
		{"GET", "/_matrix/client/r0/rooms/%21a%3Ab.c/state", 200, `["!a:b.c"]`},
		{"GET", v3 + "/rooms/!a%2Fb:c/state/m.x/", 200, `["!a/b:c","m.x",""]`},
		{"GET", v3 + "/rooms/!a:b/state/m.x/k%2Fk%25", 200, `["!a:b","m.x","k/k%"]`},
		{"GET", v3 + "/rooms/!a:b/state/m.x", 200, `["!a:b","m.x"]`},
		{"GET", v3 + "/rooms/!a:b/state/m.x/..", 200, `["!a:b","m.x",".."]`},
		{"PUT", v3 + "/rooms/!a:b/send/m.room.message/t%C3%A4", 200, `["!a:b","m.room.message","tä"]`},
		{"GET", v3 + "/profile/@a+b:c", 200, `["@a+b:c"]`},
		{"GET", v3 + "/profile/@a:c/displayname", 200, `["@a:c"]`},
		{"GET", v3 + "/profile/@a:c/display%6Eame", 200, `["@a:c"]`},
		{"GET", v3 + "/pushrules/global/", 200, `null`},
		{"GET", v3 + "/pushrules/global", 404, `{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`},
		{"GET", v3 + "/rooms//state", 200, `[""]`},
		{"GET", v3 + "//rooms/a/state", 404, `{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`},
		{"GET", v3 + "/nothing", 404, `{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`},
		{"GET", "/", 404, `{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`},
		{"DELETE", v3 + "/rooms/!a:b/state", 405, `{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`},
		{"GET", v3 + "/panic", 500, `{"errcode":"M_UNKNOWN","error":"Internal server error"}`},
		{"GET", v3 + "/fail", 500, `{"errcode":"M_UNKNOWN","error":"Internal server error"}`},
		{"GET", "/_matrix/federation/v1/state/a/b%2Fc", 200, `["a/b/c"]`},
		{"OPTIONS", v3 + "/nothing", 204, ``},
	}
	for _, c := range cases {
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			w := httptest.NewRecorder()
			rt.ServeHTTP(w, httptest.NewRequest(c.method, c.path, nil))
			if w.Code != c.status || w.Body.String() != c.body {
				t.Fatalf("got %d %s, want %d %s", w.Code, w.Body, c.status, c.body)
			}
			for k, want := range map[string]string{"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Methods": corsMethods, "Access-Control-Allow-Headers": corsHeaders} {
				if got := w.Header().Get(k); got != want {
					t.Errorf("%s: %q", k, got)
				}
			}
		})
	}
}

// Client-server API, "Standard error response": M_NOT_JSON, M_BAD_JSON, M_TOO_LARGE.
func TestDecode(t *testing.T) {
	rt := testRouter(t)
	cases := []struct{ name, body, code string }{
		{"fine", `{"a":"x","b":[1]}`, ""},
		{"empty", "", ""},
		{"white space", " \n{} ", ""},
		{"not json", `{"a":`, "M_NOT_JSON"},
		{"two values", `{}{}`, "M_NOT_JSON"},
		{"not utf-8", "{\"a\":\"\xff\"}", "M_NOT_JSON"},
		{"array", `[]`, "M_BAD_JSON"},
		{"wrong type", `{"a":1}`, "M_BAD_JSON"},
		{"deep", `{"b":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `}`, "M_BAD_JSON"},
		{"brackets in a string", `{"b":"` + strings.Repeat("[", 200) + `\"{"}`, ""},
		{"large", `{"a":"` + strings.Repeat("x", 1000) + `"}`, "M_TOO_LARGE"},
	}
	for _, c := range cases {
		for _, chunked := range []bool{false, true} {
			t.Run(c.name, func(t *testing.T) {
				r := httptest.NewRequest("POST", "/_matrix/client/v3/json", strings.NewReader(c.body))
				if chunked {
					r.ContentLength = -1
				}
				w := httptest.NewRecorder()
				rt.ServeHTTP(w, r)
				var e struct{ Errcode string }
				if w.Code != 200 {
					if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil {
						t.Fatal(err)
					}
				}
				if e.Errcode != c.code {
					t.Fatalf("got %d %s, want %q", w.Code, w.Body, c.code)
				}
			})
		}
	}
}

func TestClientAddr(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	cases := []struct{ remote, forwarded, want string }{
		{"192.0.2.1:5", "", "192.0.2.1"},
		{"192.0.2.1:5", "198.51.100.1", "192.0.2.1"}, // not from a proxy: anybody can write that
		{"10.1.1.1:5", "198.51.100.1", "198.51.100.1"},
		{"10.1.1.1:5", "203.0.113.9, 198.51.100.1, 10.2.2.2", "198.51.100.1"},
		{"10.1.1.1:5", "garbage", "10.1.1.1"},
		{"10.1.1.1:5", "", "10.1.1.1"},
		{"[::1]:5", "[2001:db8::1]:443", "2001:db8::1"},
		{"[::ffff:10.1.1.1]:5", "2001:db8::2", "2001:db8::2"},
	}
	for _, c := range cases {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = c.remote
		if c.forwarded != "" {
			r.Header.Set("X-Forwarded-For", c.forwarded)
		}
		if got := clientAddr(r, trusted).String(); got != c.want {
			t.Errorf("%+v: got %s", c, got)
		}
	}
}

// RFC 4291, section 2.5.4: an interface has a /64; RFC 6052, section 2.1: what stands for an IPv4 address.
func TestAddrKey(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1":              "192.0.2.1",
		"::ffff:192.0.2.1":       "192.0.2.1",
		"64:ff9b::192.0.2.1":     "192.0.2.1",
		"2001:db8:1:2::1":        "2001:db8:1:2::/64",
		"2001:db8:1:2:a:b:c:d":   "2001:db8:1:2::/64",
		"2001:db8:1:3::1":        "2001:db8:1:3::/64",
		"fe80::1%eth0":           "fe80::/64",
		"64:ff9b:0:1::192.0.2.1": "64:ff9b:0:1::/64",
	} {
		if got := AddrKey(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %s, want %s", addr, got, want)
		}
	}
}

func TestConcurrencyIsBounded(t *testing.T) {
	rt := NewRouter(RouterConfig{MaxConcurrent: 1, MaxPolls: 1})
	entered, leave := make(chan struct{}), make(chan struct{})
	block := func(w http.ResponseWriter, _ *http.Request) error {
		entered <- struct{}{}
		<-leave
		return Empty(w)
	}
	rt.Handle("GET /busy", block)
	rt.Handle("GET /poll", block, LongPoll())
	done := make(chan int, 2)
	get := func(path string) {
		w := httptest.NewRecorder()
		rt.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		done <- w.Code
	}
	go get("/busy")
	<-entered
	get("/busy")
	if code := <-done; code != http.StatusTooManyRequests {
		t.Fatalf("second request: %d", code)
	}
	go get("/poll") // polls have slots of their own
	<-entered
	close(leave)
	for range 2 {
		if code := <-done; code != 200 {
			t.Fatalf("got %d", code)
		}
	}
}

// The real server: an answer over the wire, a graceful end.
func TestServer(t *testing.T) {
	rt := testRouter(t)
	s, err := NewServer(ServerConfig{Listen: "127.0.0.1:0"}, rt)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	resp, err := http.Post("http://"+s.Addr().String()+"/_matrix/client/v3/json", "application/json", strings.NewReader(`{"a":"x"}`))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || string(b) != `"x"` {
		t.Fatalf("%s %v", b, err)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Fatal(err)
	}
}

func TestAppendString(t *testing.T) {
	for _, s := range []string{"", "plain", "q\"b\\n\nr\rt\t\x00\x1f", "ä€😀", "bad\xffutf\xc3", "real \uFFFD", "<&>"} {
		b := AppendString(nil, s)
		var got string
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatalf("%q: %s: %v", s, b, err)
		}
		if want := strings.ToValidUTF8(s, "\uFFFD"); got != want {
			t.Errorf("%q: got %q", s, got)
		}
	}
}

func FuzzCheckJSON(f *testing.F) {
	for _, s := range []string{`{"a":[1,2,{"b":null}]}`, `"\"[["`, `[[[`, "\xff", `{"a":"\ud800"}`, ``} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		err := CheckJSON(b)
		var v any
		dec := json.NewDecoder(bytes.NewReader(b))
		if err == nil && dec.Decode(&v) != nil {
			t.Fatalf("accepted %q", b)
		}
		if err != nil && !merr.HasCode(err, merr.CodeNotJSON) && !merr.HasCode(err, merr.CodeBadJSON) {
			t.Fatalf("%v", err)
		}
	})
}

func BenchmarkRequest(b *testing.B) {
	rt := testRouter(b)
	r := httptest.NewRequest("GET", "/_matrix/client/v3/rooms/!a:b/state/m.x/", nil)
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		rt.ServeHTTP(w, r)
	}
}
