package sync

import (
	"context"
	"sync"
)

// underway are the openings that polls are working out. When many people open the same rooms at the same moment, one of them works
// a room out and the others wait.
type underway struct {
	mu    sync.Mutex
	rooms map[openingKey]chan struct{} // closed when the opening is known, or given up
}

// claim takes those of the openings that nobody is working out: the caller has to release them. It also returns what to wait for
// until the others are done. Only a caller that holds no claim may wait: so no two polls wait for each other.
func (u *underway) claim(keys []openingKey) (mine map[openingKey]bool, others []<-chan struct{}) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.rooms == nil {
		u.rooms = make(map[openingKey]chan struct{})
	}
	mine = make(map[openingKey]bool, len(keys))
	for _, k := range keys {
		if done, ok := u.rooms[k]; ok {
			others = append(others, done)
			continue
		}
		u.rooms[k] = make(chan struct{})
		mine[k] = true
	}
	return mine, others
}

func (u *underway) release(mine map[openingKey]bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for k := range mine {
		close(u.rooms[k])
		delete(u.rooms, k)
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
