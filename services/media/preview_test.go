package media

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"hanse/pkg/netguard"
)

// web serves pages at 127.0.0.2, which the guard lets through, and counts who comes to 127.0.0.1, which it does not.
type web struct {
	url    string
	page   atomic.Pointer[func(w http.ResponseWriter, r *http.Request)]
	asked  atomic.Int32
	inside *httptest.Server
	fallen atomic.Int32
}

func newWebOf(t *testing.T, c *cluster) *web {
	t.Helper()
	w := new(web)
	l, err := net.Listen("tcp", "127.0.0.2:0")
	must(t, err)
	outside := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.asked.Add(1)
		(*w.page.Load())(rw, r)
	})}}
	outside.Start()
	t.Cleanup(outside.Close)
	w.inside = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		w.fallen.Add(1)
		_, _ = io.WriteString(rw, "<title>secret</title>")
	}))
	t.Cleanup(w.inside.Close)
	w.url = "http://" + l.Addr().String()
	for _, worker := range c.workers {
		worker.media.web = newWeb(&netguard.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}}, nil, nil)
	}
	return w
}

func (w *web) serve(f func(rw http.ResponseWriter, r *http.Request)) { w.page.Store(&f) }

func ask(u string) string { return v1 + "/preview_url?url=" + url.QueryEscape(u) }

// Client-server API, GET /media/preview_url: what the page says, its picture as a media of ours, one fetch for all.
func TestPreview(t *testing.T) {
	c := newCluster(t, func(cfg *Config) { cfg.Previews.Deny = []string{"*.denied.example"} })
	token := c.login(anna)
	w := newWebOf(t, c)
	picture := pictureOf(t, 40, 20)
	w.serve(func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/pic.png":
			_, _ = rw.Write(picture)
		case "/plain":
			rw.Header().Set("Content-Type", "text/plain; charset=iso-8859-1")
			_, _ = rw.Write([]byte("\xfcber alles"))
		case "/moved":
			http.Redirect(rw, r, "/page", http.StatusMovedPermanently)
		case "/gone":
			http.NotFound(rw, r)
		default:
			rw.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(rw, `<title>T</title><meta property="og:image" content="/pic.png">`)
		}
	})
	r := c.workers[0].do("GET", ask(w.url+"/page"), token, nil).ok().json()
	image, _ := r["og:image"].(string)
	if r["og:title"] != "T" || r["og:image:width"] != 40.0 || r["og:image:type"] != "image/png" || r["matrix:image:size"] != float64(len(picture)) {
		t.Errorf("preview %v", r)
	}
	if got := c.workers[1].do("GET", v1+"/download/"+strings.TrimPrefix(image, "mxc://"), token, nil).ok(); string(got.raw) != string(picture) {
		t.Errorf("the picture has %d bytes", len(got.raw))
	}
	before := w.asked.Load()
	for n := range 4 {
		c.workers[n%2].do("GET", ask(w.url+"/page#part"), token, nil).ok()
	}
	if n := w.asked.Load(); n != before {
		t.Errorf("asked %d times again", n-before)
	}
	if r := c.workers[0].do("GET", ask(w.url+"/moved"), token, nil).ok().json(); r["og:title"] != "T" {
		t.Errorf("moved: %v", r)
	}
	if r := c.workers[0].do("GET", ask(w.url+"/plain"), token, nil).ok().json(); r["og:description"] != "über alles" {
		t.Errorf("plain: %v", r)
	}
	if r := c.workers[0].do("GET", ask(w.url+"/pic.png"), token, nil).ok().json(); r["og:image:height"] != 20.0 || r["og:title"] != "pic.png" {
		t.Errorf("a picture: %v", r)
	}
	c.workers[0].do("GET", ask(w.url+"/gone"), token, nil).fails(502, "M_UNKNOWN")
	c.workers[0].do("GET", ask("https://a.denied.example/"), token, nil).fails(403, "M_FORBIDDEN")
	c.workers[0].do("GET", v1+"/preview_url", token, nil).fails(400, "M_MISSING_PARAM")
	c.workers[0].do("GET", ask(w.url), "", nil).fails(401, "M_MISSING_TOKEN")
	off := newCluster(t, func(cfg *Config) { cfg.Previews.Enabled = false })
	off.workers[0].do("GET", ask(w.url), off.login(anna), nil).fails(404, "M_UNRECOGNIZED")
}

// forged are ways to name what is inside, and other things that no preview may reach. PORT is that of a server at 127.0.0.1.
var forged = []string{
	"http://127.0.0.1:PORT/", "http://localhost:PORT/", "http://127.1:PORT/", "http://2130706433:PORT/", "http://0177.0.0.1:PORT/",
	"http://0x7f.0.0.1:PORT/", "http://0x7f000001:PORT/", "http://017700000001:PORT/", "http://127.0.0.1.:PORT/", "http://0.0.0.0:PORT/", "http://0:PORT/",
	"http://[::1]:PORT/", "http://[::]:PORT/", "http://[::ffff:127.0.0.1]:PORT/", "http://[::ffff:7f00:1]:PORT/", "http://[::127.0.0.1]:PORT/",
	"http://[0:0:0:0:0:ffff:127.0.0.1]:PORT/", "http://[64:ff9b::7f00:1]:PORT/", "http://[64:ff9b:1::7f00:1]:PORT/", "http://[2002:7f00:1::]:PORT/",
	"http://[2001:0:7f00:1::]:PORT/", "http://[fe80::1%25lo]:PORT/", "http://[fc00::1]:PORT/", "http://[fec0::1]:PORT/", "http://[ff02::1]:PORT/", "http://[100::1]:PORT/",
	"http://127.255.255.254:PORT/", "http://10.0.0.1/", "http://172.16.0.1/", "http://192.168.1.1/", "http://169.254.169.254/latest/meta-data/",
	"http://100.64.0.1/", "http://192.0.0.1/", "http://192.0.2.1/", "http://198.18.0.1/", "http://224.0.0.1/", "http://240.0.0.1/", "http://255.255.255.255/",
	"http://user:pass@127.0.0.2:PORT/", "http://127.0.0.2:PORT@127.0.0.1:PORT/", "http://127.0.0.1%00.example:PORT/", "http://①②⑦.⓪.⓪.①:PORT/",
	"file:///etc/passwd", "ftp://127.0.0.1/", "gopher://127.0.0.1:PORT/_x", "data:text/html,<title>x</title>", "javascript:alert(1)", "unix:///run/x.sock",
	`\\127.0.0.1\share`, "//127.0.0.1:PORT/", "http:127.0.0.1", "http:///127.0.0.1/", "http://", "http://127.0.0.1:99999/", "http://127.0.0.1:PORT\r\nHost: x/",
}

// Nothing that a client, a page, a redirect or another server names leads inside.
func TestForgedRequestsAreRefused(t *testing.T) {
	c := newCluster(t)
	token := c.login(anna)
	w := newWebOf(t, c)
	port := fmt.Sprint(w.inside.Listener.Addr().(*net.TCPAddr).Port)
	if len(forged) < 40 {
		t.Fatalf("only %d cases", len(forged))
	}
	for n, target := range forged {
		target = strings.ReplaceAll(target, "PORT", port)
		worker := c.workers[n%2]
		if r := worker.do("GET", ask(target), token, nil); r.status != 400 && r.status != 502 {
			t.Errorf("%q: %d %s", target, r.status, r.raw)
		}
		w.serve(func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header()["Location"] = []string{strings.NewReplacer("\r", "", "\n", "").Replace(target)}
			rw.WriteHeader(http.StatusFound)
		})
		if r := worker.do("GET", ask(fmt.Sprintf("%s/redirect%d", w.url, n)), token, nil); r.status != 502 {
			t.Errorf("by a redirect to %q: %d %s", target, r.status, r.raw)
		}
		w.serve(func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", "text/html")
			fmt.Fprintf(rw, `<title>x</title><meta property="og:image" content="%s"><link rel=alternate type=application/json+oembed href="%s">`, target, target)
		})
		if r := worker.do("GET", ask(fmt.Sprintf("%s/page%d", w.url, n)), token, nil).ok().json(); r["og:image"] != nil || r["og:title"] != "x" {
			t.Errorf("a page that names %q: %v", target, r)
		}
		if strings.ContainsAny(target, "\r\n") {
			continue
		}
		c.remote.answers(func(a *remoteAnswer, _ string) { a.multipart("Location: "+target+"\r\n", "") })
		worker.do("GET", fmt.Sprintf("%s/download/remote.example/location%d", v1, n), token, nil).fails(502, "M_UNKNOWN")
	}
	if n := w.fallen.Load(); n != 0 {
		t.Errorf("%d requests got inside", n)
	}
	a, err := c.workers[0].store.Audit(t.Context(), false, 0)
	must(t, err)
	if a.Objects != 0 {
		t.Errorf("kept %+v", a)
	}
}
