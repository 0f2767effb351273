package fedclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"hanse/pkg/matrix/id"
)

// Bounds of the cache of .well-known answers (server-server API, "Resolving server names", step 3).
const (
	wellKnownDefault = 24 * time.Hour
	wellKnownMax     = 48 * time.Hour
	wellKnownMin     = 5 * time.Minute
	// A failure is kept for longer each time. An answer that there is none begins higher than no answer.
	failureFirst = 10 * time.Second
	absentFirst  = 5 * time.Minute
	failureMax   = time.Hour

	wellKnownBytes     = 50 << 10
	wellKnownRedirects = 5
	wellKnownTimeout   = 15 * time.Second
)

// delegation is what is known of a name's .well-known.
type delegation struct {
	server   id.Server // "" : nothing valid
	expires  time.Time
	failures int
	// goodUntil is until when the server is used although the answer could not be renewed.
	goodUntil time.Time
}

type wellKnown struct {
	client  *http.Client
	port    uint16
	metrics *metrics

	mu    sync.Mutex
	known *simplelru.LRU[id.Server, delegation]
}

func newWellKnown(cfg *Config, m *metrics) *wellKnown {
	known, err := simplelru.NewLRU[id.Server, delegation](cfg.Routes, nil)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &wellKnown{
		port: cfg.WellKnownPort, metrics: m, known: known,
		client: &http.Client{
			Timeout: wellKnownTimeout,
			Transport: &http.Transport{
				DialContext:         cfg.Guard.Dialer(cfg.DialTimeout, cfg.Resolver).DialContext,
				TLSClientConfig:     cfg.tls(""),
				TLSHandshakeTimeout: cfg.DialTimeout,
				ForceAttemptHTTP2:   true,
				// One request to each server, once a day.
				DisableKeepAlives:      true,
				MaxResponseHeaderBytes: 64 << 10,
			},
			CheckRedirect: checkRedirect,
		},
	}
}

func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= wellKnownRedirects {
		return errors.New("too many redirects")
	}
	if req.URL.Scheme != "https" {
		return errors.New("redirect to something that is not https")
	}
	return nil
}

// get returns what the .well-known of a host name says.
func (w *wellKnown) get(ctx context.Context, server id.Server) delegation {
	w.mu.Lock()
	old, _ := w.known.Get(server)
	w.mu.Unlock()
	now := time.Now()
	if now.Before(old.expires) {
		return old
	}
	to, maxAge, err := w.fetch(ctx, server)
	d := delegation{server: to, expires: now.Add(jitter(maxAge)), goodUntil: now.Add(max(maxAge, wellKnownMax))}
	if err != nil {
		w.metrics.wellKnown.WithLabelValues("failed").Inc()
		first := failureFirst
		var absent *answerError
		if errors.As(err, &absent) {
			first = absentFirst
		}
		d = delegation{failures: old.failures + 1, expires: now.Add(jitter(min(first<<min(old.failures, 12), failureMax)))}
		if old.server != "" && now.Before(old.goodUntil) {
			d.server, d.goodUntil = old.server, old.goodUntil
		}
	} else {
		w.metrics.wellKnown.WithLabelValues("found").Inc()
	}
	w.mu.Lock()
	w.known.Add(server, d)
	w.mu.Unlock()
	return d
}

// retrySoon makes a failure be forgotten: the way without the .well-known did not work either.
func (w *wellKnown) retrySoon(server id.Server) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if d, ok := w.known.Peek(server); ok && d.server == "" {
		d.expires = earlier(d.expires, time.Now().Add(failureFirst))
		w.known.Add(server, d)
	}
}

// jitter shortens a time by up to a tenth, so that not all of them end at once.
func jitter(d time.Duration) time.Duration {
	if d <= 10 {
		return d
	}
	return d - rand.N(d/10)
}

// answerError is an answer that is not a delegation.
type answerError struct{ reason string }

func (e *answerError) Error() string { return e.reason }

func (w *wellKnown) fetch(ctx context.Context, server id.Server) (id.Server, time.Duration, error) {
	url := "https://" + string(server)
	if w.port != 443 {
		url = "https://" + net.JoinHostPort(string(server), strconv.Itoa(int(w.port)))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/.well-known/matrix/server", nil)
	if err != nil {
		return "", 0, err
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		if resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests {
			return "", 0, fmt.Errorf("status %d", resp.StatusCode)
		}
		return "", 0, &answerError{fmt.Sprintf("status %d", resp.StatusCode)}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, wellKnownBytes+1))
	if err != nil {
		return "", 0, err
	}
	to, err := parseWellKnown(body)
	if err != nil {
		return "", 0, &answerError{err.Error()}
	}
	return to, cacheTime(resp.Header, time.Now()), nil
}

func parseWellKnown(body []byte) (id.Server, error) {
	if len(body) > wellKnownBytes {
		return "", errors.New("too large")
	}
	var answer struct {
		Server string `json:"m.server"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return "", err
	}
	return id.ParseServer(answer.Server)
}

// cacheTime is how long an answer may be kept, by its headers and our bounds.
func cacheTime(h http.Header, now time.Time) time.Duration {
	age, found := wellKnownDefault, false
	for _, directive := range strings.Split(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.ToLower(strings.TrimSpace(directive)), "=")
		switch name {
		case "no-store", "no-cache":
			return wellKnownMin
		case "max-age":
			if s, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31); err == nil {
				age, found = time.Duration(s)*time.Second, true
			}
		}
	}
	if expires := h.Get("Expires"); !found && expires != "" {
		age = 0 // also if it is malformed (RFC 9111, section 5.3)
		if at, err := http.ParseTime(expires); err == nil {
			age = at.Sub(now)
		}
	}
	return min(max(age, wellKnownMin), wellKnownMax)
}
