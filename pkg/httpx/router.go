package httpx

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"hanse/pkg/admission"
	"hanse/pkg/merr"
)

// Handler answers a request, or returns why it cannot.
type Handler func(w http.ResponseWriter, r *http.Request) error

// Middleware wraps a Handler: authentication, rate limits.
type Middleware func(Handler) Handler

// RouterConfig is what a Router needs; the zero value works.
type RouterConfig struct {
	// Name labels the metrics: "client", "federation".
	Name string
	// CORS adds the headers of the client-server API, "Web browser clients", to every answer, and
	// answers OPTIONS.
	CORS bool
	// MaxBody bounds request bodies in bytes unless the route says otherwise (default 1 MiB).
	MaxBody int64
	// MaxConcurrent bounds the requests that are worked on, long polls apart (default 4096); beyond
	// it requests get 429 M_LIMIT_EXCEEDED at once. Those whose body has not arrived do not count.
	MaxConcurrent int
	// MaxPolls bounds the long polls in progress (default 100,000).
	MaxPolls int
	// Intake takes the request bodies in; nil: one of the router's own.
	Intake *Intake
	// TrustedProxies may name the client in X-Forwarded-For.
	TrustedProxies []netip.Prefix
	// Tracer is nil if nothing is traced.
	Tracer     trace.Tracer
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Router finds the handler of a request.
type Router struct {
	cfg     RouterConfig
	root    *node
	metrics *metrics
	busy    chan struct{}
	polls   chan struct{}
}

// Route is an endpoint under one or more patterns.
type Route struct {
	handler Handler
	pattern string // the first one, for metrics and traces
	maxBody int64
	long    bool
	metric  *routeMetrics
}

// Option changes a route.
type Option func(*Route)

// MaxBody sets the largest request body in bytes.
func MaxBody(n int64) Option { return func(r *Route) { r.maxBody = n } }

// LongPoll says that requests of the route wait: they are bounded by MaxPolls, not by
// MaxConcurrent, and their duration stays out of the latency metrics.
func LongPoll() Option { return func(r *Route) { r.long = true } }

// NewRouter returns a router without routes.
func NewRouter(cfg RouterConfig) *Router {
	if cfg.MaxBody <= 0 {
		cfg.MaxBody = 1 << 20
	}
	if cfg.MaxConcurrent <= 0 {
		cfg.MaxConcurrent = 4096
	}
	if cfg.MaxPolls <= 0 {
		cfg.MaxPolls = 100_000
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Intake == nil {
		cfg.Intake = NewIntake(DefaultIntake(), nil)
	}
	return &Router{cfg: cfg, root: &node{}, metrics: newMetrics(cfg.Registerer, cfg.Name),
		busy: make(chan struct{}, cfg.MaxConcurrent), polls: make(chan struct{}, cfg.MaxPolls)}
}

// Group registers routes under prefixes and behind middleware.
type Group struct {
	router   *Router
	prefixes []string
	wrap     []Middleware
}

// Group returns a group of routes that all exist under each of the prefixes:
//
//	rt.Group("/_matrix/client/v3", "/_matrix/client/r0")
func (rt *Router) Group(prefixes ...string) *Group {
	return &Group{router: rt, prefixes: prefixes}
}

// With returns the same group behind more middleware; the first given runs first.
func (g *Group) With(mw ...Middleware) *Group {
	return &Group{router: g.router, prefixes: g.prefixes, wrap: append(slices.Clone(g.wrap), mw...)}
}

// Handle registers a handler for "METHOD /path/{name}". A last segment "{name...}" takes the rest of
// the path, undecoded segments joined by "/". A bad or doubled pattern panics: it is a mistake in the
// program, and shows when it starts.
func (g *Group) Handle(pattern string, h Handler, opts ...Option) {
	method, path, ok := strings.Cut(pattern, " ")
	if !ok || !strings.HasPrefix(path, "/") {
		panic(fmt.Sprintf("httpx: bad pattern %q", pattern))
	}
	for i := len(g.wrap) - 1; i >= 0; i-- {
		h = g.wrap[i](h)
	}
	route := &Route{handler: h, pattern: g.prefixes[0] + path, maxBody: g.router.cfg.MaxBody}
	for _, o := range opts {
		o(route)
	}
	route.metric = g.router.metrics.route(method, route.pattern)
	for _, prefix := range g.prefixes {
		g.router.root.add(method, prefix+path, route)
	}
}

// Handle registers a handler for one full pattern.
func (rt *Router) Handle(pattern string, h Handler, opts ...Option) {
	rt.Group("").Handle(pattern, h, opts...)
}

// Patterns lists all routes as "METHOD /path", sorted.
func (rt *Router) Patterns() []string {
	all := rt.root.patterns("", nil)
	slices.Sort(all)
	return all
}

// node is one segment of the tree of paths.
type node struct {
	static  map[string]*node
	param   *node
	rest    bool // this parameter takes all that is left
	methods map[string]*leaf
}

type leaf struct {
	route *Route
	names []string
}

func (n *node) add(method, path string, route *Route) {
	var names []string
	for seg := range strings.SplitSeq(path[1:], "/") {
		name, isParam := strings.CutPrefix(seg, "{")
		if !isParam {
			if n.static == nil {
				n.static = make(map[string]*node)
			}
			if n.static[seg] == nil {
				n.static[seg] = &node{}
			}
			n = n.static[seg]
			continue
		}
		name, rest := strings.CutSuffix(strings.TrimSuffix(name, "}"), "...")
		names = append(names, name)
		if n.param == nil {
			n.param = &node{rest: rest}
		}
		if n = n.param; n.rest != rest {
			panic(fmt.Sprintf("httpx: %s %s contradicts another pattern", method, path))
		}
	}
	if n.methods == nil {
		n.methods = make(map[string]*leaf)
	}
	if n.methods[method] != nil {
		panic(fmt.Sprintf("httpx: %s %s is registered twice", method, path))
	}
	n.methods[method] = &leaf{route, names}
}

// find walks an escaped path. Static segments win over parameters; values collects the undecoded
// parameters.
func (n *node) find(path string, values []string) (*node, []string) {
	seg, left, more := strings.Cut(path, "/")
	if next := n.static[seg]; next != nil {
		if !more {
			if next.methods != nil {
				return next, values
			}
		} else if found, vals := next.find(left, values); found != nil {
			return found, vals
		}
	}
	if strings.Contains(seg, "%") {
		// A literal segment may be percent-encoded too: "m%2Elogin" is the same path.
		if plain, err := url.PathUnescape(seg); err == nil && n.static[plain] != nil && !more && n.static[plain].methods != nil {
			return n.static[plain], values
		}
	}
	p := n.param
	switch {
	case p == nil:
		return nil, nil
	case p.rest:
		return p, append(values, path)
	case !more:
		if p.methods == nil {
			return nil, nil
		}
		return p, append(values, seg)
	default:
		return p.find(left, append(values, seg))
	}
}

func (n *node) patterns(path string, all []string) []string {
	for method := range n.methods {
		all = append(all, method+" "+path)
	}
	for seg, next := range n.static {
		all = next.patterns(path+"/"+seg, all)
	}
	if n.param != nil {
		all = n.param.patterns(path+"/{}", all)
	}
	return all
}

// match finds the route and the decoded path parameters of a request.
func (rt *Router) match(r *http.Request) (*leaf, []string, *merr.Error) {
	path := r.URL.EscapedPath()
	if !strings.HasPrefix(path, "/") {
		return nil, nil, merr.Unrecognized(http.StatusNotFound)
	}
	var buf [6]string
	n, values := rt.root.find(path[1:], buf[:0])
	if n == nil || n.methods == nil {
		return nil, nil, merr.Unrecognized(http.StatusNotFound)
	}
	l := n.methods[r.Method]
	if l == nil && r.Method == http.MethodHead {
		l = n.methods[http.MethodGet]
	}
	if l == nil {
		return nil, nil, merr.Unrecognized(http.StatusMethodNotAllowed)
	}
	for i, v := range values {
		if !strings.Contains(v, "%") {
			continue
		}
		plain, err := url.PathUnescape(v)
		if err != nil {
			return nil, nil, merr.InvalidParam("The path is not properly percent-encoded")
		}
		values[i] = plain
	}
	return l, values, nil
}

// Param returns a path parameter, percent-decoded.
func Param(r *http.Request, name string) string {
	s := stateOf(r)
	if s == nil {
		return ""
	}
	for i, n := range s.names {
		if n == name {
			return s.values[i]
		}
	}
	return ""
}

type stateKey struct{}

// state is what the router knows of a request in progress.
type state struct {
	route  *Route
	names  []string
	values []string
	client netip.Addr
	w      *response
	intake *Intake

	slots   chan struct{}
	hasSlot bool
	refused prometheus.Counter // counts that there was none

	user   string           // who sends the body, if that is known
	body   *admission.Entry // what the body holds; nil if there is none
	cancel func()           // of the context that read has made; may be nil
	// bodyFailed says that there is an answer to give although the connection cannot be read any more.
	bodyFailed atomic.Bool
}

// release gives back what the request holds.
func (s *state) release() {
	s.giveSlot()
	if s.body != nil {
		s.body.Release()
	}
	if s.cancel != nil {
		s.cancel()
	}
}

func stateOf(r *http.Request) *state {
	s, _ := r.Context().Value(stateKey{}).(*state)
	return s
}

func withState(r *http.Request, s *state) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), stateKey{}, s))
}
