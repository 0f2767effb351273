package sync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/trace"

	"hanse/pkg/admission"
	"hanse/pkg/bus"
	"hanse/pkg/cache"
	"hanse/pkg/deadletter"
	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
	presencestore "hanse/pkg/presence"
	"hanse/pkg/roomdb"
	"hanse/pkg/session"
	"hanse/pkg/userdb"
	logv1 "hanse/proto/log/v1"
)

// Servers are the names that the cluster serves.
type Servers interface {
	IsLocal(id.Server) bool
}

// Limiter is the rate limits (ratelimit.Limiter).
type Limiter interface {
	// Allow takes one action of a kind from the budget of a key. It returns a *merr.Error (M_LIMIT_EXCEEDED) if there is
	// none left.
	Allow(ctx context.Context, kind, key string) error
}

// Deps is what the role works with.
type Deps struct {
	WorkerID string
	Shards   *pg.Shards
	Rooms    *roomdb.DB
	Users    *userdb.DB
	Bus      *bus.Bus
	Redis    redis.UniversalClient
	Sessions *session.Checker
	Servers  Servers
	// Limits may be nil: no limits.
	Limits Limiter
	// Tracer may be nil.
	Tracer     trace.Tracer
	Log        *slog.Logger
	Registerer prometheus.Registerer // may be nil
}

// Service is the sync role of one worker.
type Service struct {
	cfg      Config
	shards   *pg.Shards
	rooms    *roomdb.DB
	userdb   *userdb.DB
	bus      *bus.Bus
	sessions *session.Checker
	servers  Servers
	tracer   trace.Tracer
	log      *slog.Logger
	metrics  *metrics

	users     *users
	tail      *tail
	reader    *bus.LogReader
	eph       *ephemeral
	typing    *typing
	presence  *presence
	shared    *shared
	filters   *filters
	seqs      *seqs
	openings  *cache.Cache[openingKey, *opening]
	bundles   *cache.Cache[bundleKey, *bundleSet]
	underway  underway[openingKey] // of those
	notifying *notifyingRooms
	conns     *cache.Cache[userdb.SlidingConn, *heldConn]
	requests  *requests

	large  *httpx.Large    // answers with a large state
	firsts *admission.Pool // first answers that are made and sent
	limits Limiter

	elsewhere atomic.Bool // presence of users who are not connected here has changed

	drain     chan struct{}
	drainOnce sync.Once
}

// New assembles the role. It reads the heads of all logs; Run begins to follow them.
func New(ctx context.Context, cfg Config, d Deps) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("sync: %w", err)
	}
	s := &Service{
		cfg: cfg, shards: d.Shards, rooms: d.Rooms, userdb: d.Users, bus: d.Bus, sessions: d.Sessions, servers: d.Servers,
		tracer: d.Tracer, log: d.Log, metrics: newMetrics(d.Registerer), eph: newEphemeral(d.WorkerID), drain: make(chan struct{}),
		large: httpx.NewLarge("sync", d.Registerer), firsts: newFirsts(cfg.Answers, d.Registerer), limits: d.Limits,
	}
	heads, err := d.Rooms.Heads(ctx)
	if err != nil {
		return nil, fmt.Errorf("sync: heads of the logs: %w", err)
	}
	s.tail = newTail(d.Shards.P(), cfg.Tail, heads, s.changedRooms,
		func(key roomdb.RoomKey, who id.User, pos int64) { s.users.left(key, who, pos) })
	s.users = newUsers(d.Users, s.tail)
	s.typing = newTyping(s.eph, s.wakeRoom)
	s.presence = &presence{
		cfg: cfg, eph: s.eph, store: presencestore.New(d.Redis, d.Bus), wake: s.wakeRoomsOf, log: d.Log,
		users: make(map[id.User]*presenceOf), loaded: make(chan struct{}),
	}
	s.shared = newShared(s)
	s.filters = newFilters(d.Users, d.Registerer)
	s.seqs = newSeqs(d.Users, d.Log)
	s.openings = newOpenings(cfg.Openings, d.Registerer)
	s.bundles = newBundleSets(d.Registerer)
	s.notifying = newNotifyingRooms(cfg.Openings/8, d.Registerer)
	s.conns, s.requests = newConns(d.Registerer), newRequests(d.Registerer)
	s.metrics.observe(s)
	s.reader = bus.NewLogReader(s.bus, bus.ReaderConfig{
		Name: "sync", Source: s.rooms, Heads: s.rooms.Heads, Handle: s.handle, DeadLetter: s.deadLetter, Log: s.log,
	})
	return s, nil
}

// Routes registers the role's endpoints.
func (s *Service) Routes(r *httpx.Router) {
	g := r.Group("/_matrix/client/v3", "/_matrix/client/r0", "/_matrix/client/unstable").With(httpx.PlainText, s.sessions.Required, s.limited)
	g.Handle("GET /sync", s.handleSync, httpx.LongPoll())
	s.slideRoutes(r)
}

// limited applies the limit of requests of any kind, which the client API has too.
func (s *Service) limited(next httpx.Handler) httpx.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if who := session.From(r); s.limits != nil && who.RateLimited() {
			if err := s.limits.Allow(r.Context(), "request", string(who.User)); err != nil {
				return err
			}
		}
		return next(w, r)
	}
}

// Run follows the logs until the context ends.
func (s *Service) Run(ctx context.Context) error {
	defer s.reader.Close()
	var subs []*bus.Subscription
	defer func() {
		for _, sub := range subs {
			if err := sub.Stop(); err != nil {
				s.log.Debug("unsubscribe", "err", err)
			}
		}
	}()
	for _, subscribe := range []func() (*bus.Subscription, error){
		func() (*bus.Subscription, error) { return s.bus.SubscribeUsers(s.userChanges) },
		func() (*bus.Subscription, error) { return s.bus.SubscribeTyping(s.typing.heard) },
		func() (*bus.Subscription, error) { return s.bus.SubscribePresence(s.presence.heard) },
	} {
		sub, err := subscribe()
		if err != nil {
			return fmt.Errorf("sync: %w", err)
		}
		subs = append(subs, sub)
	}
	for part := range s.shards.P() {
		if err := s.reader.Add(part, s.tail.head(part)); err != nil {
			return fmt.Errorf("sync: %w", err)
		}
	}
	defer s.bus.OnReconnect(s.resync)()
	var sweeping sync.WaitGroup
	defer sweeping.Wait()
	if s.cfg.Presence {
		sweeping.Go(func() { s.presence.sweeping(ctx) })
	}
	s.housekeeping(ctx)
	return s.Drain(ctx)
}

// Drain answers all open polls. New ones are answered at once: their clients come back to another worker.
func (s *Service) Drain(context.Context) error {
	s.drainOnce.Do(func() { close(s.drain) })
	return nil
}

func (s *Service) draining() bool {
	select {
	case <-s.drain:
		return true
	default:
		return false
	}
}

func (s *Service) housekeeping(ctx context.Context) {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.users.forget(s.cfg.Idle)
			s.typing.sweep()
			if s.elsewhere.Swap(false) {
				s.users.wakeAll()
			}
		}
	}
}

// resync makes everybody look into PostgreSQL after the bus was away.
func (s *Service) resync() {
	s.users.distrust()
	s.users.wakeAll()
}

func (s *Service) userChanges(m *logv1.UserChanges) {
	for _, u := range m.Users {
		s.users.changed(id.User(u.UserId), u.Seq)
	}
}

// changedRooms wakes who is concerned by new entries.
func (s *Service) changedRooms(part uint32, rooms []int64) {
	s.users.changedRooms(part, rooms)
}

// wakeRoom wakes the connected users of a room.
func (s *Service) wakeRoom(room id.Room) {
	part := partition.Of(string(room))
	nid, ok := s.tail.find(part, room)
	if !ok {
		return
	}
	for _, u := range s.users.inRoom(roomdb.RoomKey{Part: part, NID: nid}) {
		u.wake()
	}
}

// wakeRoomsOf wakes those who may see a user's presence. Of users who are not connected here nobody knows at once who
// that is: everybody finds out, some seconds later and for many such changes together.
func (s *Service) wakeRoomsOf(who id.User) {
	u := s.users.connectedUser(who)
	if u == nil {
		s.elsewhere.Store(true)
		return
	}
	u.wake()
	for _, r := range u.joinedRooms() {
		for _, other := range s.users.inRoom(roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID}) {
			other.wake()
		}
	}
}

// deadLetter keeps what cannot be processed: an entry that no version of this code can read.
func (s *Service) deadLetter(ctx context.Context, d bus.Delivery, cause error) error {
	for _, e := range d.Entries {
		if err := deadletter.Put(ctx, s.shards, d.Part, deadletter.Sync, e.Pos, cause); err != nil {
			return err
		}
		s.tail.skip(d.Part, e.RoomNid, e.Pos)
	}
	s.metrics.dead.Add(float64(len(d.Entries)))
	return nil
}

// filters are the filters that clients have stored, which never change, and those that they send with each poll.
type filters struct {
	db     *userdb.DB
	cache  *cache.Cache[filterKey, *filter]
	inline *cache.Cache[string, *filter]
}

type filterKey struct {
	user id.User
	n    int64
}

func newFilters(db *userdb.DB, reg prometheus.Registerer) *filters {
	return &filters{
		db: db,
		cache: cache.New(cache.Config[filterKey, *filter]{
			Name: "filter", Budget: 4 << 20, Metrics: reg, Weigh: func(k filterKey, f *filter) int64 { return int64(len(k.user)) + f.size },
		}),
		inline: cache.New(cache.Config[string, *filter]{
			Name: "inline_filter", Budget: 4 << 20, Metrics: reg, Weigh: func(_ string, f *filter) int64 { return f.size },
		}),
	}
}

// parse returns the filter that a text is.
func (f *filters) parse(text string) (*filter, error) {
	if v, ok := f.inline.Get(text); ok {
		return v, nil
	}
	v, err := parseFilter([]byte(text))
	if err == nil {
		f.inline.Add(text, v)
	}
	return v, err
}

func (f *filters) get(ctx context.Context, user id.User, n int64) (*filter, error) {
	key := filterKey{user, n}
	if v, ok := f.cache.Get(key); ok {
		return v, nil
	}
	raw, err := f.db.Filter(ctx, user, n)
	if errors.Is(err, userdb.ErrNotFound) {
		return nil, merr.InvalidParam("no such filter")
	}
	if err != nil {
		return nil, err
	}
	v, err := parseFilter(raw)
	if err == nil {
		f.cache.Add(key, v)
	}
	return v, err
}
