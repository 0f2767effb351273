package roomdb

import (
	"context"
	"fmt"

	"hanse/pkg/authgraph"
)

// AuthChain returns the auth events of state events of a room, their auth events, and so on (server-server API,
// "Definitions"), the nearest first. More than limit of them are authgraph.ErrTooMany.
func (d *DB) AuthChain(ctx context.Context, room RoomKey, of []int64, limit int) ([]int64, error) {
	return d.walk(ctx, room, of, func(g *authgraph.Graph, indexes []authgraph.Index) ([]authgraph.Index, error) {
		if len(indexes) < len(of) {
			return nil, fmt.Errorf("%w: not all are state events of the room", ErrNotFound)
		}
		return g.Chain(indexes, limit)
	})
}

// AuthChainOf returns the auth chain of an event of any kind, as AuthChain does.
func (d *DB) AuthChainOf(ctx context.Context, e *Event, limit int) ([]int64, error) {
	// A rejected event may cite what is no state event: the chain is without it.
	return d.walk(ctx, RoomKey{Part: e.Part, NID: e.RoomNID}, e.Auth, func(g *authgraph.Graph, indexes []authgraph.Index) ([]authgraph.Index, error) {
		return g.Closure(indexes, limit)
	})
}

// AuthGraph reads the auth graph of a room as it is in PostgreSQL. It belongs to the caller, who may add to it.
func (d *DB) AuthGraph(ctx context.Context, room RoomKey) (*authgraph.Graph, error) {
	return d.graphs.Load(ctx, d.shards.For(room.Part), authgraph.Room(room))
}

// walk looks events up in the graph of a room and returns the numbers of those that f finds from there.
func (d *DB) walk(ctx context.Context, room RoomKey, from []int64, f func(*authgraph.Graph, []authgraph.Index) ([]authgraph.Index, error)) (nids []int64, err error) {
	err = d.graphs.View(ctx, d.shards.For(room.Part), authgraph.Room(room), from, func(g *authgraph.Graph) error {
		indexes := make([]authgraph.Index, 0, len(from))
		for _, nid := range from {
			if i := g.Find(nid); i != authgraph.None {
				indexes = append(indexes, i)
			}
		}
		found, err := f(g, indexes)
		if err != nil {
			return err
		}
		nids = make([]int64, len(found))
		for n, i := range found {
			nids[n] = g.NID(i)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("auth chain: %w", err)
	}
	return nids, nil
}
