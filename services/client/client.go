package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"hanse/pkg/appservice"
	"hanse/pkg/bus"
	"hanse/pkg/deadletter"
	"hanse/pkg/httpx"
	"hanse/pkg/mac"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/netguard"
	"hanse/pkg/partition"
	"hanse/pkg/password"
	"hanse/pkg/pg"
	"hanse/pkg/presence"
	"hanse/pkg/roomdb"
	"hanse/pkg/roomdir"
	"hanse/pkg/roomowner"
	"hanse/pkg/search"
	"hanse/pkg/session"
	"hanse/pkg/userdb"
	fedv1 "hanse/proto/federation/v1"
	mediav1 "hanse/proto/media/v1"
)

// Servers are the names that the cluster serves.
type Servers interface {
	// IsLocal reports whether the name is one of ours.
	IsLocal(id.Server) bool
	// ForHost returns the name that a request with this Host header is for.
	ForHost(host string) id.Server
}

// Limiter is the rate limits of the client API.
type Limiter interface {
	// Allow takes one action of a kind from the budget of a key, a user or an address. It returns a *merr.Error
	// (M_LIMIT_EXCEEDED) if there is none left.
	Allow(ctx context.Context, kind, key string) error
}

// Deps are what the role is built from.
type Deps struct {
	Shards    *pg.Shards
	Members   *partition.Members // nil: this worker does not index messages
	Users     *userdb.DB
	Rooms     *roomdb.DB
	Directory *roomdir.DB
	Bus       *bus.Bus
	Redis     redis.UniversalClient
	Secret    *mac.Secret // signs what is left in Redis
	Router    roomowner.Router
	FedOut    fedv1.FedOutClient
	Media     mediav1.MediaClient
	Servers   Servers
	// Guard says which addresses push gateways may have; nil: public ones.
	Guard       *netguard.Guard
	Sessions    *session.Checker
	Appservices *appservice.Registry
	Passwords   *password.Hasher
	Limits      Limiter
	// DefaultVersion is the version of new rooms where a client asks for none.
	DefaultVersion string
	Log            *slog.Logger
	Registerer     prometheus.Registerer // may be nil
}

// Client is the role.
type Client struct {
	cfg      Config
	shards   *pg.Shards
	indexer  *search.Indexer // nil: messages are not indexed here
	users    *userdb.DB
	rooms    *roomdb.DB
	bus      *bus.Bus
	redis    redis.UniversalClient
	uia      *mac.Key // of sessions of user-interactive authentication
	nonces   *mac.Key // of nonces of the shared secret registration
	router   roomowner.Router
	fedout   fedv1.FedOutClient
	media    mediav1.MediaClient
	servers  Servers
	guard    *netguard.Guard
	sessions *session.Checker
	apps     *appservice.Registry
	hasher   *password.Hasher
	limits   Limiter
	presence *presence.Store
	dir      *roomdir.DB
	version  string // of new rooms
	log      *slog.Logger

	large *httpx.Large

	tasks    sync.WaitGroup
	taskSem  chan struct{}
	draining context.Context
	drain    context.CancelFunc
}

// New assembles the role; nothing runs before Run.
func New(cfg Config, d Deps) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	if d.Users == nil || d.Rooms == nil || d.Directory == nil || d.Router == nil || d.Media == nil || d.Bus == nil || d.Redis == nil || d.Secret == nil || d.Servers == nil || d.Sessions == nil || d.Passwords == nil || d.Limits == nil {
		return nil, errors.New("client: a dependency is missing")
	}
	c := &Client{
		cfg: cfg, shards: d.Shards, users: d.Users, rooms: d.Rooms, bus: d.Bus, redis: d.Redis, uia: d.Secret.Key("uia"), nonces: d.Secret.Key("nonce"), router: d.Router, fedout: d.FedOut, media: d.Media,
		servers: d.Servers, guard: d.Guard, sessions: d.Sessions, apps: d.Appservices, hasher: d.Passwords, limits: d.Limits, log: d.Log,
		presence: presence.New(d.Redis, d.Bus), dir: d.Directory, version: d.DefaultVersion, taskSem: make(chan struct{}, taskParallel),
		large: httpx.NewLarge("client", d.Registerer),
	}
	if c.guard == nil {
		c.guard = new(netguard.Guard)
	}
	if c.version == "" {
		c.version = roomversion.Default
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if cfg.Search.Enabled && d.Members != nil {
		c.indexer = search.NewIndexer(search.Deps{Role: deadletter.Client, Shards: d.Shards, Bus: d.Bus, Members: d.Members, Source: d.Rooms, Log: d.Log,
			Registerer: d.Registerer})
	}
	c.draining, c.drain = context.WithCancel(context.Background())
	return c, nil
}

// Run does the role's background work until the context ends, then waits for tasks that requests began.
func (c *Client) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.runTasks(ctx) })
	if c.indexer != nil {
		g.Go(func() error {
			c.indexer.Run(ctx)
			return nil
		})
	}
	err := g.Wait()
	c.drain()
	c.tasks.Wait()
	return err
}

// Drain gives what this worker indexes to others.
func (c *Client) Drain(ctx context.Context) error {
	if c.indexer == nil {
		return nil
	}
	return c.indexer.Drain(ctx)
}

// server returns the server name that a request is for.
func (c *Client) server(r *http.Request) id.Server { return c.servers.ForHost(r.Host) }

// isLocal reports whether a user is one of ours.
func (c *Client) isLocal(u id.User) bool { return c.servers.IsLocal(u.Server()) }

// me is who makes the request; it panics outside authenticated routes, which is a mistake in the routes.
func me(r *http.Request) *session.Identity {
	i := session.From(r)
	if i == nil {
		panic("client: handler needs an authenticated route")
	}
	return i
}

// param is a path parameter.
func param(r *http.Request, name string) string { return httpx.Param(r, name) }
