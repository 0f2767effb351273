package fedout

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"hanse/pkg/admission"
	"hanse/pkg/keyring"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	fedv1 "hanse/proto/federation/v1"
)

// maxKeyQueries bounds one request for keys: the signers of a large room's state.
const maxKeyQueries = 20_000

// Keys implements fedv1.FedOutServer.
func (s *Service) Keys(ctx context.Context, in *fedv1.KeysRequest) (*fedv1.KeysResponse, error) {
	if len(in.Queries) > maxKeyQueries {
		return nil, merr.TooLarge("Too many keys at once")
	}
	byServer := make(map[id.Server]map[string]int64)
	for _, q := range in.Queries {
		server, err := id.ParseServer(q.Server)
		if err != nil || s.servers.IsLocal(server) {
			continue // nobody can have it
		}
		if byServer[server] == nil {
			byServer[server] = make(map[string]int64)
		}
		byServer[server][q.KeyId] = max(byServer[server][q.KeyId], q.MinimumValidUntilMs)
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var errs []error
	resp := new(fedv1.KeysResponse)
	// A request that waits for one key is let in at once, see keyFetcher. Those for many servers take turns.
	many := len(byServer) > 1
	for server, wanted := range byServer {
		if many {
			select {
			case s.keySlots <- struct{}{}:
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			if many {
				defer func() { <-s.keySlots }()
			}
			keys, err := s.keysOf(ctx, server, wanted, many)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
			}
			resp.Keys = append(resp.Keys, keys...)
		})
	}
	wg.Wait()
	return resp, errors.Join(append(errs, ctx.Err())...)
}

// keysOf returns the keys of one server that can be had, once it has those that are wanted or cannot get them; an empty
// name stands for a current one. The old ones among them are no less news than those that are wanted. One of many may take
// its time; see keyFetcher.
func (s *Service) keysOf(ctx context.Context, server id.Server, wanted map[string]int64, many bool) ([]*fedv1.ServerKey, error) {
	have, err := s.keys.KeysOf(ctx, server)
	if err != nil {
		return nil, err
	}
	if lacking(have, wanted) {
		err := s.fetcher.fetch(ctx, server, wanted, many)
		if err != nil {
			s.log.Debug("keys not fetched", "server", server, "err", err)
		}
		if have, err = s.keys.KeysOf(ctx, server); err != nil {
			return nil, err
		}
		if !errors.Is(err, errMadeRoom) {
			s.fetcher.judge(server, !lacking(have, wanted))
		}
	}
	out := make([]*fedv1.ServerKey, 0, len(have))
	for keyID, k := range have {
		out = append(out, &fedv1.ServerKey{Server: string(server), KeyId: keyID, PublicKey: k.Public, ValidUntilMs: k.ValidUntil, Expired: k.Expired})
	}
	return out, nil
}

// lacking says whether a wanted key is missing or was not valid at its time.
func lacking(have map[string]keyring.Key, wanted map[string]int64) bool {
	for keyID, at := range wanted {
		if keyID == "" {
			if !anyCurrent(have, at) {
				return true
			}
		} else if k, ok := have[keyID]; !ok || !k.Expired && !k.ValidAt(at) {
			return true // that an old key was not valid any more will not change
		}
	}
	return false
}

func anyCurrent(have map[string]keyring.Key, at int64) bool {
	for _, k := range have {
		if !k.Expired && k.ValidAt(at) {
			return true
		}
	}
	return false
}

// A server is not asked for keys again before a pause has passed, which doubles while the answers do not help: who
// signs with keys that do not exist makes us ask seldom.
const (
	keyPauseFirst = 5 * time.Second
	keyPauseMax   = 5 * time.Minute
)

// keyFetcher fetches keys, of one server once at a time.
//
// Whoever names a server in a request makes us ask it. One that does not answer must not keep others waiting: if keysUnderWay
// servers are asked already, the one that has been asked for the longest time makes room. Look-ups for many servers at once,
// which do not come from strangers and of which few are under way, need not.
type keyFetcher struct {
	s      *Service
	flight singleflight.Group
	pool   *admission.Pool

	mu    sync.Mutex
	pause *simplelru.LRU[id.Server, keyPause]
}

type keyPause struct {
	until   time.Time
	useless int
}

// keysUnderWay bounds the servers that are asked for their keys at once, for requests that wait for one key.
const keysUnderWay = 512

func newKeyFetcher(s *Service, reg prometheus.Registerer) *keyFetcher {
	pause, err := simplelru.NewLRU[id.Server, keyPause](20_000, nil)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &keyFetcher{s: s, pause: pause, pool: admission.New(admission.Config{Name: "key_fetches",
		Limits: map[string]int64{"fetches": keysUnderWay}, Registerer: reg})}
}

var (
	errKeyPause = errors.New("asked a moment ago")
	errMadeRoom = errors.New("made room for others")
)

// fetch asks the server, and then the trusted key servers, if the pause is over.
func (f *keyFetcher) fetch(ctx context.Context, server id.Server, wanted map[string]int64, many bool) error {
	ch := f.flight.DoChan(string(server), func() (any, error) {
		f.mu.Lock()
		p, _ := f.pause.Get(server)
		f.mu.Unlock()
		if time.Now().Before(p.until) {
			return nil, errKeyPause
		}
		// The answer serves all who wait for it, also if the first one gives up.
		ctx := context.WithoutCancel(ctx)
		if many {
			return nil, f.ask(ctx, server, wanted)
		}
		return nil, f.askOne(ctx, server, wanted)
	})
	select {
	case <-ctx.Done():
		return ctx.Err()
	case r := <-ch:
		return r.Err
	}
}

// askOne asks for one of few, which may have to make room.
func (f *keyFetcher) askOne(ctx context.Context, server id.Server, wanted map[string]int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	e := f.pool.Enter(cancel, admission.Name{Kind: "fetches"})
	defer e.Release()
	if err := e.Take(1); err != nil {
		return errors.Join(errMadeRoom, err)
	}
	err := f.ask(ctx, server, wanted)
	if err != nil && e.Evicted() {
		return errors.Join(errMadeRoom, err)
	}
	return err
}

func (f *keyFetcher) ask(ctx context.Context, server id.Server, wanted map[string]int64) error {
	err := f.s.fetchKeys(ctx, server)
	f.s.metrics.keys.WithLabelValues("server", result(err)).Inc()
	if err == nil {
		have, readErr := f.s.keys.KeysOf(ctx, server)
		if readErr != nil || !lacking(have, wanted) {
			return readErr
		}
	}
	for _, n := range f.s.keyServers {
		notary := id.Server(n)
		if notary == server || f.s.servers.IsLocal(notary) {
			continue
		}
		nErr := f.s.askNotary(ctx, notary, server, wanted)
		f.s.metrics.keys.WithLabelValues("notary", result(nErr)).Inc()
		if nErr == nil {
			return nil
		}
		err = errors.Join(err, nErr)
	}
	return err
}

func result(err error) string {
	if err != nil {
		return "failed"
	}
	return "ok"
}

// judge sets the pause after an attempt by whether it brought what was wanted.
func (f *keyFetcher) judge(server id.Server, helped bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, _ := f.pause.Get(server)
	now := time.Now()
	switch {
	case helped:
		p = keyPause{}
	case now.Before(p.until):
		return // not asked
	default:
		p.useless++
		p.until = now.Add(min(keyPauseFirst<<min(p.useless-1, 10), keyPauseMax))
	}
	f.pause.Add(server, p)
}
