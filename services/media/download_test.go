package media

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"hanse/pkg/matrix/id"
	"hanse/pkg/userdb"
)

const anna = id.User("@anna:a.example")

// Client-server API, content repository: what is uploaded at one worker can be had from the other, with its type, its name,
// and the headers that keep it from running.
func TestUploadAndDownload(t *testing.T) {
	c := newCluster(t)
	token := c.login(anna)
	one, two := c.workers[0], c.workers[1]
	path := one.upload(token, "?filename="+url.QueryEscape("a picture.png"), []byte("bytes"), "Content-Type", "image/png")
	r := two.do("GET", v1+"/download"+path, token, nil).ok()
	sum := sha256.Sum256([]byte("bytes"))
	for name, want := range map[string]string{
		"Content-Type": "image/png", "Content-Disposition": `inline; filename="a picture.png"`, "Content-Security-Policy": policy,
		"Cross-Origin-Resource-Policy": "cross-origin", "X-Content-Type-Options": "nosniff", "Etag": `"` + hex.EncodeToString(sum[:]) + `"`,
		"Accept-Ranges": "bytes", "Content-Length": "5", "Access-Control-Allow-Origin": "*",
	} {
		if got := r.header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if string(r.raw) != "bytes" {
		t.Errorf("content %q", r.raw)
	}
	if d := two.do("GET", v1+"/download"+path+"/other.png", token, nil).ok().header.Get("Content-Disposition"); d != "inline; filename=other.png" {
		t.Errorf("with a name: %q", d)
	}
	if r := two.do("HEAD", v1+"/download"+path, token, nil).ok(); r.header.Get("Content-Length") != "5" || len(r.raw) != 0 {
		t.Errorf("HEAD: %v %q", r.header, r.raw)
	}
	two.do("GET", v1+"/download"+path, "", nil).fails(401, "M_MISSING_TOKEN")
	two.do("GET", v1+"/download/a.example/none", token, nil).fails(404, "M_NOT_FOUND")
	two.do("GET", v1+"/download/a.example/..%2f..%2fetc%2fpasswd", token, nil).fails(404, "M_NOT_FOUND")
	two.do("GET", v1+"/download/a%00example/x", token, nil).fails(404, "M_NOT_FOUND")
	if n := one.do("GET", v1+"/config", token, nil).ok().json()["m.upload.size"]; n != float64(50<<20) {
		t.Errorf("config: %v", n)
	}
}

// RFC 9110, 13 and 14: ranges and conditions.
func TestRangesAndConditions(t *testing.T) {
	c := newCluster(t)
	token := c.login(anna)
	w := c.workers[0]
	content := make([]byte, 100_000)
	_, _ = rand.Read(content)
	path := v1 + "/download" + w.upload(token, "", content)
	etag := w.do("HEAD", path, token, nil).header.Get("Etag")
	for _, q := range []struct {
		ask    string
		status int
		want   []byte
	}{
		{"bytes=0-9", 206, content[:10]}, {"bytes=99990-", 206, content[99990:]}, {"bytes=-5", 206, content[99995:]},
		{"bytes=50000-50999", 206, content[50000:51000]}, {"bytes=0-1000000", 206, content}, {"bytes=100000-", 416, nil}, {"lines=1-2", 416, nil},
		{"bytes=" + strings.Repeat("1-2,", 50) + "5-6", 200, content},
	} {
		r := w.do("GET", path, token, nil, "Range", q.ask)
		if r.status != q.status || q.want != nil && !bytes.Equal(r.raw, q.want) {
			t.Errorf("%.40s: %d, %d bytes", q.ask, r.status, len(r.raw))
		}
	}
	if r := w.do("GET", path, token, nil, "If-None-Match", etag); r.status != http.StatusNotModified || len(r.raw) != 0 {
		t.Errorf("not modified: %d", r.status)
	}
	if r := w.do("GET", path, token, nil, "If-None-Match", `"other"`); r.status != 200 {
		t.Errorf("modified: %d", r.status)
	}
	if r := w.do("GET", path, token, nil, "Range", "bytes=10-19", "If-Range", etag); r.status != 206 || !bytes.Equal(r.raw, content[10:20]) {
		t.Errorf("if-range: %d", r.status)
	}
	if r := w.do("GET", path, token, nil, "Range", "bytes=10-19", "If-Range", `"other"`); r.status != 200 || len(r.raw) != len(content) {
		t.Errorf("if-range of another: %d", r.status)
	}
}

// Client-server API, "Serving inline content", and names that would deceive.
func TestTypesAndNames(t *testing.T) {
	c := newCluster(t)
	token := c.login(anna)
	w := c.workers[0]
	for _, q := range []struct{ typ, name, wantType, wantDisposition string }{
		{"image/svg+xml", "x.svg", "image/svg+xml", "attachment; filename=x.svg"},
		{"text/html; charset=utf-8", "", "text/html; charset=utf-8", "attachment"},
		{"text/plain; charset=UTF-8", "", "text/plain; charset=UTF-8", "inline"},
		{"IMAGE/PNG", "", "image/png", "inline"},
		{"image/png\t; x", "", anyType, "attachment"},
		{"", "", anyType, "attachment"},
		{"nonsense", "", anyType, "attachment"},
		{"image/png, text/html", "", anyType, "attachment"},
		{"a/" + strings.Repeat("b", 300), "", anyType, "attachment"},
		{"image/png", "a\r\nSet-Cookie: x=y.png", "image/png", `inline; filename="aSet-Cookie: x=y.png"`},
		{"image/png", `a"b\c.png`, "image/png", "inline; filename*=utf-8''a%22b%5Cc.png"},
		{"image/png", "Übung 1.png", "image/png", "inline; filename*=utf-8''%C3%9Cbung%201.png"},
		{"image/png", "evil\u202egnp.exe", "image/png", "inline; filename=evilgnp.exe"},
		{"image/png", "a;b.png", "image/png", `inline; filename="a;b.png"`},
		{"image/png", "100%41.png", "image/png", "inline; filename*=utf-8''100%2541.png"},
		{"image/png", "bad\xff\xfe.png", "image/png", "inline; filename=bad.png"},
		{"image/png", strings.Repeat("x", 4096), "image/png", "inline; filename=" + strings.Repeat("x", maxName)},
	} {
		var headers []string
		if q.typ != "" {
			headers = []string{"Content-Type", q.typ}
		}
		path := w.upload(token, "?filename="+url.QueryEscape(q.name), []byte("x"), headers...)
		r := w.do("GET", v1+"/download"+path, token, nil).ok()
		if got := r.header.Get("Content-Type"); got != q.wantType {
			t.Errorf("%.60q: type %q, want %q", q.typ, got, q.wantType)
		}
		if got := r.header.Get("Content-Disposition"); got != q.wantDisposition {
			t.Errorf("%.60q: %q, want %q", q.name, got, q.wantDisposition)
		}
	}
}

// What does not fit is refused, whether its length is told before or not, and nothing of it is left.
func TestUploadLimits(t *testing.T) {
	c := newCluster(t, func(cfg *Config) {
		cfg.Limits[kindUser] = Limit{File: 1000, Bytes: 2500, Items: 4}
		cfg.Limits["@bert:a.example"] = Limit{File: 5000}
		cfg.Limits[kindAdmin] = Limit{File: 3000}
	})
	token := c.login(anna)
	w := c.workers[0]
	up := "/_matrix/media/v3/upload"
	chunked := func(token string, n int) *reply {
		req, err := http.NewRequestWithContext(t.Context(), "POST", w.url+up, io.MultiReader(bytes.NewReader(make([]byte, n))))
		must(t, err)
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		must(t, err)
		defer resp.Body.Close()
		raw, err := io.ReadAll(resp.Body)
		must(t, err)
		return &reply{t, "chunked", resp.StatusCode, resp.Header, raw}
	}
	w.do("POST", up, token, make([]byte, 1001)).fails(413, "M_TOO_LARGE")
	chunked(token, 1001).fails(413, "M_TOO_LARGE")
	chunked(token, 1000).ok()
	w.do("POST", up, token, []byte{}).ok()
	w.do("POST", up, token, make([]byte, 1000)).ok()
	w.do("POST", up, token, make([]byte, 501)).fails(403, "M_FORBIDDEN")
	w.do("POST", up, token, make([]byte, 500)).ok()
	w.do("POST", up, token, []byte{1}).fails(403, "M_FORBIDDEN")
	bert := c.login("@bert:a.example")
	w.do("POST", up, bert, make([]byte, 5000)).ok()
	w.do("POST", up, bert, make([]byte, 5001)).fails(413, "M_TOO_LARGE")
	boss := c.login("@boss:a.example", func(a *userdb.NewAccount) { a.Admin = true })
	if n := w.do("GET", v1+"/config", boss, nil).ok().json()["m.upload.size"]; n != 3000.0 {
		t.Errorf("limit of administrators: %v", n)
	}
	guest := c.login("@guest:a.example", func(a *userdb.NewAccount) { a.Guest = true })
	w.do("POST", up, guest, []byte("x")).fails(403, "M_GUEST_ACCESS_FORBIDDEN")
	a, err := w.store.Audit(t.Context(), false, 0)
	must(t, err)
	if a.Bytes != a.RowBytes || len(a.Unknown)+len(a.Lost) != 0 {
		t.Errorf("audit %+v", a)
	}
}

// Guests may read (client-server API, "Guest Access").
func TestGuestsRead(t *testing.T) {
	c := newCluster(t)
	path := c.workers[0].upload(c.login(anna), "", []byte("x"))
	guest := c.login("@guest:a.example", func(a *userdb.NewAccount) { a.Guest = true })
	c.workers[1].do("GET", v1+"/download"+path, guest, nil).ok()
}

// Client-server API, content repository: an id first, its content later, and whoever asks meanwhile waits.
func TestAsynchronousUpload(t *testing.T) {
	c := newCluster(t, func(cfg *Config) { cfg.Pending = 2 })
	token, bert := c.login(anna), c.login("@bert:a.example")
	one, two := c.workers[0], c.workers[1]
	r := one.do("POST", "/_matrix/media/v1/create", token, []byte("{}")).ok()
	path := strings.TrimPrefix(r.str("content_uri"), "mxc:/")
	if at, _ := r.json()["unused_expires_at"].(float64); time.UnixMilli(int64(at)).Before(time.Now().Add(time.Hour)) {
		t.Errorf("unused_expires_at %v", at)
	}
	two.do("GET", v1+"/download"+path+"?timeout_ms=0", token, nil).fails(504, "M_NOT_YET_UPLOADED")
	two.do("GET", v1+"/download"+path+"?timeout_ms=soon", token, nil).fails(400, "M_INVALID_PARAM")
	two.do("PUT", "/_matrix/media/v3/upload"+path, bert, []byte("mine")).fails(403, "M_FORBIDDEN")
	two.do("PUT", "/_matrix/media/v3/upload/a.example/unknown", token, []byte("x")).fails(404, "M_NOT_FOUND")
	var wg sync.WaitGroup
	wg.Go(func() {
		if r := two.do("GET", v1+"/download"+path+"?timeout_ms=60000", token, nil); string(r.raw) != "content" {
			t.Errorf("who waits gets %d %q", r.status, r.raw)
		}
	})
	one.do("PUT", "/_matrix/media/v3/upload"+path+"?filename=x.txt", token, []byte("content"), "Content-Type", "text/plain").ok()
	wg.Wait()
	two.do("PUT", "/_matrix/media/v3/upload"+path, token, []byte("again")).fails(409, "M_CANNOT_OVERWRITE_MEDIA")
	one.do("POST", "/_matrix/media/v1/create", token, []byte("{}")).ok()
	two.do("POST", "/_matrix/media/v1/create", token, []byte("{}")).ok()
	one.do("POST", "/_matrix/media/v1/create", token, []byte("{}")).fails(429, "M_LIMIT_EXCEEDED")
}

// Client-server API, content repository: the deprecated paths serve what is older than the freeze, and nothing else.
func TestOldPathsAreFrozen(t *testing.T) {
	c := newCluster(t)
	token := c.login(anna)
	w := c.workers[0]
	path := w.upload(token, "", []byte("x"))
	w.do("GET", "/_matrix/media/v3/download"+path, "", nil).fails(404, "M_NOT_FOUND")
	thawed := newCluster(t, func(cfg *Config) { cfg.Old.Freeze = time.Now().AddDate(1, 0, 0).Format(time.DateOnly) })
	w = thawed.workers[0]
	path = w.upload(thawed.login(anna), "", []byte("x"))
	for _, version := range []string{"v3", "r0", "v1"} {
		w.do("GET", "/_matrix/media/"+version+"/download"+path+"/name.txt", "", nil).ok()
	}
	closed := newCluster(t, func(cfg *Config) { cfg.Old.Enabled = false })
	closed.workers[0].do("GET", "/_matrix/media/v3/download/a.example/x", "", nil).fails(404, "M_UNRECOGNIZED")
}

// 1,000 downloads by clients that resume, and a worker that is killed in the middle: none fails.
func TestKilledInTheMiddleOfDownloads(t *testing.T) {
	objectStores(t, testKilledInTheMiddleOfDownloads)
}

func testKilledInTheMiddleOfDownloads(t *testing.T, change func(*Config)) {
	c := newCluster(t, change)
	token := c.login(anna)
	content := make([]byte, 512<<10)
	_, _ = rand.Read(content)
	path := v1 + "/download" + c.workers[0].upload(token, "", content)
	kill := make(chan struct{})
	var once sync.Once
	var wg sync.WaitGroup
	jobs := make(chan int)
	for range 16 {
		wg.Go(func() {
			for n := range jobs {
				got, err := c.resuming(path, token, n, len(content))
				if err != nil || !bytes.Equal(got, content) {
					t.Errorf("download %d: %d bytes, %v", n, len(got), err)
				}
				if n == 500 {
					once.Do(func() { close(kill) })
				}
			}
		})
	}
	wg.Go(func() {
		<-kill
		c.workers[0].srv.CloseClientConnections()
		c.workers[0].srv.Config.Close()
	})
	for n := range 1000 {
		jobs <- n
	}
	close(jobs)
	wg.Wait()
}

// resuming downloads a file, and goes on at the other worker where one breaks off.
func (c *cluster) resuming(path, token string, n, size int) (got []byte, err error) {
	for try := range 10 {
		req, err := http.NewRequest("GET", c.workers[(n+try)%2].url+path, nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+token)
		if len(got) > 0 {
			req.Header.Set("Range", fmt.Sprintf("bytes=%d-", len(got)))
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			continue
		}
		if resp.StatusCode != 200 && resp.StatusCode != 206 {
			resp.Body.Close()
			return got, fmt.Errorf("status %d", resp.StatusCode)
		}
		more, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if got = append(got, more...); len(got) == size {
			return got, nil
		}
	}
	return got, fmt.Errorf("not complete after ten attempts")
}

func FuzzNames(f *testing.F) {
	for _, s := range []string{"a.png", "a\r\nb", `"`, "\u202e", "%41", "\xff"} {
		f.Add("image/png", s)
	}
	f.Add("text/html; charset=\"a\r\nb\"", "x")
	f.Fuzz(func(t *testing.T, typ, name string) {
		h := make(http.Header)
		headers(h, cleanType(typ), cleanName(name))
		for key, values := range h {
			for _, v := range values {
				if strings.IndexFunc(v, func(r rune) bool { return r < ' ' && r != '\t' || r > '~' }) >= 0 {
					t.Errorf("%s: %q", key, v)
				}
			}
		}
		if back := nameOf(h.Get("Content-Disposition")); back != cleanName(name) && back != "" {
			t.Errorf("%q became %q", name, back)
		}
	})
}
