package keyring

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"hanse/pkg/bus"
	"hanse/pkg/cache"
	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/servers"
	fedv1 "hanse/proto/federation/v1"
)

// ErrNoKey is returned when the key of a signature is not to be had, now, or was not valid at the time.
var ErrNoKey = errors.New("no valid verify key")

// Servers are the names that this cluster serves (servers.Registry).
type Servers interface {
	IsLocal(server id.Server) bool
	VerifyKeys(server id.Server) ([]servers.VerifyKey, error)
}

// Fetcher gets keys that are not stored (federation.v1.FedOutClient).
type Fetcher interface {
	Keys(ctx context.Context, in *fedv1.KeysRequest, opts ...grpc.CallOption) (*fedv1.KeysResponse, error)
}

// Deps is what a ring works with.
type Deps struct {
	Store   *Store
	Servers Servers
	Fetcher Fetcher
	// Budget is the memory for keys, in bytes (default 8 MiB).
	Budget int64
	// FetchTimeout bounds the wait for keys that are not stored (default 30 s).
	FetchTimeout time.Duration
	// Each calls a function for many events, with some at a time; nil for as many as there are processors.
	Each       func(ctx context.Context, n int, fn func(i int)) error
	Log        *slog.Logger          // may be nil
	Registerer prometheus.Registerer // may be nil
}

// Ring verifies signatures. It is safe for concurrent use.
type Ring struct {
	store   *Store
	servers Servers
	fetcher Fetcher
	timeout time.Duration
	log     *slog.Logger
	// cache holds all keys of a server together: an answer that declares one old does so for all that is remembered.
	cache *cache.Cache[id.Server, map[string]Key]
	each  func(ctx context.Context, n int, fn func(i int)) error
}

// New returns a ring.
func New(d Deps) *Ring {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	r := &Ring{
		store: d.Store, servers: d.Servers, fetcher: d.Fetcher, timeout: cmp.Or(d.FetchTimeout, fetchTimeout), log: d.Log, each: d.Each,
		cache: cache.New(cache.Config[id.Server, map[string]Key]{
			Name: "server_key", Budget: cmp.Or(d.Budget, 8<<20), MaxAge: maxAge, Metrics: d.Registerer,
			Weigh: func(server id.Server, keys map[string]Key) int64 {
				return int64(len(server)+120) + 160*int64(len(keys))
			},
		}),
	}
	if r.each == nil {
		r.each = newSlots().each
	}
	return r
}

const (
	// keysPerSigner bounds the signatures of one server on one object that are looked at.
	keysPerSigner = 5
	fetchTimeout  = 30 * time.Second
	// maxAge is for how long keys are remembered if the bus does not tell that there are newer ones.
	maxAge = 10 * time.Minute
)

// Follow makes the ring forget the keys of servers that another worker has fetched anew, until stop is called.
func (r *Ring) Follow(b *bus.Bus) (stop func(), err error) {
	sub, err := b.SubscribeKeys(func(server string) { r.cache.Remove(id.Server(server)) })
	if err != nil {
		return nil, err
	}
	cancel := b.OnReconnect(r.cache.Purge) // what was told meanwhile is lost
	return func() {
		cancel()
		if err := sub.Stop(); err != nil {
			r.log.Debug("unsubscribe", "err", err)
		}
	}, nil
}

// Keys returns the keys, as far as they can be had, that were valid at the given times (milliseconds since 1970). A
// key of which only an older state can be had is returned as well: ask ValidAt. The error is that of our own parts;
// that a server does not answer is not one.
func (r *Ring) Keys(ctx context.Context, wanted map[Name]int64) (map[Name]Key, error) {
	found := make(map[Name]Key, len(wanted))
	asked := make(map[id.Server]bool)
	var missing []Name
	var of []id.Server
	for n, at := range wanted {
		if r.servers.IsLocal(n.Server) {
			if err := r.ownKey(n, found); err != nil {
				return nil, err
			}
			continue
		}
		keys, _ := r.cache.Get(n.Server)
		if k, ok := keys[n.KeyID]; ok {
			found[n] = k
		}
		if found[n].ValidAt(at) {
			continue
		}
		missing = append(missing, n)
		if !asked[n.Server] {
			asked[n.Server] = true
			of = append(of, n.Server)
		}
	}
	if len(missing) == 0 {
		return found, nil
	}
	stored, err := r.store.KeysOfAll(ctx, of)
	if err != nil {
		return nil, err
	}
	for server, keys := range stored {
		r.cache.Add(server, keys)
	}
	req := new(fedv1.KeysRequest)
	for _, n := range missing {
		if k, ok := stored[n.Server][n.KeyID]; ok {
			found[n] = k
		}
		if !found[n].ValidAt(wanted[n]) {
			req.Queries = append(req.Queries, &fedv1.KeyQuery{Server: string(n.Server), KeyId: n.KeyID, MinimumValidUntilMs: wanted[n]})
		}
	}
	return found, r.fetch(ctx, req, found)
}

// fetch asks fedout for keys. That it cannot get them is not an error. The answer has all keys of a server: those that it
// does not list as current any more are old from now on, whoever remembered them.
func (r *Ring) fetch(ctx context.Context, req *fedv1.KeysRequest, found map[Name]Key) error {
	if len(req.Queries) == 0 || r.fetcher == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	resp, err := r.fetcher.Keys(ctx, req)
	if err != nil {
		return fmt.Errorf("fetch server keys: %w", err)
	}
	fresh := make(map[id.Server]map[string]Key)
	for _, k := range resp.Keys {
		if len(k.PublicKey) != ed25519.PublicKeySize {
			continue
		}
		server := id.Server(k.Server)
		if fresh[server] == nil {
			fresh[server] = make(map[string]Key, 1)
			if known, ok := r.cache.Get(server); ok {
				maps.Copy(fresh[server], known)
			}
		}
		fresh[server][k.KeyId] = Key{k.PublicKey, k.ValidUntilMs, k.Expired}
	}
	for server, keys := range fresh {
		r.cache.Add(server, keys)
	}
	for _, q := range req.Queries {
		n := Name{id.Server(q.Server), q.KeyId}
		if k, ok := fresh[n.Server][n.KeyID]; ok {
			found[n] = k
		}
	}
	return nil
}

// ownKey finds a key of a local server.
func (r *Ring) ownKey(n Name, found map[Name]Key) error {
	own, err := r.servers.VerifyKeys(n.Server)
	if err != nil {
		return err
	}
	for _, k := range own {
		if k.KeyID == n.KeyID {
			key := Key{Public: k.Public, ValidUntil: 1<<63 - 1}
			if k.ExpiredTS != 0 {
				key.ValidUntil, key.Expired = k.ExpiredTS, k.ExpiredTS <= time.Now().UnixMilli()
			}
			found[n] = key
		}
	}
	return nil
}

// VerifyJSON verifies that a server signed an object with one of its keys that was valid at a time, in milliseconds
// since 1970; 0 accepts keys that are no longer valid. The object may be in any form that has a canonical one.
func (r *Ring) VerifyJSON(ctx context.Context, server id.Server, obj []byte, validAt int64) error {
	canonical, err := canonjson.CanonicalLoose(obj)
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	names := keyNames(canonical, server)
	wanted := make(map[Name]int64, len(names))
	for _, n := range names {
		wanted[n] = validAt
	}
	keys, err := r.Keys(ctx, wanted)
	if err != nil {
		return err
	}
	return try(server, names, keys, validAt, func(n Name, k Key) error {
		return signing.VerifyJSON(canonical, server, n.KeyID, k.Public)
	})
}

// VerifyRequest verifies the Authorization header of a request (server-server API, "Request Authentication"). The key
// must be current: old keys sign events only.
func (r *Ring) VerifyRequest(ctx context.Context, x signing.XMatrix, method, uri string, content []byte) error {
	n := Name{x.Origin, x.KeyID}
	now := time.Now().UnixMilli()
	keys, err := r.Keys(ctx, map[Name]int64{n: now})
	if err != nil {
		return err
	}
	k, ok := keys[n]
	if !ok || k.Expired || !k.ValidAt(now) {
		return fmt.Errorf("key %s of %s: %w", x.KeyID, x.Origin, ErrNoKey)
	}
	return signing.VerifyRequest(x, method, uri, content, k.Public)
}

// VerifyEvent verifies the signatures that an event must have; see VerifyEvents.
func (r *Ring) VerifyEvent(ctx context.Context, pdu *event.PDU) error {
	errs, err := r.VerifyEvents(ctx, []*event.PDU{pdu})
	if err != nil {
		return err
	}
	return errs[0]
}

// VerifyEvents verifies the signatures that events must have (server-server API, "Validating hashes and signatures on
// received events"), with one look-up for all of them. Nobody need have signed an invite by a third party in the room
// versions whose event ids name no server: its sender may be of another server than who sends it, and the auth rules look
// at the signature of the third party. The errors are those of the single events, in their order: signing.ErrSignature or
// ErrNoKey. The last result is the error of our own parts: then nothing is known.
func (r *Ring) VerifyEvents(ctx context.Context, pdus []*event.PDU) ([]error, error) {
	wanted := make(map[Name]int64)
	signers := make([][]signer, len(pdus))
	for i, pdu := range pdus {
		for _, server := range pdu.SigningServers() {
			signers[i] = append(signers[i], signerOf(pdu, server, wanted))
		}
	}
	keys, err := r.Keys(ctx, wanted)
	if err != nil {
		return nil, err
	}
	errs := make([]error, len(pdus))
	if len(pdus) == 1 {
		errs[0] = verifyEvent(pdus[0], signers[0], keys)
		return errs, nil
	}
	return errs, r.each(ctx, len(pdus), func(i int) { errs[i] = verifyEvent(pdus[i], signers[i], keys) })
}

// VerifyEventBy verifies the signature of one server on an event, by the same rules: that of a server that has signed it
// beside its sender's, or while others' are not there yet.
func (r *Ring) VerifyEventBy(ctx context.Context, pdu *event.PDU, server id.Server) error {
	wanted := make(map[Name]int64)
	sg := signerOf(pdu, server, wanted)
	keys, err := r.Keys(ctx, wanted)
	if err != nil {
		return err
	}
	return verifyEvent(pdu, []signer{sg}, keys)
}

// signerOf finds the keys by which a server says it has signed an event, and notes when they have to be valid.
func signerOf(pdu *event.PDU, server id.Server, wanted map[Name]int64) signer {
	sg := signer{server: server, names: keyNames(pdu.JSON, server)}
	if pdu.Rules.EnforceKeyValidity {
		sg.at = pdu.OriginServerTS
	}
	for _, n := range sg.names {
		wanted[n] = max(wanted[n], sg.at)
	}
	return sg
}

// slots bound how many signatures of a batch are verified at once.
type slots chan struct{}

func newSlots() slots { return make(slots, runtime.GOMAXPROCS(0)) }

func (s slots) each(_ context.Context, n int, fn func(i int)) error {
	var g errgroup.Group
	g.SetLimit(cap(s))
	for i := range n {
		g.Go(func() error {
			s <- struct{}{}
			defer func() { <-s }()
			fn(i)
			return nil
		})
	}
	return g.Wait()
}

// signer is a server that must have signed an event, and the names of the keys that it is said to have used.
type signer struct {
	server id.Server
	names  []Name
	at     int64
}

func verifyEvent(pdu *event.PDU, signers []signer, keys map[Name]Key) error {
	for _, sg := range signers {
		err := try(sg.server, sg.names, keys, sg.at, func(n Name, k Key) error {
			return pdu.Verify(n.Server, n.KeyID, k.Public)
		})
		if err != nil {
			return fmt.Errorf("event %s: %w", pdu.ID, err)
		}
	}
	return nil
}

// try returns nil if one of the signatures verifies with a key that was valid at the time.
func try(server id.Server, names []Name, keys map[Name]Key, at int64, verify func(Name, Key) error) error {
	if len(names) == 0 {
		return fmt.Errorf("no signature of %s: %w", server, signing.ErrSignature)
	}
	var errs []error
	for _, n := range names {
		k, ok := keys[n]
		switch {
		case !ok || k.Public == nil:
			errs = append(errs, fmt.Errorf("key %s of %s: %w", n.KeyID, server, ErrNoKey))
		case !k.ValidAt(at):
			errs = append(errs, fmt.Errorf("key %s of %s: %w at %d", n.KeyID, server, ErrNoKey, at))
		default:
			err := verify(n, k)
			if err == nil {
				return nil
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// keyNames returns the keys by which a server signed a canonical object, no more than a few.
func keyNames(obj []byte, server id.Server) []Name {
	ids := slices.DeleteFunc(signing.SignatureKeyIDs(obj, server), func(s string) bool { return signing.CheckKeyID(s) != nil })
	names := make([]Name, 0, len(ids))
	for _, keyID := range ids[:min(len(ids), keysPerSigner)] {
		names = append(names, Name{server, keyID})
	}
	return names
}

var _ Servers = (*servers.Registry)(nil)
