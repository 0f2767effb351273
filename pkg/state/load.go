package state

import (
	"context"
	"fmt"
)

// read loads snapshots that are not in the cache: from the nearest ancestor that is,
// if it is near, or else by leaps.
func (s *Store) read(ctx context.Context, db Querier, own []Ref, out map[Ref]Map) (err error) {
	if len(own) == 0 {
		return nil
	}
	defer func() { s.settle(own, out, err) }()
	var warm, cold []Ref
	s.mu.Lock()
	for _, ref := range own {
		if s.cache.parts[ref.Part] > 0 {
			warm = append(warm, ref)
		} else {
			cold = append(cold, ref)
		}
	}
	s.mu.Unlock()
	if len(warm) > 0 {
		paths, err := nearPaths(ctx, db, warm)
		if err != nil {
			return err
		}
		for i := range paths {
			p := &paths[i]
			n, from := s.nearest(p)
			if n < 0 || len(missing(p.ref.Part, p.hops[:n])) > 0 {
				cold = append(cold, p.ref)
				continue
			}
			if out[p.ref], err = s.replay(p, n, from); err != nil {
				return err
			}
		}
	}
	if len(cold) == 0 {
		return nil
	}
	return s.readCold(ctx, db, cold, out)
}

// nearest returns how many hops of p lead to a state that is at hand, and that
// state; -1 if none does.
func (s *Store) nearest(p *path) (int, Map) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, h := range p.hops {
		if h.next == 0 {
			return i + 1, Map{}
		}
		if m, ok := s.cache.get(Ref{p.ref.Part, h.next}); ok {
			return i + 1, m
		}
	}
	return -1, Map{}
}

func (s *Store) readCold(ctx context.Context, db Querier, refs []Ref, out map[Ref]Map) error {
	paths, err := walkPaths(ctx, db, refs)
	if err != nil {
		return err
	}
	type job struct {
		p    *path
		n    int
		from Map
	}
	jobs := make([]job, 0, len(paths))
	var want []wanted
	for i := range paths {
		p := &paths[i]
		n, from := s.nearest(p)
		if n < 0 {
			return p.complete()
		}
		want = append(want, missing(p.ref.Part, p.hops[:n])...)
		jobs = append(jobs, job{p, n, from})
	}
	if err := fetchPayloads(ctx, db, want); err != nil {
		return err
	}
	for _, j := range jobs {
		s.leaps.Inc()
		if out[j.p.ref], err = s.replay(j.p, j.n, j.from); err != nil {
			return err
		}
	}
	return nil
}

// replay applies the first n hops of p, from the last to the first, and caches the
// result and the states between leaps: the next load of the room will meet them.
func (s *Store) replay(p *path, n int, m Map) (Map, error) {
	part := p.ref.Part
	near, changes := p.hops[n-1].next, 0
	for i := n - 1; i >= 0; i-- {
		h := &p.hops[i]
		es, err := decode(h.sid, h.payload)
		h.payload = nil
		if err != nil {
			return Map{}, fmt.Errorf("snapshot %d/%d: %w", part, h.sid, err)
		}
		s.payloads.Add(float64(len(es)))
		m = m.apply(es)
		changes += len(es)
		if i > 0 && h.span == 1 && p.hops[i-1].span == 1 {
			continue
		}
		s.mu.Lock()
		s.cache.put(Ref{part, h.sid}, m, Ref{part, near}, changes)
		s.mu.Unlock()
		near, changes = h.sid, 0
	}
	m.ID() // hash what is new now, rather than in the first Diff
	return m, nil
}
