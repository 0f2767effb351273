// Package clienttest runs a client worker for tests: over real databases, with the other roles replaced by what records their calls.
package clienttest

import (
	"context"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

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
	"hanse/services/client"
)

// V3 is how the paths of most endpoints begin.
const V3 = "/_matrix/client/v3"

// Cluster is a client worker over real databases, with the other roles replaced by what records their calls.
type Cluster struct {
	Client *client.Client
	Shards *pg.Shards
	Users  *userdb.DB
	Redis  *miniredis.Miniredis
	Secret *mac.Secret
	Rooms  *Rooms
	Media  *Media
	Remote *Remote

	t   *testing.T
	url string
}

// Option changes how the worker is built.
type Option func(*client.Config, *client.Deps)

const appserviceFile = `
id: bridge
url: null
as_token: as-secret
hs_token: hs-secret
sender_localpart: bridgebot
namespaces:
  users: [{exclusive: true, regex: "@_bridge_.*"}]
`

// New starts a worker that serves a.example and b.example, with an application service whose token is as-secret.
func New(t *testing.T, opts ...Option) *Cluster {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := &Cluster{t: t, Shards: pgtest.NewSharded(t, 2), Redis: miniredis.RunT(t), Rooms: &Rooms{}, Media: &Media{}, Remote: &Remote{}}
	b, err := bus.Open(ctx, bus.Config{StoreDir: t.TempDir()})
	Must(t, err)
	names, err := servers.Open(ctx, c.Shards, []id.Server{"a.example", "b.example"}, nil)
	Must(t, err)
	service, err := appservice.Parse([]byte(appserviceFile), "a.example")
	Must(t, err)
	apps := appservice.Of(service)
	c.Users = userdb.New(c.Shards, b)
	sessions, err := session.New(session.Defaults(), c.Users, apps, b, nil, nil)
	Must(t, err)
	limits, err := ratelimit.New(ratelimit.Config{})
	Must(t, err)
	c.Secret, err = mac.Load(ctx, c.Shards, nil)
	Must(t, err)
	conn := c.serveRoles()
	cfg := client.Defaults()
	cfg.Registration.Enabled = true
	deps := client.Deps{
		Users: c.Users, Rooms: roomdb.Open(c.Shards, state.NewStore(state.DefaultConfig(), nil), roomdb.DefaultConfig(), nil), Bus: b,
		Redis: redis.NewClient(&redis.Options{Addr: c.Redis.Addr()}), Secret: c.Secret, Router: oneOwner{conn}, FedOut: fedv1.NewFedOutClient(conn), Media: mediav1.NewMediaClient(conn),
		Servers: names, Sessions: sessions, Appservices: apps, Limits: limits,
		Passwords: password.New(password.Config{MemoryKiB: 64, Iterations: 1, Threads: 1}),
	}
	for _, o := range opts {
		o(&cfg, &deps)
	}
	deps.Directory = roomdir.New(c.Shards, deps.Rooms, nil)
	c.Client, err = client.New(cfg, deps)
	Must(t, err)
	rt := httpx.NewRouter(httpx.RouterConfig{Name: "client", CORS: true})
	c.Client.Routes(rt)
	srv := httptest.NewServer(rt)
	c.url = srv.URL
	var wg sync.WaitGroup
	wg.Go(func() { _ = sessions.Run(ctx) })
	wg.Go(func() { _ = c.Client.Run(ctx) })
	t.Cleanup(func() {
		srv.Close()
		cancel()
		wg.Wait()
		b.Close()
	})
	return c
}

// Join puts a row into the membership index, as the owner of the room would.
func (c *Cluster) Join(u id.User, room id.Room, membership string) {
	c.t.Helper()
	_, err := c.Users.Change(c.t.Context(), u, func(tx *userdb.Tx) error {
		_, err := tx.Exec(c.t.Context(), `INSERT INTO membership (part, user_id, room_id, room_part, room_nid, membership, event_nid, event_id, sender, pos, seq)
			VALUES ($1, $2, $3, 7, 1, $4, 1, '$e', $2, 1, $5)`, tx.Part, string(u), string(room), membership, tx.Seq)
		return err
	})
	Must(c.t, err)
}

// Eventually waits for a condition.
func Eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	await.True(t, 2*time.Minute, what, cond)
}

// Must stops a test at an error.
func Must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
