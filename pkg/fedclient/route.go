package fedclient

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/sync/singleflight"

	"hanse/pkg/matrix/id"
)

// Route is where a server name leads.
type Route struct {
	// Targets are host and port of what is connected to, the first one first.
	Targets []string
	// TLSName is the name that the certificate must have: a DNS name or an address.
	TLSName string
	// Host is the Host header.
	Host string

	key     string // names the route's pool of connections
	expires time.Time
	// fallback: the .well-known could not be had, and the route is what is left.
	fallback bool
}

const (
	defaultPort = "8448"
	// srvTTL is how long SRV records are believed; the resolver does not tell their own time.
	srvTTL = 10 * time.Minute
	// unsure is how long a route is kept that was found although DNS did not answer properly.
	unsure = 30 * time.Second
	// lookupTimeout bounds the look-up of a route, all its steps together.
	lookupTimeout = 30 * time.Second
)

// resolver finds and remembers routes.
type resolver struct {
	cfg       *Config
	wellKnown *wellKnown
	metrics   *metrics
	flight    singleflight.Group

	mu     sync.Mutex
	routes *simplelru.LRU[id.Server, *Route]
}

func newResolver(cfg *Config, m *metrics) *resolver {
	routes, err := simplelru.NewLRU[id.Server, *Route](cfg.Routes, nil)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &resolver{cfg: cfg, wellKnown: newWellKnown(cfg, m), metrics: m, routes: routes}
}

// route returns where a server name leads.
func (r *resolver) route(ctx context.Context, server id.Server) (*Route, error) {
	r.mu.Lock()
	rt, ok := r.routes.Get(server)
	r.mu.Unlock()
	if ok && time.Now().Before(rt.expires) {
		r.metrics.routes.WithLabelValues("hit").Inc()
		return rt, nil
	}
	r.metrics.routes.WithLabelValues("miss").Inc()
	ch := r.flight.DoChan(string(server), func() (any, error) {
		// The look-up serves all who wait for it, also if the first one gives up.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookupTimeout)
		defer cancel()
		rt, err := r.find(ctx, server)
		if err != nil {
			return nil, err
		}
		rt.key = poolKey(server, rt)
		r.mu.Lock()
		r.routes.Add(server, rt)
		r.mu.Unlock()
		return rt, nil
	})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case res := <-ch:
		if res.Err != nil {
			return nil, res.Err
		}
		return res.Val.(*Route), nil
	}
}

// forget drops a route that did not work, so that it is looked up anew. What a .well-known said stays in force.
func (r *resolver) forget(server id.Server, rt *Route) {
	r.mu.Lock()
	if now, ok := r.routes.Peek(server); ok && now == rt {
		r.routes.Remove(server)
	}
	r.mu.Unlock()
	if rt.fallback {
		r.wellKnown.retrySoon(server)
	}
}

// find follows the steps of "Resolving server names".
func (r *resolver) find(ctx context.Context, server id.Server) (*Route, error) {
	if _, err := id.ParseServer(string(server)); err != nil {
		return nil, err
	}
	host, port := server.HostPort()
	if rt := literalOrPort(server, host, port); rt != nil { // steps 1 and 2
		return rt, nil
	}
	wk := r.wellKnown.get(ctx, server) // step 3
	if wk.server == "" {
		rt, err := r.bySRV(ctx, host) // steps 4 to 6
		if err != nil {
			return nil, err
		}
		rt.fallback = true
		rt.expires = earlier(rt.expires, wk.expires)
		return rt, nil
	}
	host, port = wk.server.HostPort()
	rt := literalOrPort(wk.server, host, port) // steps 3.1 and 3.2
	if rt == nil {
		var err error
		if rt, err = r.bySRV(ctx, host); err != nil { // steps 3.3 to 3.5
			return nil, err
		}
	}
	rt.expires = earlier(rt.expires, wk.expires)
	return rt, nil
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// literalOrPort is the route of a name that is an address or has a port; nil for others.
func literalOrPort(server id.Server, host, port string) *Route {
	rt := &Route{TLSName: host, Host: string(server), expires: time.Now().Add(24 * time.Hour)}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	switch {
	case err == nil:
		rt.TLSName = addr.String()
		if port == "" {
			port = defaultPort
		}
	case port == "":
		return nil
	}
	rt.Targets = []string{net.JoinHostPort(rt.TLSName, port)}
	return rt
}

// bySRV looks for SRV records of a host name; without any it is the host itself at the default port.
func (r *resolver) bySRV(ctx context.Context, host string) (*Route, error) {
	rt := &Route{TLSName: host, Host: host, expires: time.Now().Add(srvTTL)}
	for _, service := range []string{"matrix-fed", "matrix"} { // the second is deprecated, and still in use
		// With the final dot nobody's search domains come into it.
		_, records, err := r.cfg.Resolver.LookupSRV(ctx, service, "tcp", host+".")
		var dnsErr *net.DNSError
		if err != nil && !(errors.As(err, &dnsErr) && dnsErr.IsNotFound) {
			if ctx.Err() != nil {
				return nil, fmt.Errorf("look up SRV records of %s: %w", host, err)
			}
			// DNS did not say that there are none. What follows may be wrong, so it is not believed for long.
			rt.expires = time.Now().Add(unsure)
			r.cfg.Log.Debug("SRV look-up", "service", service, "host", host, "err", err)
		}
		for _, rec := range records {
			target := strings.TrimSuffix(rec.Target, ".")
			if target == "" {
				if len(records) == 1 {
					return nil, fmt.Errorf("%s says that it has no Matrix server (SRV target %q)", host, rec.Target) // RFC 2782
				}
				continue
			}
			rt.Targets = append(rt.Targets, net.JoinHostPort(target, strconv.Itoa(int(rec.Port))))
		}
		if len(rt.Targets) > 0 {
			rt.Targets = rt.Targets[:min(len(rt.Targets), maxTargets)]
			return rt, nil
		}
	}
	rt.Targets = []string{net.JoinHostPort(host, defaultPort)}
	return rt, nil
}

// maxTargets bounds how many SRV records are tried.
const maxTargets = 4

// poolKey names the pool of connections of a route, as a host name that no two routes share.
func poolKey(server id.Server, rt *Route) string {
	h := sha256.New()
	for _, s := range append([]string{string(server), rt.TLSName, rt.Host}, rt.Targets...) {
		h.Write([]byte(s))
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil)[:12]) + ".pool"
}
