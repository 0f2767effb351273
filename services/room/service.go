package room

import (
	"context"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"hanse/pkg/bus"
	"hanse/pkg/cache"
	"hanse/pkg/keyring"
	"hanse/pkg/mac"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
	"hanse/pkg/resolve"
	"hanse/pkg/roomdb"
	"hanse/pkg/servers"
	"hanse/pkg/state"
	federationv1 "hanse/proto/federation/v1"
	roomv1 "hanse/proto/room/v1"
)

// Servers are the names that this cluster serves.
type Servers interface {
	// IsLocal says whether the name is one of ours.
	IsLocal(server id.Server) bool
	// SigningKey is the key with which a local server name signs, VerifyKeys all that it has ever signed with.
	SigningKey(ctx context.Context, server id.Server) (*signing.Key, error)
	VerifyKeys(server id.Server) ([]servers.VerifyKey, error)
}

// Deps is what the role works with.
type Deps struct {
	Shards *pg.Shards
	States *state.Store
	DB     *roomdb.DB
	Bus    *bus.Bus
	// Redis and Secret may be nil: resolutions are not shared then.
	Redis   redis.UniversalClient
	Secret  *mac.Secret
	Members *partition.Members
	Router  *partition.Router
	Servers Servers
	// FedOut makes requests to other servers.
	FedOut     federationv1.FedOutClient
	Tracer     trace.Tracer // nil: no traces
	Log        *slog.Logger
	Registerer prometheus.Registerer // may be nil
}

// Service is the room role of one worker.
type Service struct {
	roomv1.UnimplementedRoomServer

	cfg     Config
	shards  *pg.Shards
	db      *roomdb.DB
	bus     *bus.Bus
	router  *partition.Router
	servers Servers
	fedout  federationv1.FedOutClient
	keys    *keyring.Ring
	tracer  trace.Tracer
	log     *slog.Logger
	metrics *metrics

	states *state.Writer
	store  *state.Store
	cache  *cache.Cache[eventKey, *roomdb.Event]
	owner  *partition.Owner
	lanes  map[*pgxpool.Pool][]*lane

	leases       []atomic.Pointer[lease]
	roomsPerPart int
	loads        *turns                        // of reading auth graphs: some memory and processor time, all at once
	turns        *turns                        // of state resolutions
	graphs       *cache.Cache[*room, *growing] // of rooms with forks
	brief        resolve.Budget                // of resolutions for which a room may stay locked
	shared       *shared
	large        chan struct{}                // slots of large answers of other servers
	clock        atomic.Int64                 // ticks with each use of a room
	repeats      *lru.Cache[string, struct{}] // users who repeated requests that were forgotten here
	joins        singleflight.Group           // joins through other servers that are under way
	merging      sync.Map                     // rooms whose ends are being merged
	filling      sync.Map                     // rooms whose omitted members are being fetched, by fillKey
	reviewing    sync.Map                     // rooms of which events are being judged again, by fillKey
	comparing    sync.Map                     // rooms about whose joins others are being asked, by fillKey
	fills        chan struct{}                // slots for that
	relating     chan struct{}                // slots for writing relations that are lacking
	work         sync.WaitGroup
	faults       faults
	// background ends when the role does.
	background     context.Context
	stopBackground context.CancelFunc
}

// faults are what tests make go wrong.
type faults struct {
	// before runs before every append; commit sees the outcome of every append and says what the lane gets to hear.
	before func()
	commit func(error) error
	// resolving runs at the begin of each resolution that has a turn.
	resolving func(context.Context, *room) error
	// fill runs before each step of fetching the members of a room that was joined without them, review before each of judging
	// events again that stand upon what was told.
	fill, review func(step string)
	// asks is how often others are asked about the state that came with a join; nil: joinAsks.
	asks *int32
}

// repeatUsers bounds how many users who repeat old requests are remembered.
const repeatUsers = 10000

// New assembles the role; it does nothing before Run.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	parts := deps.Shards.P()
	s := &Service{
		cfg: cfg, shards: deps.Shards, db: deps.DB, bus: deps.Bus, router: deps.Router, servers: deps.Servers,
		fedout: deps.FedOut, tracer: deps.Tracer, log: deps.Log, store: deps.States, states: state.NewWriter(deps.States),
		leases: make([]atomic.Pointer[lease], parts), roomsPerPart: max(1, cfg.Rooms/int(parts)),
		lanes: make(map[*pgxpool.Pool][]*lane), turns: newTurns(max(1, runtime.GOMAXPROCS(0)/2)), loads: newTurns(graphLoads),
		large: make(chan struct{}, largeAnswers), fills: make(chan struct{}, fillsAtOnce), relating: make(chan struct{}, relatedAtOnce), brief: briefBounds,
	}
	var fetcher keyring.Fetcher
	if deps.FedOut != nil {
		fetcher = deps.FedOut
	}
	s.keys = keyring.New(keyring.Deps{Store: keyring.NewStore(deps.Shards), Servers: deps.Servers, Fetcher: fetcher, FetchTimeout: joinTimeout,
		Each: s.turns.each, Log: deps.Log, Registerer: deps.Registerer})
	s.background, s.stopBackground = context.WithCancel(context.Background())
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.metrics = newMetrics(deps.Registerer)
	var err error
	if s.repeats, err = lru.New[string, struct{}](repeatUsers); err != nil {
		return nil, err
	}
	s.cache = cache.New(cache.Config[eventKey, *roomdb.Event]{
		Name: "room_event", Budget: cfg.Cache, Metrics: deps.Registerer,
		Weigh: func(_ eventKey, e *roomdb.Event) int64 { return int64(e.Size()) + 800 },
	})
	s.graphs = cache.New(cache.Config[*room, *growing]{
		Name: "room_authgraph", Budget: cfg.Graphs, Metrics: deps.Registerer,
		Weigh: func(_ *room, g *growing) int64 { return g.bytes.Load() },
	})
	s.shared = newShared(deps.Redis, deps.Secret, deps.Shards.ClusterID())
	for _, pool := range deps.Shards.All() {
		for range cfg.Lanes {
			s.lanes[pool] = append(s.lanes[pool], newLane(s, pool))
		}
	}
	s.owner = partition.NewOwner(partition.OwnerConfig{
		Members: deps.Members, Rows: partition.NewRows(deps.Shards), Handler: s,
		Tethers: deps.Router.Tethers(), Log: s.log, Registerer: deps.Registerer,
	})
	return s, nil
}

// Owner is what takes and gives up this worker's partitions.
func (s *Service) Owner() *partition.Owner { return s.owner }

func (s *Service) laneOf(part uint32) *lane {
	lanes := s.lanes[s.shards.For(part)]
	return lanes[int(part/uint32(len(s.lanes)))%len(lanes)]
}

func (s *Service) localUser(user id.User) bool { return s.servers.IsLocal(user.Server()) }

// Run owns partitions and commits until ctx ends; then it gives the partitions up, answers what waits and returns.
func (s *Service) Run(ctx context.Context) error {
	stopKeys, err := s.keys.Follow(s.bus)
	if err != nil {
		return err
	}
	defer stopKeys()
	lanesCtx, stopLanes := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLanes()
	var lanes errgroup.Group
	for _, of := range s.lanes {
		for _, l := range of {
			lanes.Go(func() error { l.run(lanesCtx); return nil })
			lanes.Go(func() error { l.projector.run(lanesCtx); return nil })
		}
	}
	lanes.Go(func() error { s.beacons(lanesCtx); return nil })
	lanes.Go(func() error { s.shared.run(lanesCtx); return nil })
	lanes.Go(func() error { s.collectAll(lanesCtx); return nil })
	err = s.owner.Run(ctx)
	s.stopBackground()
	stopLanes()
	if e := lanes.Wait(); err == nil {
		err = e
	}
	s.work.Wait()
	return err
}

// Drain hands the partitions to other workers; see partition.Owner.
func (s *Service) Drain(ctx context.Context) error { return s.owner.Drain(ctx) }

// beaconInterval is how soon readers learn of a log entry whose publication was lost, at the latest, while nothing
// else happens in the partition.
const beaconInterval = 2 * time.Second

func (s *Service) beacons(ctx context.Context) {
	tick := time.NewTicker(beaconInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for i := range s.leases {
			if p := s.leases[i].Load(); p != nil && p.touched.Swap(false) {
				s.beacon(p, p.published.Load())
				s.flushProjected(ctx, p)
			}
		}
	}
}

// flushProjected stores how far the membership index is written, if no append has done so: a takeover replays less.
func (s *Service) flushProjected(ctx context.Context, p *lease) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := s.shards.For(p.part).Exec(ctx, sqlProjected, int32(p.part), p.epoch, p.projected.Load()); err != nil && ctx.Err() == nil {
		s.log.Debug("store projected", "err", err, "part", p.part)
	}
}
