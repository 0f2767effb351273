package session

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"hanse/pkg/appservice"
	"hanse/pkg/bus"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/userdb"
	logv1 "hanse/proto/log/v1"
)

// Identity is who makes a request.
type Identity struct {
	User id.User
	// Device is empty for application services that do not act as one.
	Device id.Device
	Guest  bool
	// Admin may use the server administration APIs.
	Admin bool
	// Appservice is set if the request carries the token of an application service.
	Appservice *appservice.Service
	// Hash is that of the access token; the zero value for application services.
	Hash userdb.TokenHash
}

// RateLimited reports whether limits apply to the identity's requests. The sender of an application service has none
// (application service API, "Registration": rate_limited).
func (i *Identity) RateLimited() bool {
	return i.Appservice == nil || (i.Appservice.RateLimited && i.User != i.Appservice.Sender)
}

// Config bounds the cache.
type Config struct {
	// CacheSize is the number of tokens that a worker remembers.
	CacheSize int `doc:"Access tokens that a worker remembers."`
	// CacheTTL is for how long.
	CacheTTL time.Duration `doc:"For how long a worker remembers an access token."`
}

// Defaults suit a small server.
func Defaults() Config { return Config{CacheSize: 20_000, CacheTTL: 30 * time.Second} }

// Checker checks access tokens. It is safe for concurrent use.
type Checker struct {
	cfg   Config
	users *userdb.DB
	apps  *appservice.Registry
	bus   *bus.Bus
	log   *slog.Logger
	now   func() time.Time

	mu      sync.Mutex
	tokens  *simplelru.LRU[userdb.TokenHash, cached]
	revoked *simplelru.LRU[revokedKey, time.Time]
	floor   time.Time // what was looked up before is not trusted

	flight singleflight.Group
	seen   seenBuffer
	hits   prometheus.Counter
	misses prometheus.Counter
}

type cached struct {
	owner userdb.Owner
	since time.Time // when the look-up began
}

type revokedKey struct {
	user   id.User
	device id.Device // empty: all
}

// New returns a checker. Run must be running for it to hear of revoked tokens.
func New(cfg Config, users *userdb.DB, apps *appservice.Registry, b *bus.Bus, log *slog.Logger, reg prometheus.Registerer) (*Checker, error) {
	tokens, err := simplelru.NewLRU[userdb.TokenHash, cached](max(cfg.CacheSize, 1), nil)
	if err != nil {
		return nil, err
	}
	revoked, err := simplelru.NewLRU[revokedKey, time.Time](max(cfg.CacheSize, 1), nil)
	if err != nil {
		return nil, err
	}
	c := &Checker{cfg: cfg, users: users, apps: apps, bus: b, log: log, now: time.Now, tokens: tokens, revoked: revoked,
		hits:   prometheus.NewCounter(prometheus.CounterOpts{Name: "hanse_session_hits_total", Help: "Access tokens answered from memory."}),
		misses: prometheus.NewCounter(prometheus.CounterOpts{Name: "hanse_session_misses_total", Help: "Access tokens looked up in the database."})}
	if reg != nil {
		for _, m := range []prometheus.Collector{c.hits, c.misses} {
			if err := reg.Register(m); err != nil && !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
				return nil, err
			}
		}
	}
	c.floor = c.now()
	return c, nil
}

// Run hears of revoked tokens and stores when devices were last seen, until the context ends.
func (c *Checker) Run(ctx context.Context) error {
	sub, err := c.bus.SubscribeAuth(func(m *logv1.AuthInvalidation) { c.Forget(id.User(m.UserId), id.Device(m.DeviceId)) })
	if err != nil {
		return err
	}
	defer func() { _ = sub.Stop() }() // the connection may be gone already
	defer c.bus.OnReconnect(c.ForgetAll)()
	c.recordSeen(ctx)
	return nil
}

// Forget drops what is held of a user's tokens, or of one device's.
func (c *Checker) Forget(user id.User, device id.Device) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.revoked.Add(revokedKey{user, device}, c.now()) {
		c.forgetAll() // a mark was pushed out: what it guarded is unknown
	}
}

// ForgetAll drops everything that is held.
func (c *Checker) ForgetAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forgetAll()
}

func (c *Checker) forgetAll() {
	c.tokens.Purge()
	c.floor = c.now()
}

// Token returns the access token of a request: of the Authorization header, or of the query, which is deprecated
// (client-server API, "Using access tokens").
func Token(r *http.Request) (string, error) {
	if h := r.Header.Get("Authorization"); h != "" {
		scheme, token, ok := strings.Cut(h, " ")
		if !ok || !strings.EqualFold(scheme, "Bearer") || strings.TrimSpace(token) == "" {
			return "", merr.MissingToken()
		}
		return strings.TrimSpace(token), nil
	}
	if r.URL.RawQuery != "" {
		if t := r.URL.Query().Get("access_token"); t != "" {
			return t, nil
		}
	}
	return "", merr.MissingToken()
}

// Authenticate returns who makes the request: 401 M_MISSING_TOKEN without a token, 401 M_UNKNOWN_TOKEN (with
// soft_logout if it has expired), 403 for an application service that acts as somebody it may not.
func (c *Checker) Authenticate(r *http.Request) (*Identity, error) {
	token, err := Token(r)
	if err != nil {
		return nil, err
	}
	if s := c.apps.ByToken(token); s != nil {
		return c.masquerade(r, s)
	}
	part, hash, ok := ParseToken(AccessToken, token)
	if !ok {
		return nil, merr.UnknownToken(false)
	}
	owner, err := c.lookUp(r.Context(), part, hash)
	if errors.Is(err, userdb.ErrNotFound) {
		return nil, merr.UnknownToken(false)
	}
	if err != nil {
		return nil, err
	}
	switch {
	case owner.Deactivated:
		return nil, merr.UnknownToken(false)
	case owner.ExpiresTS != 0 && owner.ExpiresTS <= userdb.Millis(c.now()):
		return nil, merr.UnknownToken(true)
	}
	i := &Identity{User: owner.User, Device: owner.Device, Guest: owner.Guest, Admin: owner.Admin, Hash: hash}
	c.seen.note(r, i, c.now())
	return i, nil
}

// lookUp answers from memory if it can. Requests that come together share one look-up.
func (c *Checker) lookUp(ctx context.Context, part uint32, hash userdb.TokenHash) (userdb.Owner, error) {
	if owner, ok := c.fromMemory(hash); ok {
		c.hits.Inc()
		return owner, nil
	}
	c.misses.Inc()
	start := c.now()
	// The work is shared: it must not end with the request that happened to start it.
	ch := c.flight.DoChan(string(hash[:]), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		since := c.now()
		owner, err := c.users.TokenOwner(ctx, part, hash)
		if err == nil {
			c.remember(hash, owner, since)
		}
		return owner, err
	})
	select {
	case res := <-ch:
		if res.Err != nil {
			return userdb.Owner{}, res.Err
		}
		owner := res.Val.(userdb.Owner)
		if res.Shared && c.revokedSince(owner, start) {
			return c.users.TokenOwner(ctx, part, hash) // the shared look-up may have read before the revocation
		}
		return owner, nil
	case <-ctx.Done():
		return userdb.Owner{}, ctx.Err()
	}
}

func (c *Checker) fromMemory(hash userdb.TokenHash) (userdb.Owner, bool) {
	if !c.bus.Connected() {
		return userdb.Owner{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.tokens.Get(hash)
	if !ok {
		return userdb.Owner{}, false
	}
	if c.now().Sub(e.since) > c.cfg.CacheTTL || !c.valid(e.owner, e.since) {
		c.tokens.Remove(hash)
		return userdb.Owner{}, false
	}
	return e.owner, true
}

// valid reports whether nothing was revoked for the owner since a look-up began.
func (c *Checker) valid(o userdb.Owner, since time.Time) bool {
	if since.Before(c.floor) {
		return false
	}
	for _, k := range []revokedKey{{o.User, ""}, {o.User, o.Device}} {
		if at, ok := c.revoked.Peek(k); ok && !since.After(at) {
			return false
		}
	}
	return true
}

func (c *Checker) revokedSince(o userdb.Owner, since time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.valid(o, since)
}

func (c *Checker) remember(hash userdb.TokenHash, o userdb.Owner, since time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.valid(o, since) {
		c.tokens.Add(hash, cached{o, since})
	}
}

// masquerade returns whom an application service acts as (application service API, "Identity assertion").
func (c *Checker) masquerade(r *http.Request, s *appservice.Service) (*Identity, error) {
	i := &Identity{User: s.Sender, Appservice: s}
	q := r.URL.Query()
	if as := q.Get("user_id"); as != "" {
		u, err := id.ParseUser(as)
		if err != nil {
			return nil, merr.InvalidParam("user_id is not a user ID")
		}
		if !s.MayActAs(u) {
			return nil, merr.Forbidden("Application service cannot masquerade as this user (" + as + ").")
		}
		if u != s.Sender {
			a, err := c.users.Account(r.Context(), u)
			if errors.Is(err, userdb.ErrNotFound) {
				return nil, merr.Forbidden("Application service has not registered this user (" + as + ")")
			}
			if err != nil {
				return nil, err
			}
			if a.Deactivated {
				return nil, merr.UserDeactivated()
			}
		}
		i.User = u
	}
	device := q.Get("device_id")
	if device == "" {
		device = q.Get("org.matrix.msc3202.device_id") // MSC4326, before it was in the specification
	}
	if device == "" {
		return i, nil
	}
	_, err := c.users.Device(r.Context(), i.User, id.Device(device))
	if errors.Is(err, userdb.ErrNotFound) {
		return nil, merr.New(http.StatusBadRequest, merr.CodeUnknownDevice, "Application service trying to use a device that doesn't exist ("+device+")")
	}
	if err != nil {
		return nil, err
	}
	i.Device = id.Device(device)
	return i, nil
}

var errNoDevice = merr.MissingParam("device_id")
