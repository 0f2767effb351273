package room

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"hanse/pkg/matrix/event"
	"hanse/pkg/resolve"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

// The resolution of a large fork takes seconds, and every write to a room needs its lock. So a draft of events of other servers
// resolves under the lock only what takes a moment. If it needs more, it is given up, and the lock is released; the states are
// resolved without the lock, while the room is in use; and then the draft is built again. Results are found by the identities of
// the states, so the draft finds the result even if messages were sent meanwhile, unless an event has changed a state that is
// resolved, or was the first to follow all forward extremities of the room: then it is given up once more, at once. From the third time on
// changes of the room's state by local users wait for it, but what they say does not, so that it comes to an end.
//
// Identities are made of numbers, so a state event must have the same number in each draft: before anything is resolved
// those of the draft are stored without a place.

// briefBounds is what a resolution may cost for which a room stays locked: a millisecond or two.
var briefBounds = resolve.Budget{Visits: 1 << 14, Events: 256}

const (
	// maxUnlocked is how many resolutions of one draft are made without the lock. Those beyond it hold the room up.
	maxUnlocked = 8
	// freeUnlocked is how many of them are made while the state may change.
	freeUnlocked = 2
)

// largeFork is what a draft fails with that needs a resolution which is not for a locked room.
type largeFork struct {
	maps []state.Map
	// current says that it is about the current state.
	current bool
	// redone are stored events of which the draft has other verdicts.
	redone map[int64]*roomdb.Event
}

// Error implements error.
func (*largeFork) Error() string {
	return "a fork is too large to be resolved while the room is locked"
}

// unlockedResolutions is what was resolved without the room's lock for one draft. A nil one is of a draft that resolves everything under the lock.
type unlockedResolutions struct {
	s    *Service
	room *room
	// verdicts is how often a verdict had changed in the room when the draft was given up.
	verdicts int
	known    map[string]unlockedResult
	left     int // of maxUnlocked
	// sure says that the next resolution of the draft is a large one.
	sure bool
	// reach is how many events the draft is about, as it was given up in them before; 0 if that is open.
	reach int
	still *chan struct{}
	// void is closed when what is resolved will be of no use.
	void chan struct{}
}

// unlockedResult is a resolution, and how often a verdict had changed before it.
type unlockedResult struct {
	resolution
	verdicts int
}

// buildChange drafts a change of a room and queues it. The room comes from lock, and from again if the draft is made once more;
// which it is until do needs nothing that is to be resolved without the lock.
func (s *Service) buildChange(ctx context.Context, lock, again func(context.Context) (*room, error), do func(*writer) error) error {
	a := &unlockedResolutions{s: s, left: maxUnlocked}
	defer a.end()
	for {
		r, err := lock(ctx)
		if err != nil {
			return err
		}
		needs, stored, err := a.try(ctx, r, do)
		r.unlock()
		switch {
		case err != nil || needs == nil:
			return err
		case stored != nil:
			a.sure = true
			err = stored.wait(ctx)
		default:
			err = a.resolve(ctx, needs)
		}
		if err != nil {
			return err
		}
		lock = again
	}
}

// try makes the draft. If it needs a resolution for which the room shall not stay locked it says which, or what it has
// stored for that.
func (a *unlockedResolutions) try(ctx context.Context, r *room, do func(*writer) error) (needs *largeFork, stored *change, err error) {
	if a.room != r {
		a.room, a.known = r, nil
	}
	if a.left <= maxUnlocked-freeUnlocked && a.still == nil {
		still := make(chan struct{})
		if r.still.CompareAndSwap(nil, &still) {
			a.still = &still
		}
	}
	a.void, r.void = nil, nil
	w := a.s.newWriter(ctx, r)
	w.unlocked = a
	if err = do(w); err == nil && len(w.c.events) > 0 {
		err = w.put()
	}
	if err == nil {
		return nil, nil, nil
	}
	w.abandon()
	if !errors.As(err, &needs) {
		return nil, nil, err
	}
	a.verdicts = r.verdicts
	for _, e := range w.c.events {
		if e.reversed() {
			if needs.redone == nil {
				needs.redone = make(map[int64]*roomdb.Event)
			}
			needs.redone[e.nid] = e.stored
		}
	}
	if stored, err = w.number(ctx); stored == nil && needs.current {
		a.void = make(chan struct{})
		r.void = a.void
	}
	return needs, stored, err
}

// moves is called before the locked room's head becomes another: what is resolved of its current state may be void.
func (r *room) moves(h *head) {
	if r.void == nil {
		return
	}
	same := slices.EqualFunc(h.extremities, r.head.extremities, func(a, b extremity) bool { return a.nid == b.nid })
	if !h.state.Equal(r.head.state) || len(r.head.extremities) > 1 && !same {
		close(r.void)
		r.void = nil
	}
}

// number stores the state events of a draft that is given up, without a place, unless they are stored: so they have the
// same numbers in the next. nil if there is nothing to be stored.
func (w *writer) number(ctx context.Context) (*change, error) {
	var pdus []*event.PDU
	for _, e := range w.c.events {
		if e.pdu.IsState() && !e.rowExists && e.flags&flagRejected == 0 {
			pdus = append(pdus, e.pdu)
		}
	}
	if len(pdus) == 0 {
		return nil, nil
	}
	next := w.s.newWriter(ctx, w.r)
	if _, err := next.outliers(ctx, pdus); err != nil || len(next.c.events) == 0 {
		return nil, err
	}
	return next.c, next.put()
}

// resolve resolves what the draft needs. The room is not locked.
func (a *unlockedResolutions) resolve(ctx context.Context, needs *largeFork) error {
	a.left--
	a.sure = false
	r := a.room
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.p.ctx, cancel)()
	select {
	case r.unlockedSlot <- struct{}{}:
		defer func() { <-r.unlockedSlot }()
	case <-ctx.Done():
		return a.ended(ctx.Err())
	}
	inTime, cancelInTime := context.WithCancel(ctx)
	defer cancelInTime()
	void := a.void
	go func() {
		select {
		case <-void: // nil if it is never void
			cancelInTime()
		case <-inTime.Done():
		}
	}()
	w := &writer{s: a.s, r: r, redone: needs.redone}
	made, err := w.resolveAtLength(inTime, needs.maps, func(context.Context) (*growing, error) {
		return r.readGraphUnlocked(ctx) // which is of use in any case
	})
	if err != nil {
		return a.ended(err)
	}
	made.result.ID() // hashes are kept; the room would wait for them
	if a.known == nil {
		a.known = make(map[string]unlockedResult, 1)
	}
	a.known[resolveKey(needs.maps)] = unlockedResult{made, a.verdicts}
	a.s.metrics.unlocked.Inc()
	return nil
}

// ended is the error of a resolution without the lock; nil if it is to be another one.
func (a *unlockedResolutions) ended(err error) error {
	select {
	case <-a.void:
		return nil
	default:
	}
	if p := a.room.p; p.ctx.Err() != nil {
		return p.lostError()
	}
	return err
}

// end lets the state change again.
func (a *unlockedResolutions) end() {
	if a.still != nil {
		a.room.still.CompareAndSwap(a.still, nil)
		close(*a.still)
	}
}

// may says whether what is large is to be resolved without the lock.
func (a *unlockedResolutions) may() bool { return a != nil && a.left > 0 }

// get returns a resolution that was made without the lock, if it holds under the verdicts of the draft. If it does not, what the draft
// needs is not resolved without the lock any more: verdicts that it changes itself would change with each.
func (a *unlockedResolutions) get(ctx context.Context, w *writer, key string) (resolution, bool) {
	if a == nil {
		return resolution{}, false
	}
	k, ok := a.known[key]
	if !ok || k.verdicts == w.r.verdicts || len(k.resolution.verdicts) <= sharedVerdicts && w.holds(ctx, k.resolution.verdicts) {
		return k.resolution, ok
	}
	a.left = 0
	return resolution{}, false
}

// reaches notes that the draft was given up in its nth event, or after it, if that is what err says.
func (a *unlockedResolutions) reaches(n int, err error) {
	var needs *largeFork
	if a != nil && errors.As(err, &needs) {
		a.reach = n
	}
}

// resolveBriefly resolves states that hardly differ. It fails with *largeFork if they do not.
func (w *writer) resolveBriefly(ctx context.Context, maps []state.Map) (resolution, error) {
	s, r := w.s, w.r
	g, ok := s.graphs.Get(r)
	if !ok || w.unlocked.sure {
		return resolution{}, &largeFork{maps: maps}
	}
	known := resolution{room: r.key(), maps: maps}
	start := time.Now()
	var stats resolve.Stats
	err := r.walk(g, false, func(by *resolve.Resolver) (err error) {
		known.result, stats, err = w.resolveBy(ctx, by, maps, &resolveSource{w, ctx, ctx}, s.brief)
		return err
	})
	r.charge(stats)
	switch {
	case errors.Is(err, resolve.ErrBudget), errors.Is(err, errWalked):
		return resolution{}, &largeFork{maps: maps}
	case err != nil:
		return resolution{}, fmt.Errorf("resolve state of %s: %w", r.id, err)
	}
	s.metrics.memo.WithLabelValues("none").Inc()
	s.metrics.resolved(stats, time.Since(start))
	known.verdicts = stats.Verdicts
	return known, nil
}
