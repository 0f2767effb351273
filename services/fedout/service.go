package fedout

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"

	"hanse/pkg/bus"
	"hanse/pkg/destination"
	"hanse/pkg/fedclient"
	"hanse/pkg/keyring"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
	"hanse/pkg/presence"
	"hanse/pkg/roomdb"
	"hanse/pkg/servers"
	"hanse/pkg/userdb"
	fedv1 "hanse/proto/federation/v1"
)

// Servers are the names that this cluster serves (servers.Registry).
type Servers interface {
	IsLocal(server id.Server) bool
	Default() id.Server
	SigningKey(ctx context.Context, server id.Server) (*signing.Key, error)
	VerifyKeys(server id.Server) ([]servers.VerifyKey, error)
}

// Deps is what the role works with.
type Deps struct {
	Shards  *pg.Shards
	DB      *roomdb.DB
	Users   *userdb.DB
	Bus     *bus.Bus
	Redis   redis.UniversalClient
	Members *partition.Members
	Servers Servers
	Network Network
	// Destinations is the shared backoff; nil: one of its own.
	Destinations *destination.Store
	Tracer       trace.Tracer // nil: no traces
	Log          *slog.Logger
	Registerer   prometheus.Registerer // may be nil
}

// Service is the fedout role of one worker.
type Service struct {
	fedv1.UnimplementedFedOutServer

	cfg     Config
	shards  *pg.Shards
	db      *roomdb.DB
	users   *userdb.DB
	bus     *bus.Bus
	members *partition.Members
	servers Servers
	dests   *destination.Store
	client  *fedclient.Client
	keys    *keyring.Store
	ring    *keyring.Ring
	fetcher *keyFetcher
	tracer  trace.Tracer
	log     *slog.Logger
	metrics *metrics

	keyServers []string

	presence *presence.Store
	sender   *sender
	requests *requestSlots
	vain     *inVain
	keySlots chan struct{} // slots of key look-ups
	faults   faults
}

// faults are what tests make go wrong.
type faults struct {
	// storing runs before each transaction that stores where the destinations of a partition stand.
	storing func(part uint32)
}

// New assembles the role; it does nothing before Run, but for the RPCs.
func New(cfg Config, d Deps) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	cc, err := d.Network.client(&cfg)
	if err != nil {
		return nil, err
	}
	cc.Log, cc.Registerer = d.Log, d.Registerer
	s := &Service{
		cfg: cfg, shards: d.Shards, db: d.DB, users: d.Users, bus: d.Bus, members: d.Members, servers: d.Servers,
		dests: d.Destinations, keyServers: d.Network.TrustedKeyServers, client: fedclient.New(cc), keys: keyring.NewStore(d.Shards), tracer: d.Tracer, log: d.Log,
		presence: presence.New(d.Redis, d.Bus), metrics: newMetrics(d.Registerer), requests: newRequestSlots(cfg.Requests), vain: newInVain(), keySlots: make(chan struct{}, cfg.KeyFetches),
	}
	if s.dests == nil {
		s.dests = destination.New(d.Shards, d.Bus)
	}
	s.fetcher, s.sender = newKeyFetcher(s, d.Registerer), newSender(s, d.Registerer)
	s.ring = keyring.New(keyring.Deps{Store: s.keys, Servers: d.Servers, Fetcher: local{s}, Log: d.Log, Registerer: d.Registerer})
	return s, nil
}

// local lets this worker's own key ring fetch without gRPC.
type local struct{ s *Service }

// Keys implements keyring.Fetcher. It takes no slot: who asks holds one.
func (l local) Keys(ctx context.Context, in *fedv1.KeysRequest, _ ...grpc.CallOption) (*fedv1.KeysResponse, error) {
	resp := new(fedv1.KeysResponse)
	for _, q := range in.Queries {
		keys, err := l.s.keysOf(ctx, id.Server(q.Server), map[string]int64{q.KeyId: q.MinimumValidUntilMs}, true)
		if err != nil {
			return nil, fmt.Errorf("keys of %s: %w", q.Server, err)
		}
		resp.Keys = append(resp.Keys, keys...)
	}
	return resp, nil
}

// Register puts the role's RPCs on a gRPC server.
func (s *Service) Register(r grpc.ServiceRegistrar) { fedv1.RegisterFedOutServer(r, s) }

// Run sends until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	defer s.client.CloseIdle()
	return s.sender.run(ctx)
}

// Drain gives the destinations up; other workers take them.
func (s *Service) Drain(ctx context.Context) error {
	return s.sender.drain(ctx)
}
