package room

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/stateres"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

// maxResolveEvents bounds what one resolution loads.
const maxResolveEvents = 500_000

var errResolveTooLarge = errors.New("the fork is too large to be resolved")

// resolve resolves states of a room. What was resolved before is remembered by the identities of the inputs. The
// number of resolutions at once is bounded, so that rooms with forks do not take the processors from the others.
func (s *Service) resolve(ctx context.Context, r *room, maps []state.Map) (state.Map, error) {
	maps = distinct(maps)
	switch len(maps) {
	case 0:
		return state.Map{}, nil
	case 1:
		return maps[0], nil
	}
	key := resolveKey(maps)
	if m, ok := r.resolved.get(key); ok {
		return m, nil
	}
	select {
	case s.resolving <- struct{}{}:
		defer func() { <-s.resolving }()
	case <-ctx.Done():
		return state.Map{}, ctx.Err()
	}
	start := time.Now()
	m, err := s.resolveNow(ctx, r, maps)
	s.metrics.resolve.Observe(time.Since(start).Seconds())
	if err != nil {
		return state.Map{}, fmt.Errorf("resolve state of %s: %w", r.id, err)
	}
	r.resolved.put(key, m)
	return m, nil
}

func (s *Service) resolveNow(ctx context.Context, r *room, maps []state.Map) (state.Map, error) {
	var nids []int64
	for _, m := range maps {
		for _, nid := range m.All() {
			nids = append(nids, nid)
		}
	}
	src, err := s.loadChains(ctx, r.p, nids)
	if err != nil {
		return state.Map{}, err
	}
	sets := make([]stateres.Set, len(maps))
	for i, m := range maps {
		sets[i] = make(stateres.Set, m.Len())
		for k, nid := range m.All() {
			sets[i][event.Tuple(k)] = src.byNID[nid].ID
		}
	}
	set, err := stateres.Resolve(r.rules, sets, src)
	if err != nil {
		return state.Map{}, err
	}
	// Built upon one of the inputs, so that what they share stays shared.
	out := maps[0]
	for k := range maps[0].All() {
		if _, ok := set[event.Tuple(k)]; !ok {
			out = out.Delete(k)
		}
	}
	for t, eventID := range set {
		out = out.Set(state.Key(t), src.byID[eventID].NID)
	}
	return out, nil
}

// chains are events with all that they cite.
type chains struct {
	byNID map[int64]*roomdb.Event
	byID  map[id.Event]*roomdb.Event
}

// Event implements stateres.Source.
func (c *chains) Event(eventID id.Event) (*event.PDU, error) {
	if e := c.byID[eventID]; e != nil {
		return e.PDU, nil
	}
	return nil, stateres.ErrMissing
}

// Rejected implements stateres.Source.
func (c *chains) Rejected(eventID id.Event) bool {
	e := c.byID[eventID]
	return e != nil && e.Flags&flagRejected != 0
}

// loadChains loads events and their auth chains, one level at a time.
func (s *Service) loadChains(ctx context.Context, p *tenure, nids []int64) (*chains, error) {
	c := &chains{byNID: make(map[int64]*roomdb.Event), byID: make(map[id.Event]*roomdb.Event)}
	next := nids
	for len(next) > 0 {
		slices.Sort(next)
		next = slices.Compact(next)
		if len(c.byNID)+len(next) > maxResolveEvents {
			return nil, errResolveTooLarge
		}
		level, err := s.events(ctx, p, next)
		if err != nil {
			return nil, err
		}
		for _, e := range level {
			c.byNID[e.NID], c.byID[e.ID] = e, e
		}
		var deeper []int64
		for _, e := range level {
			for _, a := range e.Auth {
				if c.byNID[a] == nil {
					deeper = append(deeper, a)
				}
			}
		}
		next = deeper
	}
	return c, nil
}

func distinct(maps []state.Map) []state.Map {
	var out []state.Map
	for _, m := range maps {
		if !slices.ContainsFunc(out, m.Equal) {
			out = append(out, m)
		}
	}
	return out
}

func resolveKey(maps []state.Map) string {
	ids := make([]state.ID, len(maps))
	for i, m := range maps {
		ids[i] = m.ID()
	}
	slices.SortFunc(ids, func(a, b state.ID) int { return bytes.Compare(a[:], b[:]) })
	var key []byte
	for _, sid := range ids {
		key = append(key, sid[:]...)
	}
	return string(key)
}

// memo remembers a few results.
type memo struct {
	by   map[string]state.Map
	ring []string
}

// memoSize is how many resolutions a room remembers.
const memoSize = 8

func (m *memo) get(key string) (state.Map, bool) {
	r, ok := m.by[key]
	return r, ok
}

func (m *memo) put(key string, r state.Map) {
	if m.by == nil {
		m.by = make(map[string]state.Map, memoSize)
	}
	if _, ok := m.by[key]; ok {
		return
	}
	if len(m.ring) == memoSize {
		delete(m.by, m.ring[0])
		m.ring = m.ring[1:]
	}
	m.ring = append(m.ring, key)
	m.by[key] = r
}
