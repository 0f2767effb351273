package edge

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Backend is one replica of a role.
type Backend struct {
	URL    string // scheme and host of its API
	Health string // URL that answers 200 while the replica takes requests
}

// backend is a Backend with its state.
type backend struct {
	Backend
	down atomic.Bool
}

// pool is the replicas of a role.
type pool struct {
	backends []*backend
	turn     atomic.Uint64
}

func newPool(list []Backend) *pool {
	p := &pool{}
	for _, b := range list {
		p.backends = append(p.backends, &backend{Backend: b})
	}
	return p
}

// order returns the replicas in the order in which they are tried: ready ones first, by the key's preference or in
// turn. Those that are not come last: what was known of them may be old.
func (p *pool) order(key string) []*backend {
	out := slices.Clone(p.backends)
	if key != "" {
		slices.SortFunc(out, func(a, b *backend) int { return cmp.Compare(weight(key, b.URL), weight(key, a.URL)) })
	} else if n := len(out); n > 1 {
		shift := int(p.turn.Add(1) % uint64(n))
		out = append(out[shift:], out[:shift]...)
	}
	slices.SortStableFunc(out, func(a, b *backend) int {
		return cmp.Compare(rank(a), rank(b))
	})
	return out
}

func rank(b *backend) int {
	if b.down.Load() {
		return 1
	}
	return 0
}

// watch asks each replica for its health until the context ends.
func (p *pool) watch(ctx context.Context, client *http.Client, every time.Duration) {
	var wg sync.WaitGroup
	for _, b := range p.backends {
		wg.Go(func() {
			tick := time.NewTicker(every)
			defer tick.Stop()
			for {
				b.down.Store(!healthy(ctx, client, b.Health))
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
			}
		})
	}
	wg.Wait()
}

func healthy(ctx context.Context, client *http.Client, url string) bool {
	if url == "" {
		return true
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}
