package room

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"hanse/pkg/authgraph"
	"hanse/pkg/resolve"
	"hanse/pkg/state"
)

// growing is the auth graph of a room, with what resolutions have learned, while the room goes on: what is drafted while
// somebody walks the graph is noted, and enters it before the next walk.
type growing struct {
	mu    sync.RWMutex // held by who walks the graph, and for writing by who adds to it
	known *resolve.Resolver
	bytes atomic.Int64

	behindMu sync.Mutex
	behind   []authgraph.Node // that are not in the graph yet, in their order
}

var (
	// errWalked says that a graph cannot be brought up to date, as somebody walks it.
	errWalked = errors.New("somebody walks the auth graph")
	// errMisfit says that a graph cannot be brought up to date at all.
	errMisfit = errors.New("the auth graph does not take an event")
)

// add puts an event into the graph, now or when nobody walks it.
func (g *growing) add(n authgraph.Node) error {
	g.behindMu.Lock()
	g.behind = append(g.behind, n)
	g.behindMu.Unlock()
	if !g.mu.TryLock() {
		return nil
	}
	defer g.mu.Unlock()
	return g.catchUp()
}

// catchUp puts what is behind into the graph. mu is held for writing.
func (g *growing) catchUp() error {
	g.behindMu.Lock()
	nodes := g.behind
	g.behind = nil
	g.behindMu.Unlock()
	for _, n := range nodes {
		if err := g.known.Graph().Add(n); err != nil {
			return fmt.Errorf("%w: %d: %w", errMisfit, n.NID, err)
		}
	}
	g.bytes.Store(g.known.Bytes())
	return nil
}

// read gives a graph that nobody knows of but those who add to it what was read from PostgreSQL. mu is held for writing.
func (g *growing) read(graph *authgraph.Graph) error {
	last := graph.Last()
	g.behindMu.Lock()
	// Changes of a room are committed in their order: what is older and not there is of a draft that came to nothing.
	g.behind = slices.DeleteFunc(g.behind, func(n authgraph.Node) bool { return n.NID <= last })
	g.behindMu.Unlock()
	g.known = resolve.NewResolver(graph)
	return g.catchUp()
}

func (g *growing) lags() bool {
	g.behindMu.Lock()
	defer g.behindMu.Unlock()
	return len(g.behind) > 0
}

// walk calls do with what resolves by the room's auth graph; see growing.walk.
func (r *room) walk(g *growing, wait bool, do func(*resolve.Resolver) error) error {
	err := g.walk(wait, do)
	if errors.Is(err, errMisfit) {
		r.misfit(err)
	}
	return err
}

// walk calls do with the graph, which has all that was added before and stays as it is until do returns. If that takes
// waiting for somebody else's walk and wait is not set, it fails with errWalked.
func (g *growing) walk(wait bool, do func(*resolve.Resolver) error) error {
	free := g.mu.TryLock()
	if !free && g.lags() {
		if !wait {
			return errWalked
		}
		g.mu.Lock()
		free = true
	}
	if free {
		err := g.catchUp()
		g.mu.Unlock()
		if err != nil {
			return err
		}
	}
	g.mu.RLock()
	defer g.mu.RUnlock()
	defer func() { g.bytes.Store(g.known.Bytes()) }()
	return do(g.known)
}

// graphLoads is how many auth graphs are read at once.
const graphLoads = 2

// readGraph reads the auth graph of the locked room, with what is not committed yet. It is kept as long as memory allows, and
// grows with the room: see draft.
func (r *room) readGraph(ctx context.Context) (*growing, error) {
	g := &growing{behind: slices.Clone(r.drafted)}
	return g, r.fill(ctx, g)
}

// readGraphUnlocked is readGraph while the room goes on; one at a time for each room.
func (r *room) readGraphUnlocked(ctx context.Context) (*growing, error) {
	if err := r.lock(ctx); err != nil {
		return nil, err
	}
	g := new(growing)
	g.mu.Lock() // what is drafted from now on is behind
	r.reading.Store(g)
	r.unlock()
	defer r.reading.Store(nil)
	defer g.mu.Unlock()
	return g, r.fill(ctx, g)
}

func (r *room) fill(ctx context.Context, g *growing) error {
	if err := r.waitCommitted(ctx); err != nil {
		return err
	}
	if err := r.s.loads.enter(ctx); err != nil {
		return err
	}
	defer r.s.loads.leave()
	graph, err := r.s.db.AuthGraph(ctx, r.key())
	if err != nil {
		return err
	}
	if err := g.read(graph); err != nil {
		return err
	}
	if !r.dead.Load() {
		r.s.graphs.Add(r, g)
	}
	return nil
}

// draft notes a new event for the auth graph: for the one that is in memory, and for one that is read before the event is
// in PostgreSQL. An event that is drafted and never queued does no harm in the graph: nothing will ever cite it.
func (r *room) noteDrafted(e *newEvent) {
	if !e.pdu.IsState() || e.flags&flagAuthMissing != 0 {
		return
	}
	n := authgraph.Node{NID: e.nid, Key: state.Key(e.pdu.Tuple()), Auth: e.auth, Rejected: e.flags&flagRejected != 0}
	r.drafted = append(r.drafted, n)
	reading := r.reading.Load() // before the look for one that has been read
	if g, ok := r.s.graphs.Peek(r); ok && g != reading {
		r.misfit(g.add(n))
	}
	if reading != nil {
		r.misfit(reading.add(n))
	}
}

// misfit forgets a graph that an event does not fit into: the next one is read from PostgreSQL.
func (r *room) misfit(err error) {
	if err != nil {
		r.s.log.Error("auth graph", "room", r.id, "err", err)
		r.s.graphs.Remove(r)
	}
}
