package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"hanse/pkg/appservice"
	"hanse/pkg/asquery"
	"hanse/pkg/bus"
	"hanse/pkg/deadletter"
	"hanse/pkg/httpx"
	"hanse/pkg/mac"
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
	"hanse/services/client/about"
	"hanse/services/client/access"
	"hanse/services/client/account"
	"hanse/services/client/core"
	"hanse/services/client/directory"
	"hanse/services/client/keys"
	"hanse/services/client/people"
	"hanse/services/client/rooms"
	"hanse/services/client/settings"
	"hanse/services/client/sharing"
	"hanse/services/client/timeline"
	"hanse/services/client/uia"
)

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
	Servers   core.Servers
	// Guard says which addresses push gateways may have; nil: public ones.
	Guard       *netguard.Guard
	Sessions    *session.Checker
	Appservices *appservice.Registry
	Queries     *asquery.Client // to application services; nil: none is asked
	Passwords   *password.Hasher
	Limits      core.Limiter
	// DefaultVersion is the version of new rooms where a client asks for none.
	DefaultVersion string
	Log            *slog.Logger
	Registerer     prometheus.Registerer // may be nil
}

// concern is a part of the client API.
type concern interface {
	Routes(*core.Routes)
}

// Client is the role: the concerns, and the index of messages.
type Client struct {
	core     *core.Core
	concerns []concern
	indexer  *search.Indexer // nil: messages are not indexed here
}

// New assembles the role; nothing runs before Run.
func New(cfg Config, d Deps) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	if d.Users == nil || d.Rooms == nil || d.Directory == nil || d.Router == nil || d.Media == nil || d.Bus == nil || d.Redis == nil || d.Secret == nil || d.Servers == nil || d.Sessions == nil || d.Passwords == nil || d.Limits == nil {
		return nil, errors.New("client: a dependency is missing")
	}
	d.setDefaults()
	c := &Client{core: newCore(cfg, d)}
	c.concerns = newConcerns(cfg, d, c.core)
	if cfg.Search.Enabled && d.Members != nil {
		c.indexer = search.NewIndexer(search.Deps{Role: deadletter.Client, Shards: d.Shards, Bus: d.Bus, Members: d.Members, Source: d.Rooms, Log: d.Log,
			Registerer: d.Registerer})
	}
	return c, nil
}

func (d *Deps) setDefaults() {
	if d.Guard == nil {
		d.Guard = new(netguard.Guard)
	}
	if d.DefaultVersion == "" {
		d.DefaultVersion = roomversion.Default
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
}

func newCore(cfg Config, d Deps) *core.Core {
	quotas := cfg.Quotas
	if quotas.InfoURI == "" {
		quotas.InfoURI = cfg.PublicBaseURL + "/.well-known/matrix/support"
	}
	return core.New(core.Deps{
		Users: d.Users, Rooms: d.Rooms, Router: d.Router, Servers: d.Servers, Sessions: d.Sessions, Limits: d.Limits, FedOut: d.FedOut, Queries: d.Queries,
		Quotas: quotas, TaskInterval: cfg.TaskInterval, Log: d.Log,
	})
}

// newConcerns makes the concerns, each after those that it uses.
func newConcerns(cfg Config, d Deps, c *core.Core) []concern {
	auth := uia.New(c, uia.Deps{Redis: d.Redis, Key: d.Secret.Key("uia"), Passwords: d.Passwords, Tokens: cfg.Registration.Tokens, Timeout: cfg.UIATimeout})
	shared := sharing.New(c)
	rights := access.New(c)
	accounts := account.New(c, account.Deps{
		UIA: auth, Passwords: d.Passwords, Appservices: d.Appservices, Redis: d.Redis, Nonces: d.Secret.Key("nonce"), Media: d.Media,
		Registration: cfg.Registration, Tokens: cfg.Tokens, BaseURL: cfg.PublicBaseURL,
	})
	dir := directory.New(c, rights, d.Directory, d.Appservices, d.Registerer)
	return []concern{
		about.New(c, cfg.TURN, d.DefaultVersion, d.Bus),
		accounts,
		keys.New(c, accounts, shared, auth),
		people.New(c, shared, presence.New(d.Redis, d.Bus), cfg.UserDirectory.SearchAll),
		settings.New(c, rights, d.Bus, d.Guard),
		timeline.New(c, timeline.Deps{Access: rights, Shards: d.Shards, Search: cfg.Search.Enabled, Registerer: d.Registerer}),
		dir,
		rooms.New(c, rooms.Deps{Access: rights, Directory: dir, Aliases: d.Directory, Bus: d.Bus, Version: d.DefaultVersion}),
	}
}

// Routes registers the endpoints of the role.
func (c *Client) Routes(rt *httpx.Router) {
	r := c.core.NewRoutes(rt)
	for _, concern := range c.concerns {
		concern.Routes(r)
	}
}

// Run does the role's background work until the context ends, then waits for tasks that requests began.
func (c *Client) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.core.Tasks.Run(ctx) })
	if c.indexer != nil {
		g.Go(func() error {
			c.indexer.Run(ctx)
			return nil
		})
	}
	return g.Wait()
}

// Drain gives what this worker indexes to others.
func (c *Client) Drain(ctx context.Context) error {
	if c.indexer == nil {
		return nil
	}
	return c.indexer.Drain(ctx)
}
