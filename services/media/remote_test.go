package media

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"image"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"hanse/pkg/await"
	"hanse/pkg/netguard"
	fedv1 "hanse/proto/federation/v1"
)

// remoteServers is fedout, and all other servers: what they answer is written to their connection.
type remoteServers struct {
	fedv1.FedOutClient
	asked atomic.Int32

	mu     sync.Mutex
	answer func(w *remoteAnswer, uri string)
}

// remoteAnswer is what another server answers, piece by piece.
type remoteAnswer struct {
	grpc.ServerStreamingClient[fedv1.DoResponse]
	ctx    context.Context
	pieces chan *fedv1.DoResponse
}

func newRemoteServers(testing.TB) *remoteServers { return &remoteServers{} }

func (r *remoteServers) answers(f func(w *remoteAnswer, uri string)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = f
}

// Do implements fedv1.FedOutClient.
func (r *remoteServers) Do(ctx context.Context, in *fedv1.DoRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[fedv1.DoResponse], error) {
	r.asked.Add(1)
	r.mu.Lock()
	answer := r.answer
	r.mu.Unlock()
	w := &remoteAnswer{ctx: ctx, pieces: make(chan *fedv1.DoResponse)}
	go func() {
		answer(w, in.Uri)
		close(w.pieces)
	}()
	return w, nil
}

// Recv implements grpc.ServerStreamingClient.
func (w *remoteAnswer) Recv() (*fedv1.DoResponse, error) {
	select {
	case p, ok := <-w.pieces:
		if !ok {
			return nil, io.EOF
		}
		return p, nil
	case <-w.ctx.Done():
		return nil, w.ctx.Err()
	}
}

func (w *remoteAnswer) head(status int, headers map[string]string) {
	w.send(&fedv1.DoResponse{Status: int32(status), Headers: headers})
}

func (w *remoteAnswer) body(b []byte) { w.send(&fedv1.DoResponse{Chunk: b}) }

func (w *remoteAnswer) send(p *fedv1.DoResponse) {
	select {
	case w.pieces <- p:
	case <-w.ctx.Done():
	}
}

// multipart answers as a server of today does.
func (w *remoteAnswer) multipart(headers, body string) {
	w.head(200, map[string]string{"Content-Type": "multipart/mixed; boundary=xyz"})
	w.body([]byte("--xyz\r\nContent-Type: application/json\r\n\r\n{}\r\n--xyz\r\n" + headers + "\r\n"))
	w.body([]byte(body))
	w.body([]byte("\r\n--xyz--\r\n"))
}

// Server-server API, "Content Repository": a file of another server, by the endpoint of today, the deprecated ones, or from
// where it says that it is.
func TestRemoteMedia(t *testing.T) {
	c := newCluster(t)
	token := c.login(anna)
	for name, q := range map[string]struct {
		answer func(w *remoteAnswer, uri string)
		name   string
	}{
		"today": {func(w *remoteAnswer, _ string) {
			w.multipart("Content-Type: text/plain\r\nContent-Disposition: inline; filename=a.txt\r\n", "the file")
		}, "inline; filename=a.txt"},
		"deprecated": {func(w *remoteAnswer, uri string) {
			if !strings.HasPrefix(uri, "/_matrix/media/v3/download/remote.example/deprecated?allow_remote=false") {
				w.head(404, nil)
				w.body([]byte(`{"errcode":"M_UNRECOGNIZED"}`))
				return
			}
			w.head(200, map[string]string{"Content-Type": "text/plain", "Content-Length": "8"})
			w.body([]byte("the "))
			w.body([]byte("file"))
		}, "inline"},
		"older": {func(w *remoteAnswer, uri string) {
			if !strings.HasPrefix(uri, "/_matrix/media/r0/") {
				w.head(404, nil)
				w.body([]byte("<html>"))
				return
			}
			w.head(200, map[string]string{"Content-Disposition": "attachment; filename*=utf-8''%C3%BC.bin"})
			w.body([]byte("the file"))
		}, "attachment; filename*=utf-8''%C3%BC.bin"},
	} {
		c.remote.answers(q.answer)
		for n := range 3 {
			r := c.workers[n%2].do("GET", v1+"/download/remote.example/"+name, token, nil).ok()
			if string(r.raw) != "the file" || r.header.Get("Content-Disposition") != q.name {
				t.Errorf("%s: %q %q", name, r.raw, r.header.Get("Content-Disposition"))
			}
		}
		if r := c.workers[0].do("GET", v1+"/download/remote.example/"+name, token, nil, "Range", "bytes=4-7"); r.status != 206 || string(r.raw) != "file" {
			t.Errorf("%s: a range: %d %q", name, r.status, r.raw)
		}
	}
	c.workers[0].do("GET", "/_matrix/media/v3/download/remote.example/today", "", nil).fails(404, "M_NOT_FOUND")
	c.workers[0].do("GET", "/_matrix/media/v3/download/remote.example/unknown", "", nil).fails(404, "M_NOT_FOUND")
}

// What another server does wrong ends with an error of its own, and nothing is kept of it.
func TestRemoteFailures(t *testing.T) {
	c := newCluster(t, func(cfg *Config) { cfg.Remote.File, cfg.Remote.Time = 1000, 3*time.Second })
	token := c.login(anna)
	text := func(status int, body string) func(w *remoteAnswer, uri string) {
		return func(w *remoteAnswer, _ string) { w.head(status, nil); w.body([]byte(body)) }
	}
	for n, q := range []struct {
		answer func(w *remoteAnswer, uri string)
		status int
		code   string
	}{
		{text(404, `{"errcode":"M_NOT_FOUND"}`), 404, "M_NOT_FOUND"},
		{text(404, `{"errcode":"M_UNRECOGNIZED"}`), 404, "M_NOT_FOUND"},
		{text(504, `{"errcode":"M_NOT_YET_UPLOADED"}`), 504, "M_NOT_YET_UPLOADED"},
		{text(413, `{"errcode":"M_TOO_LARGE"}`), 502, "M_TOO_LARGE"},
		{text(500, `no JSON`), 502, "M_UNKNOWN"},
		{text(200, `no multipart`), 502, "M_UNKNOWN"},
		{func(w *remoteAnswer, _ string) { w.multipart("Location: http://127.0.0.1:1/secret\r\n", "") }, 502, "M_UNKNOWN"},
		{func(w *remoteAnswer, _ string) { w.multipart("Location: file:///etc/passwd\r\n", "") }, 502, "M_UNKNOWN"},
		{func(w *remoteAnswer, _ string) {
			w.multipart("Location: http://169.254.169.254/latest/meta-data\r\n", "")
		}, 502, "M_UNKNOWN"},
		{func(w *remoteAnswer, uri string) {
			if strings.HasPrefix(uri, "/_matrix/federation") {
				w.head(404, nil)
				return
			}
			w.head(200, map[string]string{"Content-Length": "1001"})
		}, 502, "M_TOO_LARGE"},
		{func(w *remoteAnswer, _ string) { <-w.ctx.Done() }, 502, "M_UNKNOWN"},
	} {
		c.remote.answers(q.answer)
		c.workers[n%2].do("GET", fmt.Sprintf("%s/download/remote.example/fails%d", v1, n), token, nil).fails(q.status, q.code)
	}
	// A file that turns out too large on the way, or breaks off, breaks the download off.
	for n, body := range []string{strings.Repeat("x", 5000), "half"} {
		c.remote.answers(func(w *remoteAnswer, _ string) {
			if n == 0 {
				w.multipart("", body)
				return
			}
			w.head(200, map[string]string{"Content-Type": "multipart/mixed; boundary=xyz"})
			w.body([]byte("--xyz\r\n\r\n{}\r\n--xyz\r\n\r\n" + body))
		})
		req, err := http.NewRequest("GET", fmt.Sprintf("%s%s/download/remote.example/breaks%d", c.workers[0].url, v1, n), nil)
		must(t, err)
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			continue // it broke off before the first byte
		}
		_, err = io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil && resp.StatusCode == 200 {
			t.Errorf("%d: half a file is taken for a whole one", n)
		}
	}
	await.Nil(t, time.Minute, "nothing is kept", func() error {
		a, err := c.workers[0].store.Audit(t.Context(), false, 0)
		if err == nil && (a.Objects != 0 || a.Rows != 0) {
			err = fmt.Errorf("%+v", a)
		}
		return err
	})
}

// A server that begins an answer and does not go on, at whichever place, is not waited for until the end of the time: Synapse breaks off
// like this if a file is empty.
func TestRemoteStalls(t *testing.T) {
	c := newCluster(t)
	token := c.login(anna)
	for _, w := range c.workers {
		w.media.slow, w.media.cfg.Remote.Rate = time.Millisecond, 1<<30
	}
	for n, pieces := range [][]string{{}, {"--xyz\r\nContent-"}, {"--xyz\r\n\r\n{}"}, {"--xyz\r\n\r\n{}\r\n--xyz\r\nContent-Type: text/plain\r\n"}} {
		c.remote.answers(func(w *remoteAnswer, _ string) {
			w.head(200, map[string]string{"Content-Type": "multipart/mixed; boundary=xyz"})
			for _, piece := range pieces {
				w.body([]byte(piece))
			}
			<-w.ctx.Done()
		})
		c.workers[n%2].do("GET", fmt.Sprintf("%s/download/remote.example/stalls%d", v1, n), token, nil).fails(502, "M_UNKNOWN")
	}
}

// A file that many ask for at the same time, at two workers, is fetched once, and they have its bytes while it arrives.
func TestFetchedOnceForAll(t *testing.T) {
	c := newCluster(t, func(cfg *Config) { cfg.Remote.Window = 64 << 10 })
	token := c.login(anna)
	content := make([]byte, 1<<20)
	_, _ = rand.Read(content)
	more := make(chan struct{})
	c.remote.answers(func(w *remoteAnswer, _ string) {
		w.head(200, map[string]string{"Content-Type": "multipart/mixed; boundary=xyz"})
		w.body([]byte("--xyz\r\n\r\n{}\r\n--xyz\r\n\r\n"))
		w.body(content[:32<<10])
		w.body(content[32<<10 : 64<<10])
		<-more
		for rest := content[64<<10:]; len(rest) > 0; rest = rest[32<<10:] {
			w.body(rest[:32<<10])
		}
		w.body([]byte("\r\n--xyz--\r\n"))
	})
	var wg sync.WaitGroup
	var began atomic.Int32
	for n := range 40 {
		wg.Go(func() {
			req, err := http.NewRequest("GET", c.workers[n%2].url+v1+"/download/remote.example/once", nil)
			if err != nil {
				t.Error(err)
				return
			}
			req.Header.Set("Authorization", "Bearer "+token)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			start := make([]byte, 1000)
			_, err = io.ReadFull(resp.Body, start)
			began.Add(1)
			rest, restErr := io.ReadAll(resp.Body)
			if err != nil || restErr != nil || !bytes.Equal(append(start, rest...), content) {
				t.Errorf("%d: %d bytes, %v %v", n, len(rest), err, restErr)
			}
		})
	}
	await.True(t, 2*time.Minute, "all have the beginning before the end has come", func() bool { return began.Load() == 40 })
	close(more)
	wg.Wait()
	if n := c.remote.asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
	if m, err := c.workers[0].store.UserUsage(t.Context(), "remote.example"); err != nil || m.Bytes != 1<<20 {
		t.Errorf("kept %+v %v", m, err)
	}
}

// A Location is followed where the guard lets it, through redirects that it lets, too.
func TestLocation(t *testing.T) {
	inside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/file":
			w.Header().Set("Content-Type", "image/png")
			_, _ = io.WriteString(w, "elsewhere")
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/away":
			http.Redirect(w, r, "http://10.0.0.1/", http.StatusFound)
		default:
			http.Redirect(w, r, "/file", http.StatusFound)
		}
	}))
	defer inside.Close()
	c := newCluster(t)
	token := c.login(anna)
	at := netip.MustParseAddrPort(inside.Listener.Addr().String())
	for _, w := range c.workers {
		w.media.web = newWeb(&netguard.Guard{Allow: []netip.Prefix{netip.PrefixFrom(at.Addr(), 32)}}, nil, nil)
	}
	for path, status := range map[string]int{"/file": 200, "/there": 200, "/loop": 502, "/away": 502} {
		c.remote.answers(func(w *remoteAnswer, _ string) { w.multipart("Location: "+inside.URL+path+"\r\n", "") })
		r := c.workers[0].do("GET", v1+"/download/remote.example/"+path[1:], token, nil)
		if r.status != status || status == 200 && (string(r.raw) != "elsewhere" || r.header.Get("Content-Type") != "image/png") {
			t.Errorf("%s: %d %q", path, r.status, r.raw)
		}
	}
}

func pictureOf(t *testing.T, w, h int) []byte {
	t.Helper()
	var b bytes.Buffer
	must(t, png.Encode(&b, image.NewNRGBA(image.Rect(0, 0, w, h))))
	return b.Bytes()
}

// Client-server API, content repository, "Thumbnails".
func TestThumbnails(t *testing.T) {
	c := newCluster(t)
	token := c.login(anna)
	one, two := c.workers[0], c.workers[1]
	path := one.upload(token, "?filename=big.png", pictureOf(t, 1000, 500), "Content-Type", "text/html")
	for _, q := range []struct {
		query         string
		width, height int
	}{
		{"width=320&height=240&method=scale", 320, 160}, {"width=90&height=90&method=crop", 96, 96}, {"width=640&height=480", 640, 320},
		{"width=1600&height=1200&method=scale", 1000, 500}, {"width=5000&height=5000", 1000, 500}, {"width=320&height=240&animated=true", 320, 160},
	} {
		for _, w := range c.workers {
			r := w.do("GET", v1+"/thumbnail"+path+"?"+q.query, token, nil).ok()
			conf, err := png.DecodeConfig(bytes.NewReader(r.raw))
			if err != nil || conf.Width != q.width || conf.Height != q.height || r.header.Get("Content-Type") != "image/png" ||
				!strings.HasPrefix(r.header.Get("Content-Disposition"), "inline; filename=") {
				t.Errorf("%s: %v %d x %d, %v", q.query, r.header, conf.Width, conf.Height, err)
			}
		}
	}
	for query, code := range map[string]string{"width=10": "M_MISSING_PARAM", "width=0&height=1": "M_INVALID_PARAM", "width=x&height=1": "M_INVALID_PARAM",
		"width=-1&height=1": "M_INVALID_PARAM", "width=1&height=1&method=stretch": "M_INVALID_PARAM", "width=99999999999&height=1": "M_INVALID_PARAM"} {
		one.do("GET", v1+"/thumbnail"+path+"?"+query, token, nil).fails(400, code)
	}
	svg := one.upload(token, "", []byte("<svg onload='alert(1)'/>"), "Content-Type", "image/png")
	two.do("GET", v1+"/thumbnail"+svg+"?width=32&height=32", token, nil).fails(400, "M_UNKNOWN")
	huge := one.upload(token, "", pictureOf(t, 1, 32_001))
	two.do("GET", v1+"/thumbnail"+huge+"?width=32&height=32", token, nil).fails(413, "M_TOO_LARGE")
	c.remote.answers(func(w *remoteAnswer, _ string) {
		w.multipart("Content-Type: image/png\r\n", string(pictureOf(t, 400, 400)))
	})
	r := two.do("GET", v1+"/thumbnail/remote.example/avatar?width=96&height=96&method=crop", token, nil).ok()
	if conf, err := png.DecodeConfig(bytes.NewReader(r.raw)); err != nil || conf.Width != 96 {
		t.Errorf("of another server: %+v %v", conf, err)
	}
}
