package room

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"hanse/pkg/matrix/id"
	"hanse/pkg/resolve"
	"hanse/pkg/roomdb"
)

// The state that comes with a join is what one server tells. Its events are signed and authorised, so nothing false can be in it, but
// events may have been left out or be old. So afterwards, in the background, two other servers in the room are asked for the state
// before the join. What most of the three say counts; if they all differ the states are resolved together. If the outcome is another
// than what came with the join, the join and all that follows it are judged again. Whoever owns the partition does it: a row in
// told_event says so until it is done.

const (
	// joinAsks is how often others are asked until one of them can tell: they may not have heard of our join yet.
	joinAsks = 8
	// joinAskMin and joinAskMax bound the wait between two times.
	joinAskMin, joinAskMax = 5 * time.Second, 10 * time.Minute
)

// joinedBy is what is noted of a state that a server told with a join.
func (s *Service) joinedBy(via id.Server) telling {
	if s.faults.asks != nil {
		return telling{*s.faults.asks, via}
	}
	return telling{joinAsks, via}
}

// compareJoinSoon asks others about the state that came with the join of a room, if nobody does so yet.
func (s *Service) compareJoinSoon(p *lease, roomID id.Room) {
	key := fillKey{p.epoch, roomID}
	if _, busy := s.comparing.LoadOrStore(key, true); busy {
		return
	}
	s.work.Go(func() {
		defer s.comparing.Delete(key)
		wait := joinAskMin
		for p.ctx.Err() == nil {
			t, settled, err := s.compareJoin(p.ctx, p, roomID)
			switch {
			case err == nil && t == nil:
				return
			case err == nil && settled:
				continue // with the join of another stay
			case err != nil && p.ctx.Err() == nil:
				s.log.Warn("the state that came with a join is compared later", "room", roomID, "retry_in", wait, "err", err)
			}
			if !pause(p.ctx, wait) {
				return
			}
			wait = min(2*wait, joinAskMax)
		}
	})
}

// compareJoin asks others about the state that came with a join, and mends what differs; t is nil if there is no such join. settled
// says that nothing is left to be done about it.
func (s *Service) compareJoin(ctx context.Context, p *lease, roomID id.Room) (t *toldEvent, settled bool, err error) {
	t, join, in, err := s.joinToCompare(ctx, p, roomID)
	if err != nil || t == nil {
		return t, false, err
	}
	var told []fetchedState
	if in != nil {
		if told, err = in.opinions(ctx, join.ID, stateBeforeJoin(join)); err != nil {
			return t, false, err
		}
	}
	// Other events of the room may be judged again at the moment.
	key := fillKey{p.epoch, roomID}
	for {
		if _, busy := s.reviewing.LoadOrStore(key, true); !busy {
			break
		}
		if !pause(ctx, fillRetryMin) {
			return t, false, ctx.Err()
		}
	}
	defer s.reviewSoon(p, roomID) // for what became ready meanwhile
	defer s.reviewing.Delete(key)
	p.judging.Add(1)
	defer p.judging.Add(-1)
	again := in != nil && len(told) == 0 && t.asks > 1
	v, c, err := s.beginComparison(ctx, p, roomID, t, told, again)
	if err == nil && v != nil {
		c, err = s.review(ctx, v)
	}
	if err == nil && c != nil {
		err = c.wait(ctx)
	}
	return t, !again, err
}

// stateBeforeJoin asks for the state before our join, or that after the event that the join follows where it is not known yet.
func stateBeforeJoin(join *roomdb.Event) asks {
	return func(in *intake, ctx context.Context, at id.Event) (fetchedState, error) {
		st, err := in.stateBefore(ctx, at)
		var answer *fedError
		if errors.As(err, &answer) && answer.status == http.StatusNotFound && len(join.PrevEvents) == 1 {
			return in.stateAfter(ctx, join.PrevEvents[0])
		}
		return st, err
	}
}

// joinToCompare returns the join of a room that is to be compared; nil if there is none. in is nil if nobody else can be asked.
func (s *Service) joinToCompare(ctx context.Context, p *lease, roomID id.Room) (t *toldEvent, join *roomdb.Event, in *intake, err error) {
	r, err := s.lockWhole(ctx, p, roomID)
	if err != nil || r == nil {
		return nil, nil, nil, err
	}
	t, err = r.toldJoin(ctx)
	inside := r.head.joinedLocal > 0
	r.unlock()
	if err != nil || t == nil {
		return nil, nil, nil, err
	}
	if join, err = s.event(ctx, p, t.nid); err != nil || !inside {
		return t, join, nil, err
	}
	if in, err = s.intake(ctx, roomID, t.via); err != nil {
		return nil, nil, nil, err
	}
	others, err := in.others(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	if len(others) == 0 {
		in = nil
	}
	return t, join, in, nil
}

// beginComparison compares what came with a join with what others told. If they differ the review is to be run; else the change says
// that the join is done, or that others are to be asked again.
func (s *Service) beginComparison(ctx context.Context, p *lease, roomID id.Room, t *toldEvent, told []fetchedState, again bool) (*toldReview, *change, error) {
	r, err := s.lockWhole(ctx, p, roomID)
	if err != nil || r == nil {
		return nil, nil, err
	}
	defer r.unlock()
	v := s.newToldReview(ctx, r, t)
	v.given, v.outcomes = true, s.metrics.joins
	if v.first, err = s.event(ctx, p, t.nid); err != nil {
		return nil, nil, err
	}
	if len(told) == 0 {
		c, err := v.compared(ctx, "unknown", again)
		return nil, c, err
	}
	mine, err := v.w.open(ctx, v.first.SID)
	if err != nil {
		return nil, nil, err
	}
	at := parents{only: true}
	for _, st := range prevailing(append([]fetchedState{{Map: mine.Map()}}, told...)) {
		at.fetched = append(at.fetched, st.Map)
	}
	v.before, err = v.w.stateBefore(ctx, &newEvent{pdu: v.first.PDU, nid: v.first.NID}, at)
	switch {
	case errors.Is(err, resolve.ErrBudget):
		s.log.Warn("the state that came with a join stays as it was told", "room", roomID, "err", err)
		c, err := v.compared(ctx, "too_large", false)
		return nil, c, err
	case err != nil:
		return nil, nil, err
	case v.before.Map().Equal(mine.Map()):
		c, err := v.compared(ctx, "same", false)
		return nil, c, err
	}
	refusal, err := v.w.judge(ctx, &newEvent{pdu: v.first.PDU, nid: v.first.NID}, v.before.Map(), true)
	if err != nil {
		return nil, nil, err
	}
	if refusal != nil {
		s.log.Warn("the state that came with a join stays as it was told: by that of other servers the join would be refused",
			"room", roomID, "via", t.via, "err", refusal)
		c, err := v.compared(ctx, "refused", false)
		return nil, c, err
	}
	s.log.Warn("the state that came with a join is another than other servers tell", "room", roomID, "via", t.via,
		"entries", mine.Map().Len(), "now", v.before.Map().Len())
	return v, nil, nil
}

// compared notes that a join stands as it stood. again says that others are to be asked once more.
func (v *toldReview) compared(ctx context.Context, outcome string, again bool) (*change, error) {
	w := v.s.newWriter(ctx, v.w.r) // without what the comparison drafted
	if again {
		t := v.told
		t.asks--
		w.c.upon = append(w.c.upon, t)
	} else {
		w.c.judgedAgain = v.told.nid
		v.outcomes.WithLabelValues(outcome).Inc()
	}
	if err := w.put(); err != nil {
		return nil, fmt.Errorf("note that a join was compared: %w", err)
	}
	return w.c, nil
}
