package fedin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"hanse/pkg/admission"
	"hanse/pkg/asquery"
	"hanse/pkg/bus"
	"hanse/pkg/cache"
	"hanse/pkg/keyring"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/pg"
	"hanse/pkg/presence"
	"hanse/pkg/roomdb"
	"hanse/pkg/roomdir"
	"hanse/pkg/roomowner"
	"hanse/pkg/servers"
	"hanse/pkg/userdb"
	fedv1 "hanse/proto/federation/v1"
	mediav1 "hanse/proto/media/v1"
)

// Servers are the names that the cluster serves (servers.Registry).
type Servers interface {
	IsLocal(id.Server) bool
	ForHost(host string) id.Server
	SigningKey(ctx context.Context, server id.Server) (*signing.Key, error)
	VerifyKeys(server id.Server) ([]servers.VerifyKey, error)
}

// Destinations hears which servers are there (destination.Store).
type Destinations interface {
	Seen(ctx context.Context, server id.Server) error
}

// Limiter is the rate limits (ratelimit.Limiter).
type Limiter interface {
	// Allow takes one action of a kind from the budget of a key. It returns a *merr.Error (M_LIMIT_EXCEEDED) if there is
	// none left.
	Allow(ctx context.Context, kind, key string) error
}

// Deps are what the role is built from.
type Deps struct {
	Shards       *pg.Shards
	Users        *userdb.DB
	Rooms        *roomdb.DB
	Directory    *roomdir.DB
	Bus          *bus.Bus
	Redis        redis.UniversalClient
	Router       roomowner.Router
	FedOut       fedv1.FedOutClient
	Media        mediav1.MediaClient // nil: there is none
	Servers      Servers
	Keys         *keyring.Ring
	KeyStore     *keyring.Store
	Destinations Destinations
	Limits       Limiter         // nil: no limits
	Queries      *asquery.Client // to application services; nil: none is asked
	Log          *slog.Logger
	Registerer   prometheus.Registerer // may be nil
}

// Fedin is the role.
type Fedin struct {
	cfg          Config
	shards       *pg.Shards
	users        *userdb.DB
	rooms        *roomdb.DB
	directory    *roomdir.DB
	bus          *bus.Bus
	router       roomowner.Router
	fedout       fedv1.FedOutClient
	media        mediav1.MediaClient
	servers      Servers
	keys         *keyring.Ring
	keyStore     *keyring.Store
	destinations Destinations
	limits       Limiter
	queries      *asquery.Client
	presence     *presence.Store
	log          *slog.Logger
	metrics      *metrics

	gates    gates
	known    *cache.Cache[place, struct{}]          // where servers were verified a short while ago
	refused  *cache.Cache[keyName, struct{}]        // keys that could not be had
	madeUp   *cache.Cache[id.Server, *atomic.Int32] // how many, lately
	keyWaits *admission.Pool                        // requests that wait for keys
	incoming chan struct{}                          // slots of transactions
	acls     *cache.Cache[aclKey, *aclOf]
	shares   *cache.Cache[id.Server, struct{}] // servers with which a room is shared
	apart    *cache.Cache[id.Server, struct{}] // servers with which none was shared a moment ago
	early    early

	// tasks are transactions whose senders may be gone.
	tasks sync.WaitGroup
}

// New assembles the role; nothing runs before Run.
func New(cfg Config, d Deps) (*Fedin, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("fedin: %w", err)
	}
	if d.Shards == nil || d.Users == nil || d.Rooms == nil || d.Directory == nil || d.Bus == nil || d.Redis == nil || d.Router == nil ||
		d.Servers == nil || d.Keys == nil || d.KeyStore == nil || d.Destinations == nil {
		return nil, errors.New("fedin: a dependency is missing")
	}
	f := &Fedin{
		cfg: cfg, shards: d.Shards, users: d.Users, rooms: d.Rooms, directory: d.Directory, queries: d.Queries, bus: d.Bus, router: d.Router, fedout: d.FedOut, media: d.Media,
		servers: d.Servers, keys: d.Keys, keyStore: d.KeyStore, destinations: d.Destinations, limits: d.Limits, presence: presence.New(d.Redis, d.Bus),
		log: d.Log, metrics: newMetrics(d.Registerer), incoming: make(chan struct{}, cfg.Transactions),
		keyWaits: newKeyWaits(d.Registerer), early: early{held: make(chan struct{}, 1)},
	}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	f.known = cache.New(cache.Config[place, struct{}]{Name: "fedin_known", Budget: 4 << 20, MaxAge: time.Hour, Metrics: d.Registerer,
		Weigh: func(p place, _ struct{}) int64 { return int64(len(p.server)+len(p.network)) + 170 }})
	f.refused = cache.New(cache.Config[keyName, struct{}]{Name: "fedin_refused", Budget: 4 << 20, MaxAge: refusedFor, Metrics: d.Registerer,
		Weigh: func(k keyName, _ struct{}) int64 { return int64(len(k.server)+len(k.key)) + 170 }})
	f.madeUp = cache.New(cache.Config[id.Server, *atomic.Int32]{Name: "fedin_made_up", Budget: 4 << 20, MaxAge: refusedFor, Metrics: d.Registerer,
		Weigh: func(s id.Server, _ *atomic.Int32) int64 { return int64(len(s)) + 170 }})
	f.acls = cache.New(cache.Config[aclKey, *aclOf]{Name: "fedin_acl", Budget: 4 << 20, Metrics: d.Registerer,
		Weigh: func(_ aclKey, l *aclOf) int64 { return l.list.Bytes() + 200 }})
	server := func(s id.Server, _ struct{}) int64 { return int64(len(s)) + 150 }
	f.shares = cache.New(cache.Config[id.Server, struct{}]{Name: "fedin_shares", Budget: 4 << 20, MaxAge: time.Minute, Metrics: d.Registerer, Weigh: server})
	f.apart = cache.New(cache.Config[id.Server, struct{}]{Name: "fedin_apart", Budget: 1 << 20, MaxAge: time.Second, Metrics: d.Registerer, Weigh: server})
	return f, nil
}

// pruneEvery is how often old answers to transactions are deleted.
const pruneEvery = time.Hour

// Run does the role's background work until the context ends, then waits for the transactions that are under way.
func (f *Fedin) Run(ctx context.Context) error {
	stop, err := f.keys.Follow(f.bus)
	if err != nil {
		return err
	}
	defer stop()
	tick := time.NewTicker(pruneEvery)
	defer tick.Stop()
	early := time.NewTicker(earlyStep) // runs while presence is held
	early.Stop()
	defer early.Stop()
	for {
		select {
		case <-ctx.Done():
			f.tasks.Wait()
			return nil
		case <-f.early.held:
			early.Reset(earlyStep)
		case now := <-early.C:
			f.takeEarly(ctx, now)
			if f.early.empty() {
				early.Stop()
			}
		case <-tick.C:
			if err := f.prune(ctx); err != nil && ctx.Err() == nil {
				f.log.WarnContext(ctx, "old transactions were not deleted", "err", err)
			}
		}
	}
}

// isLocal reports whether a user is one of ours.
func (f *Fedin) isLocal(u id.User) bool { return f.servers.IsLocal(u.Server()) }
