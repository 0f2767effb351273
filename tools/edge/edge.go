package edge

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// maxReplay bounds the request bodies that are kept for another try; larger ones are passed on once.
const maxReplay = 1 << 20

// Listener is an address on which the proxy serves; TLS may be nil.
type Listener struct {
	Addr string
	TLS  *tls.Config
}

// Config says where requests come from and go to.
type Config struct {
	Listeners []Listener
	Backends  map[string][]Backend // by role
	// HealthEvery is how often replicas are asked whether they are ready; 250 ms if zero. It must be shorter than
	// the time for which a replica that ends still takes requests.
	HealthEvery time.Duration
	// Transport wraps what carries requests to the replicas: tests look at what passes. May be nil.
	Transport func(next http.RoundTripper) http.RoundTripper
	Log       *slog.Logger
}

// Edge is a running proxy.
type Edge struct {
	cfg     Config
	pools   map[string]*pool
	proxy   http.Handler
	plain   *http.Transport
	carry   http.RoundTripper // plain, wrapped
	sockets []net.Listener
	cut     sync.Map // roles that get nothing: see Cut
}

// New opens the listeners; Run serves them.
func New(cfg Config) (*Edge, error) {
	if cfg.HealthEvery == 0 {
		cfg.HealthEvery = 250 * time.Millisecond
	}
	e := &Edge{cfg: cfg, pools: make(map[string]*pool), plain: &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
		MaxIdleConnsPerHost:   256,
		IdleConnTimeout:       90 * time.Second,
		ResponseHeaderTimeout: 150 * time.Second, // above the longest poll
		DisableCompression:    true,
	}}
	e.carry = e.plain
	if cfg.Transport != nil {
		e.carry = cfg.Transport(e.plain)
	}
	for role, list := range cfg.Backends {
		e.pools[role] = newPool(list)
	}
	e.proxy = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetXForwarded()
			r.Out.Host = r.In.Host
			// The replica is chosen by the transport; until then the URL only has to be complete.
			r.Out.URL.Scheme, r.Out.URL.Host = "http", "replica.invalid"
		},
		Transport:    roundTripper(e.roundTrip),
		ErrorHandler: e.failed,
		ErrorLog:     slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
	}
	for _, l := range cfg.Listeners {
		socket, err := net.Listen("tcp", l.Addr)
		if err != nil {
			e.close()
			return nil, err
		}
		if l.TLS != nil {
			socket = tls.NewListener(socket, l.TLS)
		}
		e.sockets = append(e.sockets, socket)
	}
	return e, nil
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Addr returns the address of the i-th listener, with the port that it got.
func (e *Edge) Addr(i int) string { return e.sockets[i].Addr().String() }

// Run serves until the context ends, then finishes what is under way.
func (e *Edge) Run(ctx context.Context) error {
	srv := &http.Server{
		Handler:           http.HandlerFunc(e.serve),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(e.cfg.Log.Handler(), slog.LevelDebug),
	}
	health := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	watchCtx, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	var g errgroup.Group
	for _, p := range e.pools {
		g.Go(func() error { p.watch(watchCtx, health, e.cfg.HealthEvery); return nil })
	}
	for _, socket := range e.sockets {
		g.Go(func() error {
			if err := srv.Serve(socket); !errors.Is(err, http.ErrServerClosed) {
				stopWatching()
				return err
			}
			return nil
		})
	}
	g.Go(func() error {
		<-watchCtx.Done()
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := srv.Shutdown(stop); err != nil {
			return srv.Close() // somebody polls for longer than we wait
		}
		return nil
	})
	err := g.Wait()
	e.plain.CloseIdleConnections()
	return err
}

// Cut drops the connections of all requests to a role, as a broken network would, until it is called with false.
func (e *Edge) Cut(role string, cut bool) {
	if cut {
		e.cut.Store(role, true)
	} else {
		e.cut.Delete(role)
	}
}

func (e *Edge) serve(w http.ResponseWriter, r *http.Request) {
	if _, cut := e.cut.Load(roleOf(r.URL.Path)); cut {
		panic(http.ErrAbortHandler) // net/http closes the connection without an answer
	}
	e.proxy.ServeHTTP(w, r)
}

func (e *Edge) close() {
	for _, s := range e.sockets {
		s.Close()
	}
}

// roundTrip gives the request to the role's replicas in turn until one answers.
func (e *Edge) roundTrip(r *http.Request) (*http.Response, error) {
	pool := e.pools[roleOf(r.URL.Path)]
	if pool == nil || len(pool.backends) == 0 {
		return nil, errors.New("no replica serves this path")
	}
	body, replayable, err := buffer(r)
	if err != nil {
		return nil, err
	}
	var last error
	for _, b := range pool.order(stickyKey(r)) {
		target, err := url.Parse(b.URL)
		if err != nil {
			return nil, fmt.Errorf("backend: %w", err)
		}
		out := r.Clone(r.Context())
		out.URL.Scheme, out.URL.Host = target.Scheme, target.Host
		if body != nil {
			out.Body = io.NopCloser(bytes.NewReader(body))
			out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		}
		resp, err := e.carry.RoundTrip(out)
		if err == nil {
			return resp, nil
		}
		last = err
		if r.Context().Err() != nil || !replayable || !mayRetry(r.Method, err) {
			break
		}
		b.down.Store(true) // until its health says otherwise
	}
	return nil, last
}

// buffer reads a request's body so that it can be sent again; nil for none or a large one.
func buffer(r *http.Request) (body []byte, replayable bool, err error) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, true, nil
	}
	if r.ContentLength > maxReplay {
		return nil, false, nil
	}
	body, err = io.ReadAll(io.LimitReader(r.Body, maxReplay+1))
	if err != nil {
		return nil, false, fmt.Errorf("read request: %w", err)
	}
	if len(body) > maxReplay {
		r.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body), r.Body))
		return nil, false, nil
	}
	return body, true, nil
}

// mayRetry reports whether a request that got no answer can be given to another replica.
func mayRetry(method string, err error) bool {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return true // nobody has seen it
	}
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// failed answers what no replica did.
func (e *Edge) failed(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() == nil {
		e.cfg.Log.Warn("no replica answered", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Access-Control-Allow-Origin", "*")
	w.WriteHeader(http.StatusBadGateway)
	_, _ = io.WriteString(w, `{"errcode":"M_UNKNOWN","error":"no replica answered"}`) // the client may be gone
}
