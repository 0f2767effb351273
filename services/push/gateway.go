package push

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"hanse/pkg/netguard"
)

const (
	// firstPause and longestPause bound how long a gateway that failed is left alone.
	firstPause   = time.Second
	longestPause = 5 * time.Minute
	// swiftFor is how long a gateway that has answered well counts as one that does.
	swiftFor = 10 * time.Minute
	// maxCrowd bounds the pushers that wait for a request to their gateway to end. Others are found by looking.
	maxCrowd = 4096
	// maxGateways bounds what is known of gateways; beyond it new ones wait until others are forgotten.
	maxGateways = 20_000
	webDial     = 5 * time.Second
)

// newWeb returns the client for push gateways. The guard sees each address when it is connected to, after each answer of DNS. There
// are no redirects, proxies, cookies or credentials.
func newWeb(cfg Config, guard *netguard.Guard, roots *x509.CertPool) *http.Client {
	if guard == nil {
		guard = new(netguard.Guard)
	}
	return &http.Client{
		Timeout: cfg.Timeout,
		Transport: &http.Transport{
			DialContext: guard.Dialer(webDial, nil).DialContext, ForceAttemptHTTP2: true, TLSHandshakeTimeout: webDial,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
			MaxResponseHeaderBytes: 64 << 10, MaxConnsPerHost: cfg.PerGateway, MaxIdleConnsPerHost: cfg.PerGateway, MaxIdleConns: cfg.Requests, IdleConnTimeout: time.Minute,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// gateways bounds the requests to push gateways.
type gateways struct {
	cfg     Config
	metrics *metrics

	mu     sync.Mutex
	known  map[string]*gateway
	swift  int // requests under way to gateways that answer well
	others int
}

// gateway is a push gateway, by scheme and host.
type gateway struct {
	busy     int
	failures int
	until    time.Time // not before
	good     time.Time // the last good answer
	used     time.Time
	// crowd are called when a request has ended: pushers that found no place.
	crowd []func()
}

func newGateways(cfg Config, m *metrics) *gateways {
	return &gateways{cfg: cfg, metrics: m, known: make(map[string]*gateway)}
}

// Why a request to a gateway cannot be made now.
var errCrowded = errors.New("the push gateway has as many requests under way as it may")

// pausedError says that a gateway is not asked before a time.
type pausedError struct{ until time.Time }

func (e *pausedError) Error() string {
	return "the push gateway has failed and is not asked before " + e.until.Format(time.RFC3339)
}

// pass is a request to a gateway that may be made.
type pass struct {
	g     *gateways
	to    *gateway
	swift bool
}

// enter lets a request be made, or says why not: again is called when it is worth another attempt.
func (g *gateways) enter(name string, again func()) (*pass, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	to := g.known[name]
	if to == nil {
		if len(g.known) >= maxGateways {
			return nil, errCrowded
		}
		to = new(gateway)
		g.known[name] = to
	}
	to.used = now
	if now.Before(to.until) {
		return nil, &pausedError{to.until}
	}
	swift := now.Sub(to.good) < swiftFor && to.failures == 0
	reserved := g.cfg.Requests / 4
	full := !swift && g.others >= reserved || swift && g.swift >= g.cfg.Requests-reserved
	if full || to.busy >= g.cfg.PerGateway || to.failures > 0 && to.busy > 0 {
		if len(to.crowd) < maxCrowd {
			to.crowd = append(to.crowd, again)
		}
		return nil, errCrowded
	}
	to.busy++
	if swift {
		g.swift++
	} else {
		g.others++
	}
	g.metrics.underWay.Inc()
	return &pass{g, to, swift}, nil
}

// leave ends a request. good says that the gateway has not failed, and answered that it has answered as one that works does: a good
// one that has not answered was not asked, and nothing is learned of it. retryAfter is how long it wants to be left alone, if it said
// so.
func (p *pass) leave(good, answered bool, retryAfter time.Duration) {
	g := p.g
	g.mu.Lock()
	p.to.busy--
	if p.swift {
		g.swift--
	} else {
		g.others--
	}
	g.metrics.underWay.Dec()
	now := time.Now()
	switch {
	case good && !answered:
	case good:
		p.to.failures, p.to.until, p.to.good = 0, time.Time{}, now
	case !now.Before(p.to.until): // the first one that fails of those that were under way
		p.to.failures++
		pause := min(firstPause<<min(p.to.failures-1, 20), longestPause)
		p.to.until = now.Add(max(pause/2+rand.N(pause/2), min(retryAfter, time.Hour)))
	}
	again := p.to.crowd
	switch {
	case now.Before(p.to.until): // all learn of the pause
	case p.to.failures == 0: // there is room for some
		again = again[:min(len(again), g.cfg.PerGateway-p.to.busy)]
	default: // one may try
		again = again[:min(len(again), max(0, 1-p.to.busy))]
	}
	p.to.crowd = p.to.crowd[len(again):]
	g.mu.Unlock()
	for _, f := range again {
		f()
	}
}

// look forgets gateways that nobody has asked for a while, and sets the gauge.
func (g *gateways) look() {
	g.mu.Lock()
	defer g.mu.Unlock()
	paused := 0
	defer func() { g.metrics.paused.Set(float64(paused)) }()
	for name, to := range g.known {
		if to.failures > 0 {
			paused++
		}
		if to.busy == 0 && time.Since(to.used) > 2*swiftFor {
			delete(g.known, name)
		}
	}
}
