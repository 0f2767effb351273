// Package asclient makes requests to application services (application service API, "Homeserver -> Application Service API").
//
// Operators write the URLs of services, so addresses inside of private networks are allowed, as is plain HTTP. Redirects are not
// followed, no proxy is used, and an answer is read up to a bound and no further: a service that misbehaves costs a request, and no
// memory. The token that proves the server to the service is sent in the Authorization header only.
package asclient

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"hanse/pkg/appservice"
)

const (
	dialTimeout = 5 * time.Second
	// perService bounds the connections to one service: a transaction, and queries beside it.
	perService = 32
	// mostIdle bounds the connections that are kept without a request.
	mostIdle = 1024
	// MaxAnswer is how much of an answer is read if the request does not say, in bytes.
	MaxAnswer = 64 << 10
)

// Config says how services are reached.
type Config struct {
	// Timeout is that of a request, with its answer, if the request has none.
	Timeout time.Duration
	// RootCAs are trusted for services; nil: the system's.
	RootCAs *x509.CertPool
}

// Client makes requests. It is safe for concurrent use.
type Client struct {
	cfg Config
	web *http.Client
}

// New returns a client without connections.
func New(cfg Config) *Client {
	return &Client{cfg: cfg, web: &http.Client{
		Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}).DialContext,
			TLSHandshakeTimeout: dialTimeout, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cfg.RootCAs},
			MaxResponseHeaderBytes: 64 << 10, MaxConnsPerHost: perService, MaxIdleConnsPerHost: perService, MaxIdleConns: mostIdle,
			IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// CloseIdle closes connections that have no request.
func (c *Client) CloseIdle() { c.web.CloseIdleConnections() }

// Request is a request to a service.
type Request struct {
	Method string
	// Path goes behind the service's URL. It begins with a slash, and is escaped.
	Path  string
	Query url.Values
	// Body is JSON; nil: none.
	Body []byte
	// Timeout is that of the whole request, and MaxAnswer how much of the answer is read; 0: as Config and MaxAnswer say.
	Timeout   time.Duration
	MaxAnswer int64
}

// Answer is what a service answered, whatever the status.
type Answer struct {
	Status int
	// Body is the answer, as far as it was read.
	Body []byte
}

// OK says whether the status is one of success.
func (a *Answer) OK() bool { return a.Status >= 200 && a.Status < 300 }

var (
	// ErrNoURL is returned for a service that wants no requests.
	ErrNoURL = errors.New("the application service has no url")
	// ErrTooLarge is returned with an answer that is larger than may be read.
	ErrTooLarge = errors.New("the answer is too large")
)

// Do makes a request. An error says that there is no answer, or not all of it.
func (c *Client) Do(ctx context.Context, s *appservice.Service, r Request) (Answer, error) {
	if s.URL == "" {
		return Answer{}, ErrNoURL
	}
	timeout, most := r.Timeout, r.MaxAnswer
	if timeout == 0 {
		timeout = c.cfg.Timeout
	}
	if most == 0 {
		most = MaxAnswer
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	target := s.URL + r.Path
	if len(r.Query) > 0 {
		target += "?" + r.Query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, target, bytes.NewReader(r.Body))
	if err != nil {
		return Answer{}, fmt.Errorf("application service %s: %w", s.ID, plain(err))
	}
	req.Header.Set("Authorization", "Bearer "+s.HSToken)
	req.Header.Set("User-Agent", "Hanse")
	req.Header.Set("Accept", "application/json")
	if r.Body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.web.Do(req)
	if err != nil {
		return Answer{}, fmt.Errorf("application service %s: %w", s.ID, plain(err))
	}
	defer resp.Body.Close()
	a := Answer{Status: resp.StatusCode}
	if a.Body, err = io.ReadAll(io.LimitReader(resp.Body, most+1)); err != nil {
		return a, fmt.Errorf("application service %s: read the answer: %w", s.ID, err)
	}
	if int64(len(a.Body)) > most {
		a.Body = a.Body[:most]
		return a, fmt.Errorf("application service %s: %w: more than %d bytes", s.ID, ErrTooLarge, most)
	}
	return a, nil
}

// plain takes the URL out of an error: queries name people.
func plain(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
