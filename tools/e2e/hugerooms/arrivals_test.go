package hugerooms

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
)

// arrivals note when events of other servers come to a cluster: when its proxy has read their transaction, before any
// worker sees it.
type arrivals struct {
	mu    sync.Mutex
	rules *roomversion.Rules // nil: nothing is noted
	at    map[id.Event]time.Time
}

// watch begins to note the events of a room version.
func (a *arrivals) watch(rules *roomversion.Rules) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rules, a.at = rules, make(map[id.Event]time.Time)
}

func (a *arrivals) ignore() { a.watch(nil) }

// since returns what has come from a moment on.
func (a *arrivals) since(begin time.Time) map[id.Event]time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := maps.Clone(a.at)
	maps.DeleteFunc(out, func(_ id.Event, at time.Time) bool { return at.Before(begin) })
	return out
}

func (a *arrivals) transport(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if strings.HasPrefix(r.URL.Path, "/_matrix/federation/v1/send/") && r.GetBody != nil {
			a.note(r)
		}
		return next.RoundTrip(r)
	})
}

// note reads a transaction. One that cannot be read is the worker's to refuse.
func (a *arrivals) note(r *http.Request) {
	a.mu.Lock()
	rules := a.rules
	a.mu.Unlock()
	if rules == nil {
		return
	}
	now := time.Now()
	body, err := r.GetBody()
	if err != nil {
		return
	}
	var txn struct {
		PDUs []json.RawMessage `json:"pdus"`
	}
	raw, err := io.ReadAll(body)
	if err != nil || json.Unmarshal(raw, &txn) != nil {
		return
	}
	came := make([]id.Event, 0, len(txn.PDUs))
	for _, raw := range txn.PDUs {
		if pdu, err := event.Parse(raw, rules); err == nil {
			came = append(came, pdu.ID)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range slices.DeleteFunc(came, func(e id.Event) bool { return !a.at[e].IsZero() }) {
		a.at[e] = now
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements [http.RoundTripper].
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
