package media

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"
	"google.golang.org/grpc"

	"hanse/pkg/cache"
	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/mediastore"
	"hanse/pkg/merr"
	"hanse/pkg/netguard"
	"hanse/pkg/node"
	"hanse/pkg/retries"
	"hanse/pkg/roomdb"
	"hanse/pkg/session"
	"hanse/pkg/userdb"
	fedv1 "hanse/proto/federation/v1"
	mediav1 "hanse/proto/media/v1"
)

// Servers are the names that the cluster serves (servers.Registry).
type Servers interface {
	IsLocal(id.Server) bool
	ForHost(host string) id.Server
	Names() []id.Server
}

// Limiter is the rate limits (ratelimit.Limiter).
type Limiter interface {
	// Allow takes one action of a kind from the budget of a key. It returns a *merr.Error (M_LIMIT_EXCEEDED) if there is
	// none left.
	Allow(ctx context.Context, kind, key string) error
}

// Members says which partitions this worker looks after (partition.Members).
type Members interface {
	Mine(part uint32, role string) bool
}

// Deps are what the role is built from.
type Deps struct {
	Store    *mediastore.Store
	Sessions *session.Checker
	Servers  Servers
	Limits   Limiter // nil: no limits
	Members  Members
	Users    *userdb.DB
	Rooms    *roomdb.DB
	// Media asks the media worker that has a partition; FedOut other servers.
	Media  mediav1.MediaClient
	FedOut fedv1.FedOutClient
	// Guard says which addresses may be connected to.
	Guard *netguard.Guard
	// RootCAs are trusted; nil: the system's.
	RootCAs    *x509.CertPool
	Log        *slog.Logger
	Registerer prometheus.Registerer // may be nil
}

// Media is the role.
type Media struct {
	mediav1.UnimplementedMediaServer

	cfg      Config
	store    *mediastore.Store
	sessions *session.Checker
	servers  Servers
	limits   Limiter
	members  Members
	users    *userdb.DB
	rooms    *roomdb.DB
	media    mediav1.MediaClient
	fedout   fedv1.FedOutClient
	freeze   time.Time
	log      *slog.Logger
	metrics  *metrics

	uploads, downloads, waits, fetches gate

	web      *http.Client // reaches what others name
	scanner  *http.Client // nil: there is none
	flights  flights
	drawing  *semaphore.Weighted // bytes of pictures that are decoded
	drawings singleflight.Group
	previews *cache.Cache[string, cachedPreview]
	slow     time.Duration           // how long another server may be slow
	troubles map[string]*retries.Log // by what failed
	serving  serving
	tasks    sync.WaitGroup
	ended    context.Context
	end      context.CancelFunc
}

// waiting is how many requests of a worker wait at a time for uploads that were announced.
const waiting = 1024

// New assembles the role; nothing runs before Run.
func New(cfg Config, d Deps) (*Media, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("media: %w", err)
	}
	if d.Store == nil || d.Sessions == nil || d.Servers == nil || d.Members == nil || d.Users == nil || d.Rooms == nil {
		return nil, errors.New("media: a dependency is missing")
	}
	freeze, err := cfg.Old.freeze()
	if err != nil {
		return nil, fmt.Errorf("media: %w", err)
	}
	m := &Media{cfg: cfg, store: d.Store, sessions: d.Sessions, servers: d.Servers, limits: d.Limits, members: d.Members, users: d.Users, rooms: d.Rooms, media: d.Media,
		fedout: d.FedOut, freeze: freeze, log: d.Log, metrics: newMetrics(d.Registerer),
		uploads: make(gate, cfg.Uploads), downloads: make(gate, cfg.Downloads), waits: make(gate, waiting), fetches: make(gate, cfg.Remote.Fetches),
		web: newWeb(d.Guard, nil, d.RootCAs), drawing: semaphore.NewWeighted(cfg.Thumbnails.Memory)}
	m.previews = cache.New(cache.Config[string, cachedPreview]{Name: "media_previews", Budget: cfg.Previews.Cache, MaxAge: previewed, Metrics: d.Registerer,
		Weigh: func(key string, c cachedPreview) int64 { return int64(len(key)+len(c.json)) + 200 }})
	m.flights.of = make(map[mediastore.ID]*flight)
	m.ended, m.end = context.WithCancel(context.Background())
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	if cfg.Scanner.URL != "" {
		m.scanner = newScanner()
	}
	m.slow = slowStart
	m.troubles = make(map[string]*retries.Log)
	for _, what := range []string{"eviction", "sweep", "retention", "scanner"} {
		m.troubles[what] = &retries.Log{To: m.log, What: "media: " + what}
	}
	return m, nil
}

// Register puts the role's RPCs on a gRPC server.
func (m *Media) Register(r grpc.ServiceRegistrar) { mediav1.RegisterMediaServer(r, m) }

// gate bounds what goes on at a time.
type gate chan struct{}

// enter is 429 if there are too many already.
func (g gate) enter() (leave func(), err error) {
	select {
	case g <- struct{}{}:
		return func() { <-g }, nil
	default:
		return nil, merr.LimitExceeded(1000)
	}
}

// sweepEvery is how often a worker looks for what others have left.
const sweepEvery = time.Minute

// Run does the role's background work until the context ends.
func (m *Media) Run(ctx context.Context) error {
	sweep, retention := time.NewTicker(sweepEvery), time.NewTicker(retentionEvery)
	defer sweep.Stop()
	defer retention.Stop()
	defer func() {
		m.end()
		m.tasks.Wait()
		if err := m.store.Close(); err != nil {
			m.log.WarnContext(ctx, "the object store was not closed", "err", err)
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-sweep.C:
			m.sweep(ctx)
		case <-retention.C:
			m.retain(ctx)
		}
	}
}

func (m *Media) sweep(ctx context.Context) {
	if m.members.Mine(0, node.RoleMedia) {
		evicted, err := m.store.Evict(ctx, m.servers.Names(), m.cfg.Remote.Cache)
		m.metrics.removed.WithLabelValues("evicted").Add(float64(evicted))
		m.tried(ctx, "eviction", err)
	}
	removed, err := m.store.Sweep(ctx, m.mine())
	m.metrics.removed.WithLabelValues("unfinished").Add(float64(removed))
	m.tried(ctx, "sweep", err)
}

// tried counts what could not be done, and logs the beginning and the end of an outage.
func (m *Media) tried(ctx context.Context, what string, err error) {
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		m.metrics.failures.WithLabelValues(what).Inc()
	}
	m.troubles[what].Note(err)
}

// mine are the partitions whose media this worker looks after.
func (m *Media) mine() (parts []uint32) {
	for _, part := range m.store.AllParts() {
		if m.members.Mine(part, node.RoleMedia) {
			parts = append(parts, part)
		}
	}
	return parts
}

// limit takes one action of a kind from the budget of the user who makes the request, or without one of its address.
func (m *Media) limit(r *http.Request, kind string) error {
	if m.limits == nil {
		return nil
	}
	if i := session.From(r); i != nil {
		if !i.RateLimited() {
			return nil
		}
		return m.limits.Allow(r.Context(), kind, string(i.User))
	}
	return m.limits.Allow(r.Context(), kind, httpx.ClientKey(r))
}
