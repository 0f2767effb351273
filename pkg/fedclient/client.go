package fedclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"hanse/pkg/matrix/id"
	"hanse/pkg/netguard"
)

// Client makes requests to other servers. It is safe for concurrent use; a process has one, so that its routes and
// connections are shared.
type Client struct {
	cfg        Config
	resolver   *resolver
	transport  *http.Transport
	handshakes *handshakes
	metrics    *metrics
}

// New returns a client.
func New(cfg Config) *Client {
	cfg.setDefaults()
	c := &Client{cfg: cfg, metrics: newMetrics(cfg.Registerer)}
	c.resolver = newResolver(&c.cfg, c.metrics)
	c.handshakes = newHandshakes(c.metrics.handshakes)
	c.transport = &http.Transport{
		DialTLSContext:         c.dialTLS,
		ForceAttemptHTTP2:      true,
		MaxConnsPerHost:        cfg.ConnsPerHost,
		MaxIdleConnsPerHost:    2,
		MaxIdleConns:           cfg.IdleConns,
		IdleConnTimeout:        90 * time.Second,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		// A peer that vanished is found by a ping, not by the timeouts of the requests behind each other.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 20 * time.Second, PingTimeout: 10 * time.Second, WriteByteTimeout: 30 * time.Second},
	}
	return c
}

// CloseIdle closes connections that nobody uses.
func (c *Client) CloseIdle() { c.transport.CloseIdleConnections() }

// Route returns where a server name leads.
func (c *Client) Route(ctx context.Context, server id.Server) (*Route, error) {
	return c.resolver.route(ctx, server)
}

// Request is one request to another server.
type Request struct {
	Server id.Server
	Method string
	// URI is the escaped path, with the query if there is one. It is sent as it is: it may have been signed.
	URI string
	// Authorization is the header of that name, empty for none.
	Authorization string
	// Body is JSON, or nil.
	Body []byte
	// MaxBytes bounds the answer after decompression.
	MaxBytes int64
}

// Response is the answer. The caller reads Body to its end or closes it.
type Response struct {
	Status int
	Header http.Header
	// Body fails with ErrTooLarge when there is more than the request allowed.
	Body io.ReadCloser
}

// ErrTooLarge is returned for answers that are larger than their request allowed.
var ErrTooLarge = errors.New("answer too large")

// Error is a request without an answer: the server was not found, not reached, or did not answer.
type Error struct {
	Server id.Server
	Err    error
}

func (e *Error) Error() string { return fmt.Sprintf("reach %s: %v", e.Server, e.Err) }
func (e *Error) Unwrap() error { return e.Err }

type routeKey struct{}

// Do makes a request. The context bounds all of it, the reading of the body too. A failure is an *Error.
func (c *Client) Do(ctx context.Context, q Request) (*Response, error) {
	rt, err := c.resolver.route(ctx, q.Server)
	if err != nil {
		c.metrics.requests.WithLabelValues("failed").Inc()
		return nil, &Error{q.Server, err}
	}
	req, err := newRequest(ctx, rt, q, c.cfg.UserAgent)
	if err != nil {
		return nil, fmt.Errorf("request to %s: %w", q.Server, err)
	}
	start := time.Now()
	resp, err := c.transport.RoundTrip(req)
	if err != nil {
		c.metrics.requests.WithLabelValues("failed").Inc()
		var dial *dialError
		if errors.As(err, &dial) {
			c.resolver.forget(q.Server, rt)
		}
		return nil, &Error{q.Server, err}
	}
	c.metrics.seconds.Observe(time.Since(start).Seconds())
	c.metrics.requests.WithLabelValues(strconv.Itoa(resp.StatusCode/100) + "xx").Inc()
	if q.MaxBytes > 0 {
		if resp.ContentLength > q.MaxBytes {
			resp.Body.Close()
			return nil, fmt.Errorf("%s: %w: %d bytes", q.Server, ErrTooLarge, resp.ContentLength)
		}
		resp.Body = &limited{resp.Body, q.MaxBytes}
	}
	return &Response{Status: resp.StatusCode, Header: resp.Header, Body: resp.Body}, nil
}

// newRequest addresses the request to the route's pool of connections and sets the Host that the route wants.
func newRequest(ctx context.Context, rt *Route, q Request, agent string) (*http.Request, error) {
	path, query, _ := strings.Cut(q.URI, "?")
	if !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//") || strings.ContainsFunc(q.URI, notURI) {
		return nil, fmt.Errorf("%.100q is not an escaped path", q.URI)
	}
	var body io.Reader = http.NoBody
	if q.Body != nil {
		body = bytes.NewReader(q.Body)
	}
	req, err := http.NewRequestWithContext(context.WithValue(ctx, routeKey{}, rt), q.Method, "https://"+rt.key+"/", body)
	if err != nil {
		return nil, err
	}
	req.URL = &url.URL{Scheme: "https", Host: rt.key, Opaque: path, RawQuery: query}
	req.Host = rt.Host
	req.Header.Set("User-Agent", agent)
	if q.Authorization != "" {
		req.Header.Set("Authorization", q.Authorization)
	}
	if q.Body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, nil
}

// notURI finds what must be escaped in a URI.
func notURI(r rune) bool { return r <= ' ' || r >= 0x7f || r == '#' }

// dialError is a failure to get a connection.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// dialTLS connects to the first target of the request's route that works. addr names only the pool.
func (c *Client) dialTLS(ctx context.Context, _, _ string) (net.Conn, error) {
	rt, ok := ctx.Value(routeKey{}).(*Route)
	if !ok {
		return nil, errors.New("request without a route")
	}
	var errs []error
	for _, target := range rt.Targets {
		conn, err := c.dialTarget(ctx, target, rt.TLSName)
		if err == nil {
			c.metrics.dials.WithLabelValues("ok").Inc()
			return conn, nil
		}
		result := "failed"
		var refused *netguard.Error
		if errors.As(err, &refused) {
			result = "refused"
		}
		c.metrics.dials.WithLabelValues(result).Inc()
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, &dialError{errors.Join(errs...)}
}

func (c *Client) dialTarget(ctx context.Context, target, tlsName string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.DialTimeout)
	defer cancel()
	raw, err := c.cfg.Guard.Dialer(c.cfg.DialTimeout, c.cfg.Resolver).DialContext(ctx, "tcp", target)
	if err != nil {
		return nil, err
	}
	conn, err := c.handshakes.client(ctx, raw, c.cfg.tls(tlsName))
	if err != nil {
		raw.Close()
		return nil, fmt.Errorf("TLS with %s for %s: %w", target, tlsName, err)
	}
	return conn, nil
}

// limited reads at most left bytes, and fails when there are more.
type limited struct {
	io.ReadCloser
	left int64
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left < 0 {
		return 0, ErrTooLarge
	}
	if int64(len(p)) > l.left+1 {
		p = p[:l.left+1] // one more, to see that there is more
	}
	n, err := l.ReadCloser.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return n - 1, ErrTooLarge
	}
	return n, err
}
