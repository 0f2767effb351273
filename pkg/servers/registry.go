package servers

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/partition"
	"hanse/pkg/retries"
)

// ErrNotLocal is returned for names that this cluster does not serve.
var ErrNotLocal = errors.New("not a server of this cluster")

const (
	// reloadEvery is how often workers look for new keys.
	reloadEvery = 30 * time.Second
	// overlap is how long a key lives on after the next one was made: longer than any worker needs
	// to notice, and longer than the clocks of workers differ.
	overlap = 5 * time.Minute
)

// Shards says which database a partition lies in (pg.Shards).
type Shards interface {
	For(part uint32) *pgxpool.Pool
}

// VerifyKey is what others need to check our signatures.
type VerifyKey struct {
	KeyID  string
	Public ed25519.PublicKey
	// ExpiredTS is when the key stopped, or will stop, signing: milliseconds since 1970, 0 if that
	// is open.
	ExpiredTS int64
}

// Registry is the cluster's servers. It is safe for concurrent use.
type Registry struct {
	shards Shards
	names  []id.Server
	log    *slog.Logger
	now    func() time.Time
	every  time.Duration // between reloads
	keys   atomic.Pointer[map[id.Server]*keyring]
}

// keyring holds the keys of one name.
type keyring struct {
	current *signing.Key
	all     []VerifyKey
}

// Open loads the keys of the names, the first of which is the one for requests that name none, and
// makes the first key of names that have none. Run keeps them up to date.
func Open(ctx context.Context, shards Shards, names []id.Server, log *slog.Logger) (*Registry, error) {
	if len(names) == 0 {
		return nil, errors.New("servers: no server name")
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	r := &Registry{shards: shards, log: log, now: time.Now, every: reloadEvery}
	for _, n := range names {
		if _, err := id.ParseServer(string(n)); err != nil {
			return nil, fmt.Errorf("servers: %w", err)
		}
		if slices.Contains(r.names, n) {
			return nil, fmt.Errorf("servers: %s is listed twice", n)
		}
		r.names = append(r.names, n)
		if err := r.ensure(ctx, n); err != nil {
			return nil, err
		}
	}
	return r, r.Reload(ctx)
}

// Run reloads the keys from time to time until ctx ends.
func (r *Registry) Run(ctx context.Context) error {
	t := time.NewTicker(r.every)
	defer t.Stop()
	reloads := retries.Log{To: r.log, What: "reloading the signing keys"}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			if err := r.Reload(ctx); ctx.Err() == nil {
				reloads.Note(err)
			}
		}
	}
}

// Names are the cluster's server names, the default one first.
func (r *Registry) Names() []id.Server { return slices.Clone(r.names) }

// Default is the name for requests that name none.
func (r *Registry) Default() id.Server { return r.names[0] }

// IsLocal reports whether a name is one of ours.
func (r *Registry) IsLocal(server id.Server) bool { return slices.Contains(r.names, server) }

// ForHost returns the name that a request with this Host header is for: the name itself, or the
// longest one that the host is a subdomain of (matrix.example.org for example.org), else the
// default.
func (r *Registry) ForHost(host string) id.Server {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if slices.Contains(r.names, id.Server(host)) {
		return id.Server(host)
	}
	plain := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		plain = h
	}
	best := id.Server("")
	for _, n := range r.names {
		name, _ := n.HostPort()
		if (plain == name || strings.HasSuffix(plain, "."+name)) && len(n) > len(best) {
			best = n
		}
	}
	if best == "" {
		return r.names[0]
	}
	return best
}

// SigningKey returns the key with which a local server name signs now.
func (r *Registry) SigningKey(_ context.Context, server id.Server) (*signing.Key, error) {
	ring := (*r.keys.Load())[server]
	if ring == nil {
		return nil, fmt.Errorf("signing key of %s: %w", server, ErrNotLocal)
	}
	return ring.current, nil
}

// VerifyKeys returns all keys that a local server name ever signed with, newest first: those whose
// ExpiredTS has passed are the old_verify_keys.
func (r *Registry) VerifyKeys(server id.Server) ([]VerifyKey, error) {
	ring := (*r.keys.Load())[server]
	if ring == nil {
		return nil, fmt.Errorf("verify keys of %s: %w", server, ErrNotLocal)
	}
	return slices.Clone(ring.all), nil
}

// Reload reads the keys of all names.
func (r *Registry) Reload(ctx context.Context) error {
	rings := make(map[id.Server]*keyring, len(r.names))
	for _, n := range r.names {
		ring, err := r.load(ctx, n)
		if err != nil {
			return fmt.Errorf("load signing keys of %s: %w", n, err)
		}
		rings[n] = ring
	}
	if old := r.keys.Load(); old == nil || !maps.EqualFunc(*old, rings, func(a, b *keyring) bool { return a.current.ID == b.current.ID }) {
		for n, ring := range rings {
			r.log.Info("signing key", "server", n, "key", ring.current.ID)
		}
	}
	r.keys.Store(&rings)
	return nil
}

// storedKey is a row of signing_key.
type storedKey struct {
	key       *signing.Key
	createdTS int64
	expiredTS int64 // 0: open
}

// load reads the keys of one name; the current one is the newest of those that do not expire.
func (r *Registry) load(ctx context.Context, server id.Server) (*keyring, error) {
	part := partition.Of(string(server))
	rows, err := r.shards.For(part).Query(ctx, `
		SELECT key_id, seed, created_ts, coalesce(expired_ts, 0) FROM signing_key
		WHERE part = $1 AND server_name = $2`, int32(part), string(server))
	if err != nil {
		return nil, err
	}
	keys, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (k storedKey, err error) {
		var keyID string
		var seed []byte
		if err = row.Scan(&keyID, &seed, &k.createdTS, &k.expiredTS); err != nil {
			return k, err
		}
		k.key, err = signing.FromSeed(keyID, seed)
		return k, err
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(keys, func(a, b storedKey) int {
		return cmp.Or(cmp.Compare(b.createdTS, a.createdTS), strings.Compare(a.key.ID, b.key.ID))
	})
	ring := &keyring{}
	for _, k := range keys {
		if ring.current == nil && k.expiredTS == 0 {
			ring.current = k.key
		}
		ring.all = append(ring.all, VerifyKey{KeyID: k.key.ID, Public: k.key.Public(), ExpiredTS: k.expiredTS})
	}
	if ring.current == nil {
		return nil, errors.New("there is none that has not expired")
	}
	return ring, nil
}
