package fedin

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/tidwall/gjson"
	"google.golang.org/grpc"

	"hanse/pkg/bus"
	"hanse/pkg/bus/bustest"
	"hanse/pkg/destination"
	"hanse/pkg/grpcx"
	"hanse/pkg/httpx"
	"hanse/pkg/keyring"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/pg"
	"hanse/pkg/pg/pgtest"
	"hanse/pkg/roomdb"
	"hanse/pkg/roomdir"
	"hanse/pkg/servers"
	"hanse/pkg/state"
	"hanse/pkg/userdb"
	fedv1 "hanse/proto/federation/v1"
	roomv1 "hanse/proto/room/v1"
)

// worker is a fedin worker over real databases; owners of rooms and fedout are replaced by what records their calls.
type worker struct {
	t      *testing.T
	deps   Deps
	fedin  *Fedin
	url    string
	shards *pg.Shards
	users  *userdb.DB
	names  *servers.Registry
	bus    *bus.Bus
	keys   *keyring.Store
	others *otherServers
	owners *owners
}

func newWorker(t *testing.T, change ...func(*Config)) *worker {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &worker{t: t, shards: pgtest.NewSharded(t, 2), bus: bustest.New(t).Open("fedin"), others: &otherServers{keys: map[id.Server]*signing.Key{}}, owners: &owners{}}
	var err error
	w.names, err = servers.Open(ctx, w.shards, []id.Server{"a.example", "b.example"}, nil)
	must(t, err)
	w.keys = keyring.NewStore(w.shards)
	w.others.store = w.keys
	conn := w.serveRoles()
	w.users = userdb.New(w.shards, w.bus)
	rooms := roomdb.Open(w.shards, state.NewStore(state.DefaultConfig(), nil), roomdb.DefaultConfig(), nil)
	fedout := fedv1.NewFedOutClient(conn)
	cfg := Defaults()
	for _, c := range change {
		c(&cfg)
	}
	w.deps = Deps{Shards: w.shards, Users: w.users, Rooms: rooms, Directory: roomdir.New(w.shards, rooms, nil), Bus: w.bus,
		Redis: redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()}), Router: oneOwner{conn}, FedOut: fedout, Servers: w.names,
		Keys:     keyring.New(keyring.Deps{Store: w.keys, Servers: w.names, Fetcher: fedout}),
		KeyStore: w.keys, Destinations: destination.New(w.shards, w.bus)}
	w.fedin, err = New(cfg, w.deps)
	must(t, err)
	w.serve(ctx, cancel)
	return w
}

func (w *worker) serve(ctx context.Context, cancel func()) {
	rt := httpx.NewRouter(httpx.RouterConfig{Name: "federation"})
	w.fedin.Routes(rt)
	srv := httptest.NewServer(rt)
	w.url = srv.URL
	var done sync.WaitGroup
	done.Go(func() { _ = w.fedin.Run(ctx) })
	w.t.Cleanup(func() {
		srv.Close()
		cancel()
		done.Wait()
	})
}

// twin is a second worker of the same cluster.
func (w *worker) twin() *worker {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	two := *w
	var err error
	two.fedin, err = New(Defaults(), w.deps)
	must(w.t, err)
	two.serve(ctx, cancel)
	return &two
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// serveRoles serves the recorders of the other roles.
func (w *worker) serveRoles() grpc.ClientConnInterface {
	cfg := grpcx.Config{Listen: "127.0.0.1:0"}
	srv, err := grpcx.NewServer(cfg)
	must(w.t, err)
	roomv1.RegisterRoomServer(srv, w.owners)
	fedv1.RegisterFedOutServer(srv, w.others)
	conns := grpcx.NewConns(cfg, srv)
	go func() { _ = srv.Serve() }()
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		srv.Stop(ctx)
		conns.Close()
	})
	conn, err := conns.To(srv.Addr())
	must(w.t, err)
	return conn
}

// oneOwner routes all partitions to one worker.
type oneOwner struct{ conn grpc.ClientConnInterface }

func (o oneOwner) Call(ctx context.Context, _ uint32, fn func(context.Context, grpc.ClientConnInterface) error) error {
	return fn(ctx, o.conn)
}

// owners is what the owners of partitions were asked.
type owners struct {
	roomv1.UnimplementedRoomServer
	mu       sync.Mutex
	received []*roomv1.ReceiveRequest
	answer   func(context.Context, *roomv1.ReceiveRequest) (*roomv1.ReceiveResponse, error)
}

func (o *owners) Receive(ctx context.Context, q *roomv1.ReceiveRequest) (*roomv1.ReceiveResponse, error) {
	o.mu.Lock()
	o.received = append(o.received, q)
	answer := o.answer
	o.mu.Unlock()
	if answer != nil {
		return answer(ctx, q)
	}
	resp := new(roomv1.ReceiveResponse)
	for range q.Pdus {
		resp.Results = append(resp.Results, new(roomv1.PduResult))
	}
	return resp, nil
}

// calls is how often events were received.
func (o *owners) calls() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.received)
}

// otherServers answers for the keys of other servers, as fedout does once it has them.
type otherServers struct {
	fedv1.UnimplementedFedOutServer
	mu    sync.Mutex
	keys  map[id.Server]*signing.Key
	store *keyring.Store
	asked []string
	hang  chan struct{} // until it is closed, nothing is said of servers whose name begins with "tarpit"
}

func (o *otherServers) Keys(ctx context.Context, q *fedv1.KeysRequest) (*fedv1.KeysResponse, error) {
	o.mu.Lock()
	hang := o.hang
	o.mu.Unlock()
	if hang != nil && strings.HasPrefix(q.Queries[0].Server, "tarpit") {
		select {
		case <-hang:
		case <-ctx.Done():
		}
		return nil, context.Canceled
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	resp := new(fedv1.KeysResponse)
	for _, k := range q.Queries {
		o.asked = append(o.asked, k.Server)
		key := o.keys[id.Server(k.Server)]
		if key == nil || k.KeyId != "" && k.KeyId != key.ID {
			continue
		}
		until := time.Now().Add(24 * time.Hour).UnixMilli()
		obj, err := json.Marshal(map[string]any{"server_name": k.Server, "valid_until_ts": until, "old_verify_keys": map[string]any{},
			"verify_keys": map[string]any{key.ID: map[string]string{"key": signing.Encode(key.Public())}}})
		if err != nil {
			return nil, err
		}
		signed, err := signing.SignJSON(obj, id.Server(k.Server), key)
		if err != nil {
			return nil, err
		}
		err = o.store.Put(ctx, id.Server(k.Server), map[string]keyring.Key{key.ID: {Public: key.Public(), ValidUntil: until}}, signed, time.Now())
		if err != nil {
			return nil, err
		}
		resp.Keys = append(resp.Keys, &fedv1.ServerKey{Server: k.Server, KeyId: key.ID, PublicKey: key.Public(), ValidUntilMs: until})
	}
	return resp, nil
}

func (o *otherServers) askedFor(server string) (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range o.asked {
		if s == server {
			n++
		}
	}
	return n
}

// server is another server whose keys can be had.
type server struct {
	w    *worker
	name id.Server
	key  *signing.Key
}

func (w *worker) server(name id.Server) *server {
	w.t.Helper()
	key, err := signing.NewKey()
	must(w.t, err)
	w.others.mu.Lock()
	defer w.others.mu.Unlock()
	w.others.keys[name] = key
	return &server{w, name, key}
}

type reply struct {
	t      *testing.T
	what   string
	status int
	raw    []byte
}

func (r *reply) ok() *reply {
	r.t.Helper()
	if r.status != http.StatusOK {
		r.t.Fatalf("%s: %d %s", r.what, r.status, r.raw)
	}
	return r
}

func (r *reply) fails(status int, code string) {
	r.t.Helper()
	if r.status != status || r.get("errcode").Str != code {
		r.t.Errorf("%s: %d %s, want %d %s", r.what, r.status, r.raw, status, code)
	}
}

func (r *reply) get(path string) gjson.Result { return gjson.GetBytes(r.raw, path) }

// raw makes a request with a given Authorization header; none if it is empty.
func (w *worker) raw(ctx context.Context, method, uri, authorization string, content []byte) (*reply, error) {
	req, err := http.NewRequestWithContext(ctx, method, w.url+uri, bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	req.Host = "a.example"
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return &reply{w.t, method + " " + uri, resp.StatusCode, raw}, err
}

func (w *worker) do(method, uri, authorization string, content []byte) *reply {
	w.t.Helper()
	r, err := w.raw(w.t.Context(), method, uri, authorization, content)
	must(w.t, err)
	return r
}

// do makes a signed request.
func (s *server) do(method, uri string, body any) *reply {
	s.w.t.Helper()
	content := jsonOf(s.w.t, body)
	return s.w.do(method, uri, s.sign(method, uri, "a.example", content), content)
}

func (s *server) sign(method, uri string, to id.Server, content []byte) string {
	s.w.t.Helper()
	h, err := signing.SignRequest(method, uri, s.name, to, content, s.key)
	must(s.w.t, err)
	return h
}

func jsonOf(t *testing.T, body any) []byte {
	t.Helper()
	switch b := body.(type) {
	case nil:
		return nil
	case []byte:
		return b
	case string:
		return []byte(b)
	}
	b, err := json.Marshal(body)
	must(t, err)
	return b
}

func (w *worker) account(name string) id.User {
	w.t.Helper()
	u := id.NewUser(name, "a.example")
	_, err := w.users.CreateAccount(w.t.Context(), userdb.NewAccount{User: u, Displayname: name, CreatedTS: 1})
	must(w.t, err)
	return u
}
