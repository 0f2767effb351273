package keyring

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

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
	Budget     int64
	Log        *slog.Logger          // may be nil
	Registerer prometheus.Registerer // may be nil
}

// Ring verifies signatures. It is safe for concurrent use; a process has one.
type Ring struct {
	store   *Store
	servers Servers
	fetcher Fetcher
	log     *slog.Logger
	cache   *cache.Cache[Name, Key]
	verify  chan struct{} // slots of ed25519 verifications in batches
}

// New returns a ring.
func New(d Deps) *Ring {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Budget == 0 {
		d.Budget = 8 << 20
	}
	return &Ring{
		store: d.Store, servers: d.Servers, fetcher: d.Fetcher, log: d.Log,
		verify: make(chan struct{}, runtime.GOMAXPROCS(0)),
		cache: cache.New(cache.Config[Name, Key]{
			Name: "server_key", Budget: d.Budget, MaxAge: time.Hour, Metrics: d.Registerer,
			Weigh: func(n Name, _ Key) int64 { return int64(len(n.Server)+len(n.KeyID)) + 240 },
		}),
	}
}

const (
	// keysPerSigner bounds the signatures of one server on one object that are looked at.
	keysPerSigner = 5
	// fetchTimeout bounds the wait for keys that are not stored.
	fetchTimeout = 30 * time.Second
)

// Keys returns the keys, as far as they can be had, that were valid at the given times (milliseconds since 1970). A
// key of which only an older state can be had is returned as well: ask ValidAt. The error is that of our own parts;
// that a server does not answer is not one.
func (r *Ring) Keys(ctx context.Context, wanted map[Name]int64) (map[Name]Key, error) {
	found := make(map[Name]Key, len(wanted))
	var missing []Name
	for n, at := range wanted {
		if r.servers.IsLocal(n.Server) {
			if err := r.ownKey(n, found); err != nil {
				return nil, err
			}
			continue
		}
		k, ok := r.cache.Get(n)
		if ok {
			found[n] = k
		}
		if !ok || !k.ValidAt(at) {
			missing = append(missing, n)
		}
	}
	if len(missing) == 0 {
		return found, nil
	}
	stored, err := r.store.Keys(ctx, missing)
	if err != nil {
		return nil, err
	}
	req := new(fedv1.KeysRequest)
	for _, n := range missing {
		if k, ok := stored[n]; ok {
			r.keep(found, n, k)
		}
		if !found[n].ValidAt(wanted[n]) {
			req.Queries = append(req.Queries, &fedv1.KeyQuery{Server: string(n.Server), KeyId: n.KeyID, MinimumValidUntilMs: wanted[n]})
		}
	}
	return found, r.fetch(ctx, req, found)
}

// keep notes a key here and in memory.
func (r *Ring) keep(found map[Name]Key, n Name, k Key) {
	found[n] = k
	r.cache.Add(n, k)
}

// fetch asks fedout for keys. That it cannot get them is not an error.
func (r *Ring) fetch(ctx context.Context, req *fedv1.KeysRequest, found map[Name]Key) error {
	if len(req.Queries) == 0 || r.fetcher == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	resp, err := r.fetcher.Keys(ctx, req)
	if err != nil {
		return fmt.Errorf("fetch server keys: %w", err)
	}
	for _, k := range resp.Keys {
		if len(k.PublicKey) == ed25519.PublicKeySize {
			r.keep(found, Name{id.Server(k.Server), k.KeyId}, Key{k.PublicKey, k.ValidUntilMs, k.Expired})
		}
	}
	return nil
}

// ownKey finds a key of a server of ours.
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
// received events"), with one look-up for all of them. The errors are those of the single events, in their order:
// signing.ErrSignature or ErrNoKey. The last result is the error of our own parts: then nothing is known.
func (r *Ring) VerifyEvents(ctx context.Context, pdus []*event.PDU) ([]error, error) {
	wanted := make(map[Name]int64)
	signers := make([][]signer, len(pdus))
	for i, pdu := range pdus {
		for _, server := range pdu.SigningServers() {
			sg := signer{server: server, names: keyNames(pdu.JSON, server)}
			if pdu.Rules.EnforceKeyValidity {
				sg.at = pdu.OriginServerTS
			}
			for _, n := range sg.names {
				wanted[n] = max(wanted[n], sg.at)
			}
			signers[i] = append(signers[i], sg)
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
	var g errgroup.Group
	g.SetLimit(cap(r.verify))
	for i, pdu := range pdus {
		g.Go(func() error {
			r.verify <- struct{}{}
			defer func() { <-r.verify }()
			errs[i] = verifyEvent(pdu, signers[i], keys)
			return nil
		})
	}
	_ = g.Wait() // no function returns an error
	return errs, nil
}

// signer is a server that must have signed an event, and the names of the keys that it is said to have used.
type signer struct {
	server id.Server
	names  []Name
	at     int64
}

func verifyEvent(pdu *event.PDU, signers []signer, keys map[Name]Key) error {
	if len(signers) == 0 {
		return fmt.Errorf("event %s: %w: nobody to sign it", pdu.ID, signing.ErrSignature)
	}
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
