package fedin

import (
	"context"
	"sync"

	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
)

// gates bound how much of a kind one server has under way. A gate exists while somebody is at it: memory follows the
// requests in progress, which the router bounds.
type gates struct {
	mu   sync.Mutex
	open map[gateName]*gate
}

type gateName struct {
	kind   string
	server id.Server
}

type gate struct {
	slots chan struct{}
	users int
}

// enter waits for one of n slots of a server, with at most waiting others before the gate: more are told to come
// again. leave gives the slot back.
func (g *gates) enter(ctx context.Context, kind string, server id.Server, n, waiting int) (leave func(), err error) {
	name := gateName{kind, server}
	g.mu.Lock()
	if g.open == nil {
		g.open = make(map[gateName]*gate)
	}
	at := g.open[name]
	if at == nil {
		at = &gate{slots: make(chan struct{}, n)}
		g.open[name] = at
	}
	if at.users >= n+waiting {
		g.mu.Unlock()
		return nil, merr.LimitExceeded(1000)
	}
	at.users++
	g.mu.Unlock()
	select {
	case at.slots <- struct{}{}:
		return func() {
			<-at.slots
			g.leave(name, at)
		}, nil
	case <-ctx.Done():
		g.leave(name, at)
		return nil, ctx.Err()
	}
}

func (g *gates) leave(name gateName, at *gate) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if at.users--; at.users == 0 {
		delete(g.open, name)
	}
}
