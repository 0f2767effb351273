package world

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"hanse/tools/specapi"
)

// Watch holds what passes the clusters' proxies against the specification and remembers what does not fit.
type Watch struct {
	spec *specapi.Spec

	mu    sync.Mutex
	found map[string]*finding
}

// finding is one kind of violation.
type finding struct {
	first error
	count int
}

// NewWatch loads the specification's data.
func NewWatch() (*Watch, error) {
	spec, err := specapi.Load("")
	return &Watch{spec: spec, found: make(map[string]*finding)}, err
}

// Transport wraps the proxy's transport to the workers. What servers send to each other is judged both ways: both
// sides are Hanse.
func (w *Watch) Transport(next http.RoundTripper) http.RoundTripper {
	answers := w.spec.RoundTripper(next, w.report)
	both := w.spec.RoundTripper(next, w.report, specapi.WithRequests())
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		r.Header.Del("Accept-Encoding") // compressed bodies cannot be judged
		if strings.HasPrefix(r.URL.Path, "/_matrix/federation/") {
			return both.RoundTrip(r)
		}
		return answers.RoundTrip(r)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (w *Watch) report(err error) {
	key := err.Error()
	if v, ok := err.(*specapi.Violation); ok { //nolint:errorlint // reported as it is
		key = fmt.Sprintf("%s %d %s", v.Operation, v.Status, v.Reason)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.found[key]
	if f == nil {
		f = &finding{first: err}
		w.found[key] = f
	}
	f.count++
}

// Violations lists what did not fit, each kind once, and forgets it.
func (w *Watch) Violations() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []string
	for _, key := range slices.Sorted(maps.Keys(w.found)) {
		list = append(list, fmt.Sprintf("%d×: %v", w.found[key].count, w.found[key].first))
	}
	w.found = make(map[string]*finding)
	return list
}

// Seen lists the operations that were exercised.
func (w *Watch) Seen() []specapi.Operation { return w.spec.Seen() }
