package sync

import (
	"context"
	"sync"
)

// underway are the things that answers are working out for everybody, by what names them. When many people open the same rooms at
// the same moment, one of them works a room out and the others wait.
type underway[K comparable] struct {
	mu sync.Mutex
	by map[K]chan struct{} // closed when the thing is known, or given up
}

// claim takes those of the things that nobody is working out: the caller has to release them. It also returns what to wait for
// until the others are done. Only a caller that holds no claim may wait: so no two polls wait for each other.
func (u *underway[K]) claim(keys []K) (mine map[K]bool, others []<-chan struct{}) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.by == nil {
		u.by = make(map[K]chan struct{})
	}
	mine = make(map[K]bool, len(keys))
	for _, k := range keys {
		if done, ok := u.by[k]; ok {
			others = append(others, done)
			continue
		}
		u.by[k] = make(chan struct{})
		mine[k] = true
	}
	return mine, others
}

func (u *underway[K]) release(mine map[K]bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for k := range mine {
		close(u.by[k])
		delete(u.by, k)
	}
}

// waitAll waits until all channels are closed.
func waitAll(ctx context.Context, all []<-chan struct{}) error {
	for _, done := range all {
		select {
		case <-done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
