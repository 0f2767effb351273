package media

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"hanse/pkg/appservice"
	"hanse/pkg/bus"
	"hanse/pkg/bus/bustest"
	"hanse/pkg/grpcx"
	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/mediastore"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
	"hanse/pkg/pg/pgtest"
	"hanse/pkg/roomdb"
	"hanse/pkg/servers"
	"hanse/pkg/session"
	"hanse/pkg/state"
	"hanse/pkg/userdb"
	mediav1 "hanse/proto/media/v1"
)

// cluster is two media workers over the same databases and the same object store, which is a directory.
type cluster struct {
	t       testing.TB
	dir     string
	shards  *pg.Shards
	counter *pgtest.Counter
	users   *userdb.DB
	names   *servers.Registry
	bus     *bus.Bus
	remote  *remoteServers
	workers []*worker
	cfg     Config
}

// worker is one of them. Each looks after every other partition, as the members say.
type worker struct {
	*cluster
	n     int
	store *mediastore.Store
	media *Media
	url   string
	srv   *httptest.Server
	conn  grpc.ClientConnInterface
}

func newCluster(t testing.TB, change ...func(*Config)) *cluster {
	t.Helper()
	dbs := pgtest.Config(t, 2)
	counter := pgtest.Counted(&dbs)
	c := &cluster{t: t, dir: t.TempDir(), shards: pgtest.Open(t, dbs), counter: counter, bus: bustest.New(t).Open("media"), cfg: Defaults(), remote: newRemoteServers(t)}
	var err error
	c.names, err = servers.Open(t.Context(), c.shards, []id.Server{"a.example", "b.example"}, nil)
	must(t, err)
	c.users = userdb.New(c.shards, c.bus)
	for _, f := range change {
		f(&c.cfg)
	}
	for n := range 2 {
		c.workers = append(c.workers, &worker{cluster: c, n: n})
	}
	for _, w := range c.workers {
		w.start()
	}
	return c
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Mine implements Members.
func (w *worker) Mine(part uint32, _ string) bool { return int(part%2) == w.n }

func (w *worker) start() {
	t := w.t
	ctx, cancel := context.WithCancel(context.Background())
	var err error
	w.store, err = mediastore.Open(ctx, w.cfg.Store, w.dir, w.shards, nil)
	must(t, err)
	sessions, err := session.New(session.Defaults(), w.users, appservice.Of(), w.bus, nil, nil)
	must(t, err)
	w.media, err = New(w.cfg, Deps{Store: w.store, Sessions: sessions, Servers: w.names, Members: w, Users: w.users,
		Rooms: roomdb.Open(w.shards, state.NewStore(state.DefaultConfig(), nil), roomdb.DefaultConfig(), nil), Media: w.cluster, FedOut: w.remote})
	must(t, err)
	rt := httpx.NewRouter(httpx.RouterConfig{Name: "client", CORS: true})
	w.media.Routes(rt)
	w.srv = httptest.NewServer(rt)
	w.url = w.srv.URL
	cfg := grpcx.Config{Listen: "127.0.0.1:0"}
	srv, err := grpcx.NewServer(cfg)
	must(t, err)
	w.media.Register(srv)
	conns := grpcx.NewConns(cfg, srv)
	go func() { _ = srv.Serve() }()
	w.conn, err = conns.To(srv.Addr())
	must(t, err)
	var wg sync.WaitGroup
	wg.Go(func() { _ = sessions.Run(ctx) })
	wg.Go(func() { _ = w.media.Run(ctx) })
	t.Cleanup(func() {
		w.srv.Close()
		cancel()
		stop, done := context.WithTimeout(context.Background(), 5*time.Second)
		defer done()
		srv.Stop(stop)
		conns.Close()
		wg.Wait()
	})
}

// owner is the client of the worker that looks after a media's partition.
func (c *cluster) owner(origin, media string) mediav1.MediaClient {
	return mediav1.NewMediaClient(c.workers[partition.Of(origin+"/"+media)%2].conn)
}

// Fetch implements mediav1.MediaClient.
func (c *cluster) Fetch(ctx context.Context, in *mediav1.FetchRequest, opts ...grpc.CallOption) (grpc.ServerStreamingClient[mediav1.Piece], error) {
	return c.owner(in.Origin, in.MediaId).Fetch(ctx, in, opts...)
}

// Serve implements mediav1.MediaClient.
func (c *cluster) Serve(ctx context.Context, in *mediav1.ServeRequest, opts ...grpc.CallOption) (grpc.ServerStreamingClient[mediav1.Piece], error) {
	return c.owner(in.Origin, in.MediaId).Serve(ctx, in, opts...)
}

// Preview implements mediav1.MediaClient.
func (c *cluster) Preview(ctx context.Context, in *mediav1.PreviewRequest, opts ...grpc.CallOption) (*mediav1.PreviewResponse, error) {
	return mediav1.NewMediaClient(c.workers[partition.Of(in.Url)%2].conn).Preview(ctx, in, opts...)
}

// Erase implements mediav1.MediaClient.
func (c *cluster) Erase(ctx context.Context, in *mediav1.EraseRequest, opts ...grpc.CallOption) (*mediav1.EraseResponse, error) {
	return mediav1.NewMediaClient(c.workers[partition.Of(in.UserId)%2].conn).Erase(ctx, in, opts...)
}

// login makes an account, and returns its access token.
func (c *cluster) login(user id.User, change ...func(*userdb.NewAccount)) string {
	c.t.Helper()
	a := userdb.NewAccount{User: user}
	for _, f := range change {
		f(&a)
	}
	_, err := c.users.CreateAccount(c.t.Context(), a)
	must(c.t, err)
	token, hash := session.NewToken(session.AccessToken, partition.Of(string(user)))
	_, err = c.users.AddLogin(c.t.Context(), userdb.Login{User: user, Device: "D", Access: hash})
	must(c.t, err)
	return token
}

type reply struct {
	t      testing.TB
	what   string
	status int
	header http.Header
	raw    []byte
}

func (r *reply) ok() *reply {
	r.t.Helper()
	if r.status != http.StatusOK && r.status != http.StatusPartialContent {
		r.t.Fatalf("%s: %d %.300s", r.what, r.status, r.raw)
	}
	return r
}

func (r *reply) fails(status int, code string) {
	r.t.Helper()
	if r.status != status || r.str("errcode") != code {
		r.t.Errorf("%s: %d %.300s, want %d %s", r.what, r.status, r.raw, status, code)
	}
}

func (r *reply) json() (v map[string]any) {
	r.t.Helper()
	if err := json.Unmarshal(r.raw, &v); err != nil {
		r.t.Fatalf("%s: %d %.300q: %v", r.what, r.status, r.raw, err)
	}
	return v
}

func (r *reply) str(key string) string {
	r.t.Helper()
	s, _ := r.json()[key].(string)
	return s
}

// do makes a request of somebody; headers are names and values in turn.
func (w *worker) do(method, path, token string, body []byte, headers ...string) *reply {
	w.t.Helper()
	var content io.Reader = http.NoBody
	if body != nil {
		content = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, content)
	must(w.t, err)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for h := range slices.Chunk(headers, 2) {
		req.Header.Set(h[0], h[1])
	}
	resp, err := noRedirects.Do(req)
	must(w.t, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	must(w.t, err)
	return &reply{w.t, method + " " + path, resp.StatusCode, resp.Header, raw}
}

var noRedirects = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

// upload uploads a file, and returns its path: server and media id.
func (w *worker) upload(token, query string, body []byte, headers ...string) string {
	w.t.Helper()
	uri := w.do("POST", "/_matrix/media/v3/upload"+query, token, body, headers...).ok().str("content_uri")
	path, ok := bytes.CutPrefix([]byte(uri), []byte("mxc:/"))
	if !ok {
		w.t.Fatalf("content_uri %q", uri)
	}
	return string(path)
}

const v1 = "/_matrix/client/v1/media"
