package app

import (
	"context"
	"crypto/x509"
	"fmt"
	"os"

	"hanse/pkg/appservice"
	"hanse/pkg/asclient"
	"hanse/pkg/asquery"
	"hanse/pkg/destination"
	"hanse/pkg/discovery"
	"hanse/pkg/keyring"
	"hanse/pkg/mac"
	"hanse/pkg/matrix/id"
	"hanse/pkg/mediastore"
	"hanse/pkg/netguard"
	"hanse/pkg/node"
	"hanse/pkg/password"
	"hanse/pkg/ratelimit"
	"hanse/pkg/roomdb"
	"hanse/pkg/roomdir"
	"hanse/pkg/session"
	"hanse/pkg/state"
	"hanse/pkg/userdb"
	appservicerole "hanse/services/appservice"
	"hanse/services/client"
	"hanse/services/fedin"
	"hanse/services/fedout"
	"hanse/services/media"
	"hanse/services/push"
	"hanse/services/room"
	syncrole "hanse/services/sync"
)

// builder has what roles are built from: the process, and what the roles of a process share.
type builder struct {
	cfg  *Config
	node *node.Node

	users     *userdb.DB
	states    *state.Store
	rooms     *roomdb.DB
	directory *roomdir.DB
	dests     *destination.Store
	apps      *appservice.Registry
	services  *asclient.Client // makes requests to application services
	queries   *asquery.Client  // asks them
	sessions  *session.Checker
	limits    *ratelimit.Limiter // nil: no limits
	passwords *password.Hasher
	known     *mac.Secret // nil until a role asks for it
}

// newBuilder makes what is shared. It costs little where a role does not use it.
func newBuilder(ctx context.Context, cfg *Config, n *node.Node) (*builder, error) {
	b := &builder{cfg: cfg, node: n, passwords: password.New(cfg.Password)}
	b.users = userdb.New(n.PG, n.Bus)
	b.states = state.NewStore(state.Config{Cache: cfg.Memory.States}, n.Metrics)
	b.rooms = roomdb.Open(n.PG, b.states, roomdb.Config{EventCache: cfg.Memory.Events, GraphCache: cfg.Memory.Graphs}, n.Metrics)
	b.directory = roomdir.New(n.PG, b.rooms, n.Metrics)
	b.directory.Announce(func(room id.Room) {
		if err := n.Bus.PublishAliases(room); err != nil {
			n.Log.Debug("publish aliases", "err", err) // who remembers them reads them again after a while
		}
	})
	b.dests = destination.New(n.PG, n.Bus)
	var err error
	b.apps, err = appservice.Open(ctx, appservice.Deps{Store: appservice.NewStore(n.PG), Files: cfg.AppServices.Files, Names: n.Servers.Names(),
		Accounts: b.users, Bus: n.Bus, Log: n.Log, Registerer: n.Metrics})
	if err != nil {
		return nil, err
	}
	roots, err := rootCAs(cfg.Federation.CAFiles)
	if err != nil {
		return nil, err
	}
	b.services = asclient.New(asclient.Config{RootCAs: roots})
	b.queries = asquery.New(b.apps, b.services, n.Log, n.Metrics)
	if b.sessions, err = session.New(cfg.Client.Session, b.users, b.apps, n.Bus, n.Log, n.Metrics); err != nil {
		return nil, err
	}
	if cfg.RateLimits.Enabled {
		limits := ratelimit.Config{Limits: cfg.RateLimits.Limits, MaxKeys: cfg.RateLimits.Keys, Registerer: n.Metrics}
		if cfg.Redis.URL != "" {
			limits.Redis = n.Redis // a Redis inside this process has no other workers to share buckets with
		}
		b.limits, err = ratelimit.New(limits)
	}
	return b, err
}

// secret returns the secret of the cluster, to roles that have something to do with it.
func (b *builder) secret(ctx context.Context) (_ *mac.Secret, err error) {
	if b.known == nil {
		b.known, err = mac.Load(ctx, b.node.PG, b.node.Metrics)
	}
	return b.known, err
}

func buildRoom(ctx context.Context, b *builder) (Role, error) {
	secret, err := b.secret(ctx)
	if err != nil {
		return nil, err
	}
	s, err := room.New(b.cfg.Room, room.Deps{
		Tracer: b.node.TracerOf("room"),
		Shards: b.node.PG, States: b.states, DB: b.rooms, Bus: b.node.Bus, Redis: b.node.Redis, Secret: secret,
		Members: b.node.Members, Router: b.node.Router, Servers: b.node.Servers, FedOut: b.node.FedOut(), Log: b.node.Log, Registerer: b.node.Metrics,
	})
	if err != nil {
		return nil, err
	}
	s.Register(b.node.GRPC)
	return s, nil
}

func buildClient(ctx context.Context, b *builder) (Role, error) {
	secret, err := b.secret(ctx)
	if err != nil {
		return nil, err
	}
	c, err := client.New(b.cfg.Client, client.Deps{
		Shards: b.node.PG, Members: b.node.Members, Users: b.users, Rooms: b.rooms, Directory: b.directory, Bus: b.node.Bus, Redis: b.node.Redis, Secret: secret,
		Router: b.node.Router, FedOut: b.node.FedOut(), Media: b.node.Media(),
		Servers: b.node.Servers, Guard: b.guard(), Sessions: b.sessions, Appservices: b.apps, Queries: b.queries, Passwords: b.passwords, Limits: b.limits,
		DefaultVersion: b.cfg.Room.DefaultVersion, Log: b.node.Log, Registerer: b.node.Metrics,
	})
	if err != nil {
		return nil, err
	}
	c.Routes(b.node.ClientAPI)
	discovery.New(b.cfg.Client.Config, b.node.Servers).Routes(b.node.ClientAPI)
	return c, nil
}

func buildSync(ctx context.Context, b *builder) (Role, error) {
	s, err := syncrole.New(ctx, b.cfg.Sync, syncrole.Deps{
		Tracer:   b.node.TracerOf("sync"),
		WorkerID: b.node.WorkerID, Shards: b.node.PG, Rooms: b.rooms, Users: b.users, Bus: b.node.Bus, Redis: b.node.Redis,
		Sessions: b.sessions, Servers: b.node.Servers, Limits: b.limits, Log: b.node.Log, Registerer: b.node.Metrics,
	})
	if err != nil {
		return nil, err
	}
	s.Routes(b.node.ClientAPI)
	return s, nil
}

func buildFedout(_ context.Context, b *builder) (Role, error) {
	f := &b.cfg.Federation
	s, err := fedout.New(b.cfg.Fedout, fedout.Deps{
		Tracer: b.node.TracerOf("fedout"),
		Shards: b.node.PG, DB: b.rooms, Users: b.users, Bus: b.node.Bus, Redis: b.node.Redis, Members: b.node.Members, Servers: b.node.Servers,
		Network:      fedout.Network{CAFiles: f.CAFiles, Allow: f.Allow, Deny: f.Deny, TrustedKeyServers: f.TrustedKeyServers},
		Destinations: b.dests, Log: b.node.Log, Registerer: b.node.Metrics,
	})
	if err != nil {
		return nil, err
	}
	s.Register(b.node.GRPC)
	return s, nil
}

func buildFedin(_ context.Context, b *builder) (Role, error) {
	store := keyring.NewStore(b.node.PG)
	ring := keyring.New(keyring.Deps{
		Store: store, Servers: b.node.Servers, Fetcher: b.node.FedOut(), Log: b.node.Log, Registerer: b.node.Metrics,
	})
	f, err := fedin.New(b.cfg.Fedin, fedin.Deps{
		Shards: b.node.PG, Users: b.users, Rooms: b.rooms, Directory: b.directory, Bus: b.node.Bus, Redis: b.node.Redis,
		Router: b.node.Router, FedOut: b.node.FedOut(), Media: b.node.Media(), Servers: b.node.Servers, Keys: ring, KeyStore: store,
		Destinations: b.dests, Limits: b.limits, Queries: b.queries, Log: b.node.Log, Registerer: b.node.Metrics,
	})
	if err != nil {
		return nil, err
	}
	f.Routes(b.node.FederationAPI)
	discovery.New(b.cfg.Client.Config, b.node.Servers).Routes(b.node.FederationAPI)
	return f, nil
}

func buildMedia(ctx context.Context, b *builder) (Role, error) {
	store, err := mediastore.Open(ctx, b.cfg.Media.Store, b.cfg.DataDir, b.node.PG, b.node.Log)
	if err != nil {
		return nil, err
	}
	roots, err := rootCAs(b.cfg.Federation.CAFiles)
	if err != nil {
		return nil, err
	}
	m, err := media.New(b.cfg.Media, media.Deps{
		Store: store, Sessions: b.sessions, Servers: b.node.Servers, Limits: b.limits, Members: b.node.Members,
		Users: b.users, Rooms: b.rooms, Media: b.node.Media(), FedOut: b.node.FedOut(), Guard: b.guard(), RootCAs: roots, Log: b.node.Log, Registerer: b.node.Metrics,
	})
	if err != nil {
		return nil, err
	}
	m.Routes(b.node.ClientAPI)
	m.OldRoutes(b.node.FederationAPI)
	m.Register(b.node.GRPC)
	return m, nil
}

func buildPush(_ context.Context, b *builder) (Role, error) {
	roots, err := rootCAs(b.cfg.Federation.CAFiles)
	if err != nil {
		return nil, err
	}
	return push.New(b.cfg.Push, push.Deps{
		Shards: b.node.PG, Rooms: b.rooms, Users: b.users, Bus: b.node.Bus, Members: b.node.Members, Servers: b.node.Servers,
		Guard: b.guard(), RootCAs: roots, Log: b.node.Log, Registerer: b.node.Metrics,
	})
}

func buildAppservice(_ context.Context, b *builder) (Role, error) {
	return appservicerole.New(b.cfg.Appservice, appservicerole.Deps{
		Shards: b.node.PG, Rooms: b.rooms, Users: b.users, Bus: b.node.Bus, Members: b.node.Members, Services: b.apps, Aliases: b.directory.AliasesOf,
		Names: b.node.Servers.Names(), Client: b.services, Log: b.node.Log, Registerer: b.node.Metrics,
	})
}

// guard says which addresses that others name may be connected to.
func (b *builder) guard() *netguard.Guard {
	return &netguard.Guard{Allow: b.cfg.Federation.Allow, Deny: b.cfg.Federation.Deny}
}

// rootCAs are the system's CAs and those of the files; nil if there are no files.
func rootCAs(files []string) (*x509.CertPool, error) {
	if len(files) == 0 {
		return nil, nil
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("the system's CA certificates: %w", err)
	}
	for _, file := range files {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("CA certificates: %w", err)
		}
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("CA certificates: %s has none", file)
		}
	}
	return roots, nil
}
