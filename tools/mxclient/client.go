package mxclient

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Options configure a Client.
type Options struct {
	Transport http.RoundTripper // nil: NewTransport(0, nil)
	Retry     Retry
	UserAgent string
	// Timeout bounds one exchange unless the context is tighter; 0 means 60 s. A
	// long poll's timeout is added to it.
	Timeout time.Duration
}

// Retry says how often a request is repeated.
type Retry struct {
	Attempts int           // in all; 0 and 1 mean one
	Wait     time.Duration // before the second attempt, doubled up to 5 s; 0 means 50 ms
	// OnRetry, if set, is called before each repetition with what went wrong.
	OnRetry func(error)
}

// Session is what a server gives to somebody who logged in.
type Session struct {
	UserID       string `json:"user_id"`
	DeviceID     string `json:"device_id,omitempty"`
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token,omitempty"`
	ExpiresInMS  int64  `json:"expires_in_ms,omitempty"`
}

// Client sends requests to one homeserver as one account.
type Client struct {
	Session
	bases   []string
	turn    *atomic.Uint64
	http    *http.Client
	opts    Options
	limited *atomic.Int64
}

// New returns a client for the homeserver at base, for example
// http://127.0.0.1:8008. Several, separated by commas, are replicas of one
// server: accounts are spread over them, and a repeated request goes to the next.
func New(base string, opts Options) *Client {
	if opts.Transport == nil {
		opts.Transport = NewTransport(0, nil)
	}
	if opts.Timeout == 0 {
		opts.Timeout = 60 * time.Second
	}
	if opts.Retry.Wait == 0 {
		opts.Retry.Wait = 50 * time.Millisecond
	}
	var bases []string
	for b := range strings.SplitSeq(base, ",") {
		bases = append(bases, strings.TrimSuffix(strings.TrimSpace(b), "/"))
	}
	return &Client{
		bases: bases, turn: &atomic.Uint64{}, limited: &atomic.Int64{}, opts: opts,
		// The default client follows redirects, which hides what a server does.
		http: &http.Client{Transport: opts.Transport, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		}},
	}
}

// NewTransport is a transport that keeps up to conns idle connections to a host
// (0: 4096) and does not ask for compression, which costs both ends CPU.
func NewTransport(conns int, conf *tls.Config) *http.Transport {
	if conns == 0 {
		conns = 4096
	}
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:     conf,
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConns:        conns,
		MaxIdleConnsPerHost: conns,
		IdleConnTimeout:     90 * time.Second,
		DisableCompression:  true,
		ReadBufferSize:      4 << 10,
		WriteBufferSize:     4 << 10,
	}
}

// As returns a client for another account over the same connections.
func (c *Client) As(s Session) *Client {
	d := *c
	d.Session = s
	// Stay at one replica: an account's requests are spread by account.
	if n := uint64(len(c.bases)); n > 1 {
		i := c.turn.Add(1) % n
		d.bases = append(append([]string(nil), c.bases[i:]...), c.bases[:i]...)
	}
	return &d
}

// With returns a copy of the client that retries as r says.
func (c *Client) With(r Retry) *Client {
	d := *c
	if r.Wait == 0 {
		r.Wait = 50 * time.Millisecond
	}
	d.opts.Retry = r
	return &d
}

// RateLimited counts the 429 answers that this client and those made from it got.
func (c *Client) RateLimited() int64 { return c.limited.Load() }

// Error is a server's refusal.
type Error struct {
	Method, Path string
	Status       int
	Code         string        // errcode; empty if the body had none
	Message      string        // error
	RetryAfter   time.Duration // of a 429
	Body         []byte        // as received
}

func (e *Error) Error() string {
	code := e.Code
	if code == "" {
		code = strconv.Quote(string(e.Body[:min(len(e.Body), 200)]))
	}
	return fmt.Sprintf("%s %s: %d %s: %s", e.Method, e.Path, e.Status, code, e.Message)
}

// IsCode tells whether err is a refusal with the errcode.
func IsCode(err error, code string) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}

// Call is one request.
type Call struct {
	Method string
	Path   string // escaped, from the root: /_matrix/client/v3/...
	Query  url.Values
	Body   any // nil: none, but POST and PUT send {}; []byte: as is; else marshalled
	Out    any // nil: discarded; *[]byte: as is; else unmarshalled
	// LongPoll is how long the server may hold the request back.
	LongPoll time.Duration
}

// Do sends a request and decodes the answer.
func (c *Client) Do(ctx context.Context, call Call) error {
	body, err := encode(call)
	if err != nil {
		return err
	}
	wait := c.opts.Retry.Wait
	for attempt := 1; ; attempt++ {
		err := c.once(ctx, call, body, c.bases[(attempt-1)%len(c.bases)])
		if err == nil || ctx.Err() != nil || attempt >= c.opts.Retry.Attempts || !repeatable(call.Method, err) {
			return err
		}
		if c.opts.Retry.OnRetry != nil {
			c.opts.Retry.OnRetry(err)
		}
		pause := wait
		var e *Error
		if errors.As(err, &e) && e.RetryAfter > 0 {
			pause = e.RetryAfter
		}
		if serr := sleep(ctx, pause); serr != nil {
			return err
		}
		wait = min(2*wait, 5*time.Second)
	}
}

// repeatable tells whether a second attempt cannot do harm.
func repeatable(method string, err error) bool {
	var e *Error
	if errors.As(err, &e) {
		if e.Status == http.StatusTooManyRequests {
			return true // refused before anything was done
		}
		if e.Status < 500 {
			return false
		}
	}
	return method == http.MethodGet || method == http.MethodPut || method == http.MethodDelete
}

func encode(call Call) ([]byte, error) {
	switch b := call.Body.(type) {
	case nil:
		if call.Method == http.MethodPost || call.Method == http.MethodPut {
			return []byte("{}"), nil
		}
		return nil, nil
	case []byte:
		return b, nil
	case json.RawMessage:
		return b, nil
	default:
		js, err := json.Marshal(b)
		if err != nil {
			return nil, fmt.Errorf("encode body of %s %s: %w", call.Method, call.Path, err)
		}
		return js, nil
	}
}

func (c *Client) once(ctx context.Context, call Call, body []byte, base string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout+call.LongPoll)
	defer cancel()
	u := base + call.Path
	if len(call.Query) > 0 {
		u += "?" + call.Query.Encode()
	}
	var rd io.Reader
	if body != nil {
		rd = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, call.Method, u, rd)
	if err != nil {
		return fmt.Errorf("%s %s: %w", call.Method, call.Path, err)
	}
	if c.AccessToken != "" {
		req.Header.Set("Authorization", "Bearer "+c.AccessToken)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.opts.UserAgent != "" {
		req.Header.Set("User-Agent", c.opts.UserAgent)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err // names method and URL already
	}
	raw, err := readBody(resp)
	if err != nil {
		return fmt.Errorf("read answer of %s %s: %w", call.Method, call.Path, err)
	}
	if resp.StatusCode >= 300 {
		return c.refusal(call, resp, raw)
	}
	switch out := call.Out.(type) {
	case nil:
		return nil
	case *[]byte:
		*out = raw
		return nil
	default:
		if err := json.Unmarshal(raw, out); err != nil {
			return fmt.Errorf("decode answer of %s %s: %w", call.Method, call.Path, err)
		}
		return nil
	}
}

const maxAnswer = 1 << 30 // bytes; an initial sync of a big account is large

func readBody(resp *http.Response) ([]byte, error) {
	defer resp.Body.Close()
	if n := resp.ContentLength; n >= 0 && n < maxAnswer {
		raw := make([]byte, n)
		_, err := io.ReadFull(resp.Body, raw)
		return raw, err
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(raw) > maxAnswer {
		err = errors.New("answer is too large")
	}
	return raw, err
}

func (c *Client) refusal(call Call, resp *http.Response, raw []byte) error {
	e := &Error{Method: call.Method, Path: call.Path, Status: resp.StatusCode, Body: raw}
	var std struct {
		Errcode      string `json:"errcode"`
		Error        string `json:"error"`
		RetryAfterMS int64  `json:"retry_after_ms"`
	}
	if json.Unmarshal(raw, &std) == nil { // a proxy's page has no errcode
		e.Code, e.Message = std.Errcode, std.Error
		e.RetryAfter = time.Duration(std.RetryAfterMS) * time.Millisecond
	}
	if s, err := strconv.ParseInt(resp.Header.Get("Retry-After"), 10, 32); err == nil && e.RetryAfter == 0 {
		e.RetryAfter = time.Duration(s) * time.Second
	}
	if e.Status == http.StatusTooManyRequests {
		c.limited.Add(1)
	}
	return e
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
