package room

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"hanse/pkg/state"
)

// States that nothing refers to: those after events of a fork upon which nobody built, and what a room stood upon before its
// members were known. Each partition's owner removes them now and then (state.Writer.Collect).

// collectGrace is for how long it is noted which states come into use before it is found out which do not: what was being
// drafted when that began is committed or given up by then.
const collectGrace = 10 * time.Minute

// errJudging says that a room's events are being judged again, upon states that nothing refers to yet.
var errJudging = errors.New("events of a room are being judged again")

// collectAll removes states from one owned partition after the other, until ctx ends.
func (s *Service) collectAll(ctx context.Context) {
	if s.cfg.CollectEvery == 0 {
		return
	}
	for {
		for _, part := range rand.Perm(len(s.leases)) {
			if !pause(ctx, s.cfg.CollectEvery/time.Duration(len(s.leases))) {
				return
			}
			if p := s.leases[part].Load(); p != nil {
				s.work.Go(func() { s.collect(p, collectGrace) })
			}
		}
	}
}

// collect removes the states of a partition to which nothing refers. What fails is tried again when its turn comes.
func (s *Service) collect(p *lease, grace time.Duration) {
	began := time.Now()
	n, err := s.states.Collect(p.ctx, s.shards.For(p.part), state.Collection{Part: p.part, Epoch: p.epoch,
		Held: func(ctx context.Context) ([]int64, error) {
			if !pause(ctx, 2*grace) {
				return nil, ctx.Err()
			}
			return s.heldStates(ctx, p)
		}})
	s.metrics.collected.Add(float64(n))
	switch {
	case err == nil:
		s.log.Info("states removed", "part", p.part, "states", n, "took", time.Since(began))
	case p.ctx.Err() != nil || errors.Is(err, errJudging) || errors.Is(err, state.ErrCollecting) || errors.Is(err, state.ErrFenced):
		s.log.Debug("unreferenced states could not be removed", "part", p.part, "err", err)
	default:
		s.metrics.collectFailures.Inc()
		s.log.Warn("unreferenced states could not be removed", "part", p.part, "err", err)
	}
}

// heldStates are the numbers of the states upon which rooms in memory may build.
func (s *Service) heldStates(ctx context.Context, p *lease) ([]int64, error) {
	if p.judging.Load() > 0 {
		return nil, errJudging
	}
	p.mu.Lock()
	rooms := slices.Collect(maps.Values(p.rooms))
	p.mu.Unlock()
	var sids []int64
	for _, r := range rooms {
		held, err := r.heldStates(ctx)
		if err != nil {
			return nil, err
		}
		sids = append(sids, held...)
	}
	return sids, nil
}

// heldStates waits until nobody drafts and all is committed: what is behind the head and the states after recent events is
// of no use to the room then. It does not count as use of the room.
func (r *room) heldStates(ctx context.Context) (sids []int64, err error) {
	select {
	case r.sem <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer r.unlock()
	if err := r.waitCommitted(ctx); err != nil && !errors.Is(err, errStale) {
		return nil, err
	}
	if r.dead.Load() {
		return nil, nil // it is read anew
	}
	if r.head.snap != nil {
		sids = append(sids, r.head.sid)
	}
	for _, snap := range r.afters {
		sids = append(sids, snap.SID())
	}
	return sids, nil
}
