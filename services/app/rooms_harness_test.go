package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/tidwall/gjson"

	"hanse/pkg/await"
	"hanse/pkg/bus/bustest"
	"hanse/pkg/freeport"
	"hanse/pkg/password"
	"hanse/pkg/pg/pgtest"
	"hanse/services/app"
)

const (
	v1 = "/_matrix/client/v1"
	v3 = "/_matrix/client/v3"
)

// world is a cluster of two processes with all roles, over two shards.
type world struct {
	urls []string
	next atomic.Int64
	name string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldOf(t, [][]string{nil, nil}, func(*app.Config) {})
}

// newWorldOf has a process for each set of roles, all of them if a set is nil.
func newWorldOf(t *testing.T, processes [][]string, change func(*app.Config)) *world {
	t.Helper()
	w := &world{name: "hanse.test"}
	shards := pgtest.Config(t, 2)
	media := "file://" + t.TempDir()
	nats, redis := bustest.New(t), miniredis.RunT(t)
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		done.Wait()
	})
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("HANSE_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	for i, roles := range processes {
		ports := freePorts(t, 4)
		cfg := app.Defaults()
		cfg.ServerNames, cfg.DataDir, cfg.WorkerID = []string{w.name}, t.TempDir(), fmt.Sprintf("w%d", i)
		cfg.DrainDelay, cfg.DrainTimeout = time.Millisecond, 2*time.Minute // a busy machine is slow
		cfg.Listen.Client.Address, cfg.Listen.Federation.Address = ports[0], ports[1]
		cfg.Listen.Monitoring.Address, cfg.Listen.GRPC.Address = ports[2], ports[3]
		cfg.PostgreSQL, cfg.NATS.URL, cfg.Redis.URL = shards, nats.URL(), "redis://"+redis.Addr()
		cfg.Media.Store.URL = media
		cfg.Client.Registration.Enabled, cfg.Client.Registration.Guests, cfg.RateLimits.Enabled = true, true, false
		cfg.Password = password.Config{MemoryKiB: 64, Iterations: 1, Threads: 1}
		change(cfg)
		done.Go(func() {
			if err := app.Run(ctx, cfg, roles, "test", log); err != nil {
				t.Error(err)
			}
		})
		if roles == nil || slices.Contains(roles, "client") {
			w.urls = append(w.urls, "http://"+ports[0])
		}
		eventually(t, "worker is ready", func() bool {
			resp, err := http.Get("http://" + ports[2] + "/readyz")
			if err != nil {
				return false
			}
			resp.Body.Close()
			return resp.StatusCode == http.StatusOK
		})
	}
	return w
}

// freePorts returns addresses on which nobody listens now.
func freePorts(t *testing.T, n int) []string {
	t.Helper()
	out := make([]string, n)
	for i := range out {
		var err error
		if out[i], err = freeport.Addr(); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	await.True(t, 2*time.Minute, what, ok)
}

// person is somebody with an access token. Requests go to the workers in turn.
type person struct {
	t     *testing.T
	w     *world
	id    string
	token string
}

var people atomic.Int64

func (w *world) register(t *testing.T, name string) *person {
	t.Helper()
	p := &person{t: t, w: w}
	name = fmt.Sprintf("%s%d", name, people.Add(1))
	a := p.do("POST", v3+"/register", object{"username": name, "password": "a long secret", "auth": object{"type": "m.login.dummy"}}).ok()
	p.id, p.token = a.str("user_id"), a.str("access_token")
	return p
}

func (w *world) guest(t *testing.T) *person {
	t.Helper()
	p := &person{t: t, w: w}
	a := p.do("POST", v3+"/register?kind=guest", object{}).ok()
	p.id, p.token = a.str("user_id"), a.str("access_token")
	return p
}

type (
	object = map[string]any
	list   = []any
)

type reply struct {
	t      *testing.T
	what   string
	status int
	raw    []byte
}

func (p *person) do(method, path string, body any) *reply {
	p.t.Helper()
	var in io.Reader
	if raw, ok := body.(string); ok {
		in = strings.NewReader(raw)
	} else if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			p.t.Fatal(err)
		}
		in = bytes.NewReader(b)
	}
	base := p.w.urls[p.w.next.Add(1)%int64(len(p.w.urls))]
	req, err := http.NewRequest(method, base+path, in)
	if err != nil {
		p.t.Fatal(err)
	}
	return p.request(req)
}

func (p *person) request(req *http.Request) *reply {
	p.t.Helper()
	if p.token != "" {
		req.Header.Set("Authorization", "Bearer "+p.token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	r := &reply{t: p.t, what: req.Method + " " + req.URL.RequestURI(), status: resp.StatusCode}
	if r.raw, err = io.ReadAll(resp.Body); err != nil {
		p.t.Fatal(err)
	}
	return r
}

func (r *reply) ok() *reply {
	r.t.Helper()
	if r.status != http.StatusOK {
		r.t.Fatalf("%s: %d %s", r.what, r.status, r.raw)
	}
	return r
}

func (r *reply) fails(status int, code string) *reply {
	r.t.Helper()
	if r.status != status || r.str("errcode") != code {
		r.t.Errorf("%s: %d %s, want %d %s", r.what, r.status, r.raw, status, code)
	}
	return r
}

func (r *reply) get(path string) gjson.Result { return gjson.GetBytes(r.raw, path) }
func (r *reply) str(path string) string       { return r.get(path).String() }

// texts are all values at a path such as "chunk.#.event_id".
func (r *reply) texts(path string) []string {
	var out []string
	for _, v := range r.get(path).Array() {
		out = append(out, v.String())
	}
	return out
}

func in(room string, rest ...string) string { return under(v3, room, rest...) }

func under(prefix, room string, rest ...string) string {
	path := prefix + "/rooms/" + url.PathEscape(room)
	for _, r := range rest {
		path += "/" + url.PathEscape(r)
	}
	return path
}

func (p *person) create(q object) string {
	p.t.Helper()
	return p.do("POST", v3+"/createRoom", q).ok().str("room_id")
}

var txns atomic.Int64

func (p *person) say(room, text string) string {
	p.t.Helper()
	return p.send(room, "m.room.message", object{"msgtype": "m.text", "body": text})
}

func (p *person) send(room, typ string, content any) string {
	p.t.Helper()
	return p.do("PUT", in(room, "send", typ, fmt.Sprintf("t%d", txns.Add(1))), content).ok().str("event_id")
}

func (p *person) set(room, typ, key string, content any) string {
	p.t.Helper()
	return p.do("PUT", in(room, "state", typ, key), content).ok().str("event_id")
}

func (p *person) state(room, typ, key string) *reply {
	p.t.Helper()
	return p.do("GET", in(room, "state", typ, key), nil)
}

func (p *person) join(room string) {
	p.t.Helper()
	p.do("POST", in(room, "join"), object{}).ok()
}
