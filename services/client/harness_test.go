package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"hanse/pkg/appservice"
	"hanse/pkg/await"
	"hanse/pkg/bus"
	"hanse/pkg/httpx"
	"hanse/pkg/mac"
	"hanse/pkg/matrix/id"
	"hanse/pkg/password"
	"hanse/pkg/pg"
	"hanse/pkg/pg/pgtest"
	"hanse/pkg/ratelimit"
	"hanse/pkg/roomdb"
	"hanse/pkg/roomdir"
	"hanse/pkg/servers"
	"hanse/pkg/session"
	"hanse/pkg/state"
	"hanse/pkg/userdb"
	fedv1 "hanse/proto/federation/v1"
	mediav1 "hanse/proto/media/v1"
	roomv1 "hanse/proto/room/v1"
)

const v3 = "/_matrix/client/v3"

// cluster is a client worker over real databases, with the other roles replaced by what records their calls.
type cluster struct {
	t      *testing.T
	client *Client
	url    string
	shards *pg.Shards
	users  *userdb.DB
	redis  *miniredis.Miniredis
	rooms  *roomRecorder
	media  *mediaRecorder
	remote *remoteServers
}

type option func(*Config, *Deps)

const appserviceFile = `
id: bridge
url: null
as_token: as-secret
hs_token: hs-secret
sender_localpart: bridgebot
namespaces:
  users: [{exclusive: true, regex: "@_bridge_.*"}]
`

func newCluster(t *testing.T, opts ...option) *cluster {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := &cluster{t: t, shards: pgtest.NewSharded(t, 2), redis: miniredis.RunT(t), rooms: &roomRecorder{}, media: &mediaRecorder{}, remote: &remoteServers{}}
	b, err := bus.Open(ctx, bus.Config{StoreDir: t.TempDir()})
	must(t, err)
	names, err := servers.Open(ctx, c.shards, []id.Server{"a.example", "b.example"}, nil)
	must(t, err)
	service, err := appservice.Parse([]byte(appserviceFile), "a.example")
	must(t, err)
	apps := appservice.Of(service)
	c.users = userdb.New(c.shards, b)
	sessions, err := session.New(session.Defaults(), c.users, apps, b, nil, nil)
	must(t, err)
	limits, err := ratelimit.New(ratelimit.Config{})
	must(t, err)
	secret, err := mac.Load(ctx, c.shards, nil)
	must(t, err)
	conn := c.serveRoles()
	cfg := Defaults()
	cfg.Registration.Enabled = true
	deps := Deps{
		Users: c.users, Rooms: roomdb.Open(c.shards, state.NewStore(state.DefaultConfig(), nil), roomdb.DefaultConfig(), nil), Bus: b,
		Redis: redis.NewClient(&redis.Options{Addr: c.redis.Addr()}), Secret: secret, Router: oneOwner{conn}, FedOut: fedv1.NewFedOutClient(conn), Media: mediav1.NewMediaClient(conn),
		Servers: names, Sessions: sessions, Appservices: apps, Limits: limits,
		Passwords: password.New(password.Config{MemoryKiB: 64, Iterations: 1, Threads: 1}),
	}
	for _, o := range opts {
		o(&cfg, &deps)
	}
	deps.Directory = roomdir.New(c.shards, deps.Rooms, nil)
	c.client, err = New(cfg, deps)
	must(t, err)
	rt := httpx.NewRouter(httpx.RouterConfig{Name: "client", CORS: true})
	c.client.Routes(rt)
	srv := httptest.NewServer(rt)
	c.url = srv.URL
	var wg sync.WaitGroup
	wg.Go(func() { _ = sessions.Run(ctx) })
	wg.Go(func() { _ = c.client.Run(ctx) })
	t.Cleanup(func() {
		srv.Close()
		cancel()
		wg.Wait()
		b.Close()
	})
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// serveRoles serves the recorders of the other roles.
func (c *cluster) serveRoles() *grpc.ClientConn {
	l := bufconn.Listen(1 << 16)
	srv := grpc.NewServer()
	roomv1.RegisterRoomServer(srv, c.rooms)
	mediav1.RegisterMediaServer(srv, c.media)
	fedv1.RegisterFedOutServer(srv, c.remote)
	go func() { _ = srv.Serve(l) }()
	c.t.Cleanup(srv.Stop)
	conn, err := grpc.NewClient("passthrough:///roles", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	must(c.t, err)
	return conn
}

// oneOwner routes all partitions to one worker.
type oneOwner struct{ conn grpc.ClientConnInterface }

func (o oneOwner) Call(ctx context.Context, _ uint32, fn func(context.Context, grpc.ClientConnInterface) error) error {
	return fn(ctx, o.conn)
}

// roomRecorder is what the owners of partitions were asked.
type roomRecorder struct {
	roomv1.UnimplementedRoomServer
	mu      sync.Mutex
	devices []*roomv1.DeviceChangesRequest
	leaves  []*roomv1.LeaveRequest
	joins   []*roomv1.JoinRequest
	fail    error
}

func (r *roomRecorder) DeviceChanges(_ context.Context, q *roomv1.DeviceChangesRequest) (*roomv1.DeviceChangesResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return nil, r.fail
	}
	r.devices = append(r.devices, q)
	return &roomv1.DeviceChangesResponse{}, nil
}

func (r *roomRecorder) Join(_ context.Context, q *roomv1.JoinRequest) (*roomv1.SendResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.joins = append(r.joins, q)
	return &roomv1.SendResponse{}, nil
}

func (r *roomRecorder) Leave(_ context.Context, q *roomv1.LeaveRequest) (*roomv1.SendResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leaves = append(r.leaves, q)
	return &roomv1.SendResponse{}, nil
}

// mediaRecorder is whose files media workers were asked to delete.
type mediaRecorder struct {
	mediav1.UnimplementedMediaServer
	mu     sync.Mutex
	erased []string
}

func (m *mediaRecorder) Erase(_ context.Context, q *mediav1.EraseRequest) (*mediav1.EraseResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.erased = append(m.erased, q.UserId)
	return &mediav1.EraseResponse{}, nil
}

// remoteServers answers what is asked of other servers.
type remoteServers struct {
	fedv1.UnimplementedFedOutServer
	mu     sync.Mutex
	asked  []*fedv1.DoRequest
	answer func(*fedv1.DoRequest) (int, string)
}

func (r *remoteServers) Do(q *fedv1.DoRequest, s grpc.ServerStreamingServer[fedv1.DoResponse]) error {
	r.mu.Lock()
	r.asked = append(r.asked, q)
	answer := r.answer
	r.mu.Unlock()
	if answer == nil {
		return fmt.Errorf("unreachable")
	}
	status, body := answer(q)
	if err := s.Send(&fedv1.DoResponse{Status: int32(status)}); err != nil {
		return err
	}
	return s.Send(&fedv1.DoResponse{Chunk: []byte(body)})
}

// user is somebody who is logged in.
type user struct {
	c            *cluster
	id           id.User
	token        string
	device       string
	refreshToken string
}

type reply struct {
	t      *testing.T
	status int
	raw    []byte
	header http.Header
	body   map[string]any
}

// do makes a request; body is nil, a string (sent as it is) or something to marshal.
func (c *cluster) do(method, path, token string, body any) *reply {
	c.t.Helper()
	var rd io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		rd = strings.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		must(c.t, err)
		rd = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.url+path, rd)
	must(c.t, err)
	req.Host = "a.example"
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	must(c.t, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	must(c.t, err)
	a := &reply{t: c.t, status: resp.StatusCode, raw: raw, header: resp.Header}
	if len(raw) > 0 && raw[0] == '{' {
		must(c.t, json.Unmarshal(raw, &a.body))
	}
	return a
}

// ok demands 200.
func (a *reply) ok() *reply {
	a.t.Helper()
	if a.status != http.StatusOK {
		a.t.Fatalf("status %d: %s", a.status, a.raw)
	}
	return a
}

// fails demands a status and an errcode.
func (a *reply) fails(status int, code string) *reply {
	a.t.Helper()
	if a.status != status || a.str("errcode") != code {
		a.t.Errorf("answer %d %s, want %d %s", a.status, a.raw, status, code)
	}
	return a
}

// get walks members of the answer.
func (a *reply) get(path ...string) any {
	var v any = a.body
	for _, p := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[p]
	}
	return v
}

func (a *reply) str(path ...string) string {
	s, _ := a.get(path...).(string)
	return s
}

func (u *user) do(method, path string, body any) *reply {
	u.c.t.Helper()
	return u.c.do(method, path, u.token, body)
}

const testPassword = "correct horse battery staple"

// register makes an account with a session.
func (c *cluster) register(name string) *user {
	c.t.Helper()
	a := c.do("POST", v3+"/register", "", map[string]any{
		"username": name, "password": testPassword, "auth": map[string]string{"type": "m.login.dummy"},
	}).ok()
	return &user{c: c, id: id.User(a.str("user_id")), token: a.str("access_token"), device: a.str("device_id")}
}

// login gives the user another session.
func (c *cluster) login(u id.User, more map[string]any) *user {
	c.t.Helper()
	q := map[string]any{"type": "m.login.password", "identifier": map[string]any{"type": "m.id.user", "user": u}, "password": testPassword}
	for k, v := range more {
		q[k] = v
	}
	a := c.do("POST", v3+"/login", "", q).ok()
	return &user{c: c, id: u, token: a.str("access_token"), device: a.str("device_id"), refreshToken: a.str("refresh_token")}
}

// auth is the auth member that confirms a request with the password.
func (u *user) auth() map[string]any {
	return map[string]any{"type": "m.login.password", "identifier": map[string]any{"type": "m.id.user", "user": u.id}, "password": testPassword}
}

// join puts a row into the membership index, as the owner of the room would.
func (c *cluster) join(u id.User, room id.Room, membership string) {
	c.t.Helper()
	_, err := c.users.Change(c.t.Context(), u, func(tx *userdb.Tx) error {
		_, err := tx.Exec(c.t.Context(), `INSERT INTO membership (part, user_id, room_id, room_part, room_nid, membership, event_nid, event_id, sender, pos, seq)
			VALUES ($1, $2, $3, 7, 1, $4, 1, '$e', $2, 1, $5)`, tx.Part, string(u), string(room), membership, tx.Seq)
		return err
	})
	must(c.t, err)
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	await.True(t, 2*time.Minute, what, cond)
}
