package room

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/matrix/id"
	"hanse/pkg/resolve"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

// Where an event follows events that we lack, the state before it is what other servers tell (fetched_state.go, opinions.go). A row
// in told_event says so. Once the missing events are here, the state is worked out from them. It is mostly the same. If it is
// another, the event and all that follows it are judged again (review.go), and the room goes over to the outcome. Whoever owns
// the partition does it: a row stays until it is done.
//
// Of what came with a join others are asked soon afterwards (told_join.go).

// reviewLimit bounds how many events are looked through for those that follow one.
const reviewLimit = 100_000

// errTooLarge says that too many events may follow an event to judge them all again.
var errTooLarge = errors.New("too many events may follow the event")

// reviewAfter judges events again of which a change brings the last missing prev events.
func (s *Service) reviewAfter(c *change) {
	p, roomID := c.room.p, c.room.id
	s.work.Go(func() {
		if c.wait(p.ctx) == nil {
			s.reviewSoon(p, roomID)
		}
	})
}

// reviewSoon judges events of a room again in the background, if nobody does so yet.
func (s *Service) reviewSoon(p *lease, roomID id.Room) {
	key := fillKey{p.epoch, roomID}
	if _, busy := s.reviewing.LoadOrStore(key, true); busy {
		return
	}
	s.work.Go(func() {
		for wait := fillRetryMin; ; wait = min(2*wait, fillRetryMax) {
			err := s.reviewRoom(p.ctx, p, roomID)
			if err == nil || p.ctx.Err() != nil {
				break
			}
			s.log.Warn("events are judged again later", "room", roomID, "retry_in", wait, "err", err)
			if !pause(p.ctx, wait) {
				break
			}
		}
		s.reviewing.Delete(key)
		// Another event may have become ready in the very moment.
		if t, err := s.anyReady(p.ctx, p, roomID); p.ctx.Err() == nil && (t || err != nil) {
			s.reviewSoon(p, roomID)
		}
	})
}

// lockWhole locks a room under a lease. It returns nil if the room lacks members: these are fetched first.
func (s *Service) lockWhole(ctx context.Context, p *lease, roomID id.Room) (*room, error) {
	r, err := s.lockRoom(ctx, roomID)
	if err != nil {
		return nil, err
	}
	if r.p != p {
		r.unlock()
		return nil, p.lostError()
	}
	if err := r.waitCommitted(ctx); err != nil {
		r.unlock()
		return nil, err
	}
	if !r.exists || r.head.partial() {
		r.unlock()
		return nil, nil
	}
	return r, nil
}

func (s *Service) anyReady(ctx context.Context, p *lease, roomID id.Room) (bool, error) {
	r, err := s.lockWhole(ctx, p, roomID)
	if err != nil || r == nil {
		return false, err
	}
	defer r.unlock()
	t, err := r.toldReady(ctx)
	return t != nil, err
}

// reviewRoom judges events of a room again until none is ready.
func (s *Service) reviewRoom(ctx context.Context, p *lease, roomID id.Room) error {
	p.judging.Add(1)
	defer p.judging.Add(-1)
	for {
		v, c, err := s.beginReview(ctx, p, roomID)
		if err != nil {
			return err
		}
		if v != nil {
			if c, err = s.review(ctx, v); err != nil {
				return err
			}
		}
		if c == nil {
			return nil
		}
		if err := c.wait(ctx); err != nil {
			return err
		}
	}
}

// review judges events again when few others do: each holds the ids of many.
func (s *Service) review(ctx context.Context, v *toldReview) (*change, error) {
	select {
	case s.fills <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-s.fills }()
	if err := s.reviewStep(ctx, "begin"); err != nil {
		return nil, err
	}
	return v.run(ctx)
}

// beginReview compares what was told before the next event with what its prev events make. If it is the same, or cannot be
// worked out, the change says that the event is done. Otherwise the review is to be run. Both are nil if no event is ready.
func (s *Service) beginReview(ctx context.Context, p *lease, roomID id.Room) (*toldReview, *change, error) {
	r, err := s.lockWhole(ctx, p, roomID)
	if err != nil || r == nil {
		return nil, nil, err
	}
	defer r.unlock()
	t, err := r.toldReady(ctx)
	if err != nil || t == nil {
		return nil, nil, err
	}
	v := s.newToldReview(ctx, r, t)
	if v.first, err = s.event(ctx, p, t.nid); err != nil {
		return nil, nil, err
	}
	prev, missing, err := v.follows(ctx, v.first)
	if err != nil {
		return nil, nil, err
	}
	if len(missing) > 0 {
		return nil, nil, fmt.Errorf("%d prev events of %s: %w", len(missing), v.first.ID, errMissingEvent)
	}
	told, err := v.w.open(ctx, v.first.SID)
	if err != nil {
		return nil, nil, err
	}
	v.before, err = v.w.stateBefore(ctx, &newEvent{pdu: v.first.PDU, nid: v.first.NID}, parents{prev: prev})
	switch {
	case errors.Is(err, resolve.ErrBudget):
		s.log.Warn("the state before an event stays as it was told", "room", roomID, "event", v.first.ID, "err", err)
		c, err := v.keep(told, prev, "too_large")
		return nil, c, err
	case err != nil:
		return nil, nil, err
	case v.before.Map().Equal(told.Map()):
		c, err := v.keep(told, prev, "same")
		return nil, c, err
	}
	s.log.Info("the state before an event is another than was told", "room", roomID, "event", v.first.ID)
	return v, nil, nil
}

// reviewStep is where tests look on, and where a lost lease is noticed.
func (s *Service) reviewStep(ctx context.Context, name string) error {
	if s.faults.review != nil {
		s.faults.review(name)
	}
	return ctx.Err()
}

// toldReview judges again an event before which the state was told wrongly, and what follows it.
type toldReview struct {
	review
	s      *Service
	p      *lease
	roomID id.Room
	told   toldEvent
	first  *roomdb.Event
	before *state.Snapshot // as its prev events make it
	// follow are the events that are judged again, by id. queue are those that are left, each behind those it names.
	follow map[id.Event]bool
	queue  []int64
	// given says that before is not worked out from the prev events, which are not here: of a join others told it.
	given bool
	// outcomes counts what comes of it.
	outcomes *prometheus.CounterVec
	// seen are the events that were looked through, history those refused ones that fill holes. live is the last position in
	// the timeline that was read.
	seen, history map[int64]bool
	live          int64
}

func (s *Service) newToldReview(ctx context.Context, r *room, t *toldEvent) *toldReview {
	v := &toldReview{s: s, p: r.p, roomID: r.id, told: *t, live: t.pos, outcomes: s.metrics.reviews, follow: make(map[id.Event]bool), seen: make(map[int64]bool),
		history: make(map[int64]bool), review: review{named: make(map[id.Event]bool), doubt: make(map[int64]bool)}}
	v.w = s.newWriter(ctx, r)
	v.w.redone = make(map[int64]*roomdb.Event)
	v.w.c.judgedAgain = t.nid
	v.standIn = func(bool) *state.Snapshot { return v.before }
	return v
}

// keep notes that an event stands as it stood, now upon its prev events.
func (v *toldReview) keep(told *state.Snapshot, prev []*roomdb.Event, outcome string) (*change, error) {
	w, e := v.w, v.first
	w.c.states, w.afters = nil, nil // of no use
	var nids []int64
	for _, p := range prev {
		nids = append(nids, p.NID)
	}
	w.c.partial.redone = []redoneEvent{{nid: e.NID, sid: told.SID(), replaces: e.Replaces, flags: e.Flags, prev: nids}}
	if err := w.put(); err != nil {
		return nil, err
	}
	now := e.Copy()
	now.Prev = nids
	v.s.cache.Add(eventKey{v.p.part, v.p.epoch, e.NID}, now)
	v.outcomes.WithLabelValues(outcome).Inc()
	return w.c, nil
}
