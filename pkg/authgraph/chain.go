package authgraph

import "errors"

// ErrTooMany is returned where an answer would exceed the caller's bound.
var ErrTooMany = errors.New("too many events")

// Chain returns the auth chain of events: the events that they cite, those that these cite, and so on (server-server API,
// "Definitions"), each once, the nearest first. The events themselves are part of it only if others of them cite them.
// More than limit are ErrTooMany.
func (g *Graph) Chain(of []Index, limit int) ([]Index, error) {
	w := walk{g: g, seen: make([]uint64, len(g.nids)/64+1), limit: limit}
	for _, i := range of {
		w.visit(g.Auth(i))
	}
	return w.finish()
}

// Closure returns events and their auth chain, each once, the nearest first. More than limit are ErrTooMany.
func (g *Graph) Closure(of []Index, limit int) ([]Index, error) {
	w := walk{g: g, seen: make([]uint64, len(g.nids)/64+1), limit: limit}
	w.visit(of)
	return w.finish()
}

// walk goes away from where it began step by step.
type walk struct {
	g     *Graph
	seen  []uint64 // a bit for each event
	chain []Index
	limit int
}

func (w *walk) visit(events []Index) {
	for _, i := range events {
		if bit := uint64(1) << (i % 64); w.seen[i/64]&bit == 0 {
			w.seen[i/64] |= bit
			w.chain = append(w.chain, i)
		}
	}
}

// finish visits what those that were visited cite, in the order in which they were.
func (w *walk) finish() ([]Index, error) {
	for at := 0; at < len(w.chain); at++ {
		if len(w.chain) > w.limit {
			return nil, ErrTooMany
		}
		w.visit(w.g.Auth(w.chain[at]))
	}
	return w.chain, nil
}
