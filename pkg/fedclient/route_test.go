package fedclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hanse/pkg/matrix/id"
	"hanse/pkg/netguard"
)

// Server-server API, "Resolving server names": each step, and what Host and certificate follow from it.
func TestRoutes(t *testing.T) {
	n := newNetwork(t)
	delegations := map[string]string{
		"toip": "127.0.0.9", "toipport": "127.0.0.9:1234", "toport": "real.test:4321", "tohost": "plain.test",
		"tosrv": "withsrv.test", "toold": "oldsrv.test", "bad": "not a name", "empty": "",
	}
	wkPort := n.serve("127.0.0.1:0", func(w http.ResponseWriter, r *http.Request) {
		name, _, _ := strings.Cut(r.Host, ".")
		to, ok := delegations[name]
		if !ok || r.URL.Path != "/.well-known/matrix/server" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprintf(w, `{"m.server":%q}`, to)
	}, "*.wk.test")
	for name := range delegations {
		n.set(name+".wk.test", "A", "127.0.0.1")
	}
	n.set("none.wk.test", "A", "127.0.0.1")
	n.set("_matrix-fed._tcp.withsrv.test", "SRV", "20 1 8449 second.test.", "10 1 8443 first.test.")
	n.set("_matrix._tcp.withsrv.test", "SRV", "10 1 1 wrong.test.")
	n.set("_matrix._tcp.oldsrv.test", "SRV", "10 1 8444 old.test.")
	n.set("_matrix._tcp.none.wk.test", "SRV", "10 1 8445 fallback.test.")
	n.set("_matrix-fed._tcp.never.test", "SRV", "0 0 0 .")
	c := n.client(wkPort)

	for server, want := range map[string]Route{
		"1.2.3.4":           {Targets: []string{"1.2.3.4:8448"}, TLSName: "1.2.3.4", Host: "1.2.3.4"},
		"1.2.3.4:99":        {Targets: []string{"1.2.3.4:99"}, TLSName: "1.2.3.4", Host: "1.2.3.4:99"},
		"[2001:db8::1]":     {Targets: []string{"[2001:db8::1]:8448"}, TLSName: "2001:db8::1", Host: "[2001:db8::1]"},
		"[2001:db8::1]:1":   {Targets: []string{"[2001:db8::1]:1"}, TLSName: "2001:db8::1", Host: "[2001:db8::1]:1"},
		"toip.wk.test:8448": {Targets: []string{"toip.wk.test:8448"}, TLSName: "toip.wk.test", Host: "toip.wk.test:8448"},
		"toip.wk.test":      {Targets: []string{"127.0.0.9:8448"}, TLSName: "127.0.0.9", Host: "127.0.0.9"},
		"toipport.wk.test":  {Targets: []string{"127.0.0.9:1234"}, TLSName: "127.0.0.9", Host: "127.0.0.9:1234"},
		"toport.wk.test":    {Targets: []string{"real.test:4321"}, TLSName: "real.test", Host: "real.test:4321"},
		"tohost.wk.test":    {Targets: []string{"plain.test:8448"}, TLSName: "plain.test", Host: "plain.test"},
		"tosrv.wk.test":     {Targets: []string{"first.test:8443", "second.test:8449"}, TLSName: "withsrv.test", Host: "withsrv.test"},
		"toold.wk.test":     {Targets: []string{"old.test:8444"}, TLSName: "oldsrv.test", Host: "oldsrv.test"},
		"bad.wk.test":       {Targets: []string{"bad.wk.test:8448"}, TLSName: "bad.wk.test", Host: "bad.wk.test"},
		"empty.wk.test":     {Targets: []string{"empty.wk.test:8448"}, TLSName: "empty.wk.test", Host: "empty.wk.test"},
		"none.wk.test":      {Targets: []string{"fallback.test:8445"}, TLSName: "none.wk.test", Host: "none.wk.test"},
		"withsrv.test":      {Targets: []string{"first.test:8443", "second.test:8449"}, TLSName: "withsrv.test", Host: "withsrv.test"},
		"unknown.elsewhere": {Targets: []string{"unknown.elsewhere:8448"}, TLSName: "unknown.elsewhere", Host: "unknown.elsewhere"},
	} {
		got, err := c.Route(t.Context(), id.Server(server))
		if err != nil {
			t.Errorf("%s: %v", server, err)
			continue
		}
		if !slices.Equal(got.Targets, want.Targets) || got.TLSName != want.TLSName || got.Host != want.Host {
			t.Errorf("%s leads to %+v, want %+v", server, got, want)
		}
	}
	for _, server := range []id.Server{"never.test", "bad name", "x:99999", ""} {
		if rt, err := c.Route(t.Context(), server); err == nil {
			t.Errorf("%q leads to %+v, want an error", server, rt)
		}
	}
}

func TestCacheTime(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, c := range []struct {
		header http.Header
		want   time.Duration
	}{
		{http.Header{}, wellKnownDefault},
		{http.Header{"Cache-Control": {"max-age=7200"}}, 2 * time.Hour},
		{http.Header{"Cache-Control": {"public", `Max-Age="7200"`}}, 2 * time.Hour},
		{http.Header{"Cache-Control": {"max-age=1"}}, wellKnownMin},
		{http.Header{"Cache-Control": {"max-age=99999999"}}, wellKnownMax},
		{http.Header{"Cache-Control": {"max-age=x"}}, wellKnownDefault},
		{http.Header{"Cache-Control": {"no-store, max-age=7200"}}, wellKnownMin},
		{http.Header{"Expires": {now.Add(3 * time.Hour).Format(http.TimeFormat)}}, 3 * time.Hour},
		{http.Header{"Expires": {"0"}}, wellKnownMin},
		{http.Header{"Expires": {"0"}, "Cache-Control": {"max-age=7200"}}, 2 * time.Hour},
	} {
		if got := cacheTime(c.header, now); got != c.want {
			t.Errorf("cacheTime(%v) = %s, want %s", c.header, got, c.want)
		}
	}
}

// A .well-known is asked once for many requests, its failures too; an answer that was good stays while it cannot be
// renewed.
func TestWellKnownIsCached(t *testing.T) {
	n := newNetwork(t)
	var asked, status atomic.Int32
	status.Store(200)
	port := n.serve("127.0.0.1:0", func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.WriteHeader(int(status.Load()))
		fmt.Fprint(w, `{"m.server":"elsewhere.test:1"}`)
	}, "a.test", "b.test")
	n.set("a.test", "A", "127.0.0.1")
	n.set("b.test", "A", "127.0.0.1")
	c := n.client(port)
	expire := func(server id.Server) {
		c.resolver.mu.Lock()
		c.resolver.routes.Purge()
		c.resolver.mu.Unlock()
		w := c.resolver.wellKnown
		w.mu.Lock()
		defer w.mu.Unlock()
		d, _ := w.known.Get(server)
		d.expires = time.Time{}
		w.known.Add(server, d)
	}
	route := func(server id.Server) string {
		t.Helper()
		rt, err := c.Route(t.Context(), server)
		if err != nil {
			t.Fatal(err)
		}
		return rt.Targets[0]
	}
	for range 3 {
		if got := route("a.test"); got != "elsewhere.test:1" {
			t.Fatalf("leads to %s", got)
		}
	}
	if asked.Load() != 1 {
		t.Errorf("asked %d times", asked.Load())
	}
	status.Store(500)
	expire("a.test")
	if got := route("a.test"); got != "elsewhere.test:1" || asked.Load() != 2 {
		t.Errorf("after a failure it leads to %s; asked %d times", got, asked.Load())
	}
	if got := route("b.test"); got != "b.test:8448" {
		t.Errorf("without an answer it leads to %s", got)
	}
	before := asked.Load()
	c.resolver.mu.Lock()
	c.resolver.routes.Purge()
	c.resolver.mu.Unlock()
	if route("b.test"); asked.Load() != before {
		t.Error("a failure was not remembered")
	}
}

// Redirects are followed, to https only and not for ever; what comes is bounded.
func TestWellKnownRedirects(t *testing.T) {
	n := newNetwork(t)
	var port string
	var hops atomic.Int32
	port = n.serve("127.0.0.1:0", func(w http.ResponseWriter, r *http.Request) {
		switch r.Host {
		case "loop.test:" + port:
			hops.Add(1)
			http.Redirect(w, r, r.URL.Path, http.StatusFound)
		case "plain.test:" + port:
			http.Redirect(w, r, "http://target.test/x", http.StatusFound)
		case "inside.test:" + port:
			http.Redirect(w, r, "https://10.0.0.1/x", http.StatusFound)
		case "good.test:" + port:
			http.Redirect(w, r, "https://target.test:"+port+"/x", http.StatusMovedPermanently)
		case "huge.test:" + port:
			fmt.Fprintf(w, `{"m.server":"x.test:1","pad":"%s"}`, strings.Repeat("x", wellKnownBytes))
		default:
			fmt.Fprint(w, `{"m.server":"x.test:1"}`)
		}
	}, "loop.test", "plain.test", "inside.test", "good.test", "target.test", "huge.test")
	for _, h := range []string{"loop", "plain", "inside", "good", "target", "huge"} {
		n.set(h+".test", "A", "127.0.0.1")
	}
	c := n.client(port)
	for server, want := range map[id.Server]string{
		"loop.test": "loop.test:8448", "plain.test": "plain.test:8448", "inside.test": "inside.test:8448",
		"huge.test": "huge.test:8448", "good.test": "x.test:1",
	} {
		rt, err := c.Route(t.Context(), server)
		if err != nil || rt.Targets[0] != want {
			t.Errorf("%s leads to %v, %v; want %s", server, rt, err, want)
		}
	}
	if hops.Load() > wellKnownRedirects {
		t.Errorf("%d redirects followed", hops.Load())
	}
}

// The request that arrives: Host, certificate by name, exact URI, HTTP/2, one connection for many.
func TestDo(t *testing.T) {
	n := newNetwork(t)
	var mu sync.Mutex
	conns := make(map[string]bool)
	port := n.serve("127.0.0.1:0", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		conns[r.RemoteAddr] = true
		mu.Unlock()
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Proto", r.Proto)
		fmt.Fprintf(w, "%s %s %s %s", r.Method, r.Host, r.RequestURI, body)
	}, "name.test")
	n.set("_matrix-fed._tcp.name.test", "SRV", "5 1 1 dead.test.", "10 1 "+port+" box.test.")
	n.set("dead.test", "A", "127.0.0.1")
	n.set("box.test", "A", "127.0.0.1")
	c := n.client("1")
	for range 3 {
		resp, err := c.Do(t.Context(), Request{Server: "name.test", Method: "PUT", URI: "/_matrix/x/%2F!a%3Ab/$c?d=%20&e", Body: []byte(`{"a":1}`), MaxBytes: 100})
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		if want := `PUT name.test /_matrix/x/%2F!a%3Ab/$c?d=%20&e {"a":1}`; err != nil || string(got) != want {
			t.Errorf("the server saw %q, %v; want %q", got, err, want)
		}
		if resp.Header.Get("X-Proto") != "HTTP/2.0" {
			t.Errorf("protocol %s", resp.Header.Get("X-Proto"))
		}
		resp.Body.Close()
	}
	if len(conns) != 1 {
		t.Errorf("%d connections for requests one after the other", len(conns))
	}
	for _, uri := range []string{"", "x", "//evil.test/x", "/a b", "/a\nb", "/ä", "/a#b"} {
		if _, err := c.Do(t.Context(), Request{Server: "name.test", Method: "GET", URI: uri}); err == nil {
			t.Errorf("URI %q is accepted", uri)
		}
	}
}

func TestAnswersAreBounded(t *testing.T) {
	n := newNetwork(t)
	port := n.serve("127.0.0.1:0", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/known" {
			w.Header().Set("Content-Length", "2000")
		}
		w.(http.Flusher).Flush()
		_, _ = w.Write(make([]byte, 2000))
	}, "a.test")
	n.set("a.test", "A", "127.0.0.1")
	c := n.client("1")
	get := func(uri string, limit int64) (int, error) {
		resp, err := c.Do(t.Context(), Request{Server: id.Server("a.test:" + port), Method: "GET", URI: uri, MaxBytes: limit})
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return len(b), err
	}
	if got, err := get("/stream", 2000); err != nil || got != 2000 {
		t.Errorf("at the limit: %d bytes, %v", got, err)
	}
	for _, uri := range []string{"/stream", "/known"} {
		if got, err := get(uri, 1999); !errors.Is(err, ErrTooLarge) || got > 1999 {
			t.Errorf("%s beyond the limit: %d bytes, %v", uri, got, err)
		}
	}
}

// The certificate must be for the server's name, whatever DNS says.
func TestCertificateNames(t *testing.T) {
	n := newNetwork(t)
	hello := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }
	named, addressed := n.serve("127.0.0.1:0", hello, "box.test"), n.serve("127.0.0.1:0", hello, "127.0.0.1")
	n.set("box.test", "A", "127.0.0.1")
	n.set("thief.test", "A", "127.0.0.1")
	n.set("_matrix-fed._tcp.thief.test", "SRV", "10 1 "+named+" box.test.")
	c := n.client("1")
	for server, ok := range map[string]bool{
		"box.test:" + named: true, "127.0.0.1:" + addressed: true, "thief.test": false, "thief.test:" + named: false,
		"127.0.0.1:" + named: false, "box.test:" + addressed: false,
	} {
		resp, err := c.Do(t.Context(), Request{Server: id.Server(server), Method: "GET", URI: "/"})
		if err == nil {
			resp.Body.Close()
		}
		if (err == nil) != ok {
			t.Errorf("%s: %v, want success: %v", server, err, ok)
		}
	}
}

// DNS rebinding: the name had a good address when somebody looked, and has an inner one when it is connected to.
func TestRebinding(t *testing.T) {
	n := newNetwork(t)
	var reached atomic.Int32
	port := n.serve("127.0.0.1:0", func(http.ResponseWriter, *http.Request) { reached.Add(1) }, "rebind.test", "127.0.0.1")
	n.set("rebind.test", "A", "203.0.113.7")
	c := n.client(port, func(cfg *Config) {
		cfg.Guard = &netguard.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}}
	})
	if addrs, err := n.resolver().LookupHost(t.Context(), "rebind.test"); err != nil || !slices.Equal(addrs, []string{"203.0.113.7"}) {
		t.Fatalf("before: %v, %v", addrs, err)
	}
	n.set("rebind.test", "A", "127.0.0.1")
	for _, server := range []string{"rebind.test:" + port, "127.0.0.1:" + port, "rebind.test"} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		_, err := c.Do(ctx, Request{Server: id.Server(server), Method: "GET", URI: "/"})
		cancel()
		var refused *netguard.Error
		if !errors.As(err, &refused) {
			t.Errorf("%s: %v, want *netguard.Error", server, err)
		}
	}
	if reached.Load() != 0 {
		t.Errorf("the inner server was reached %d times", reached.Load())
	}
}

// A route that was found without a .well-known and does not work is looked up anew soon.
func TestFailedRouteIsForgotten(t *testing.T) {
	n := newNetwork(t)
	n.set("late.test", "A", "127.0.0.1")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, dead, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	n.set("_matrix-fed._tcp.late.test", "SRV", "10 1 "+dead+" late.test.")
	c := n.client("1")
	if _, err := c.Do(t.Context(), Request{Server: "late.test", Method: "GET", URI: "/"}); err == nil {
		t.Fatal("a closed port answered")
	}
	port := n.serve("127.0.0.1:0", func(http.ResponseWriter, *http.Request) {}, "late.test")
	n.set("_matrix-fed._tcp.late.test", "SRV", "10 1 "+port+" late.test.")
	resp, err := c.Do(t.Context(), Request{Server: "late.test", Method: "GET", URI: "/"})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if n.count("SRV _matrix-fed._tcp.late.test.") != 2 {
		t.Errorf("SRV asked %d times", n.count("SRV _matrix-fed._tcp.late.test."))
	}
}
