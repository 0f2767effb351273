package room

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

// run judges the event and what follows it again, some at a time, and makes the room go over to the outcome.
func (v *toldReview) run(ctx context.Context) (*change, error) {
	err := v.look(ctx)
	if errors.Is(err, errTooLarge) {
		return v.giveUp(ctx, err)
	}
	if err != nil {
		return nil, err
	}
	for begun := false; ; begun = true {
		if err := v.s.reviewStep(ctx, "chunk"); err != nil {
			return nil, err
		}
		c, err := v.chunk(ctx, begun)
		if errors.Is(err, errTooLarge) {
			return v.giveUp(ctx, err)
		}
		if err != nil {
			return nil, err
		}
		if c == nil {
			continue
		}
		if err := c.wait(ctx); err != nil {
			v.forget()
			return nil, err
		}
		return c, nil
	}
}

// giveUp leaves the event as it is.
func (v *toldReview) giveUp(ctx context.Context, why error) (*change, error) {
	r, err := v.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer r.unlock()
	v.s.log.Error("the state before an event stays as it was told", "room", v.roomID, "event", v.first.ID, "err", why)
	v.outcomes.WithLabelValues("too_large").Inc()
	w := v.s.newWriter(ctx, r)
	w.c.judgedAgain = v.told.nid
	if err := w.put(); err != nil {
		return nil, err
	}
	return w.c, nil
}

func (v *toldReview) lock(ctx context.Context) (*room, error) {
	r, err := v.s.lockWhole(ctx, v.p, v.roomID)
	if err == nil && r == nil {
		err = fmt.Errorf("%s lacks members again: %w", v.roomID, errStale)
	}
	return r, err
}

// seenEvent is what is remembered of an event that may follow the first.
type seenEvent struct {
	nid  int64
	id   id.Event
	prev []id.Event
	upon bool // its state is worked out from its prev events
}

// look finds the events that follow the first, as far as the timeline was read, and those that came since.
func (v *toldReview) look(ctx context.Context) error {
	told, err := v.noted(ctx)
	if err != nil {
		return err
	}
	nids, err := v.span(ctx)
	if err != nil {
		return err
	}
	for nid := range v.history {
		nids = append(nids, nid)
	}
	nids = slices.DeleteFunc(nids, func(nid int64) bool { return v.seen[nid] })
	if len(v.seen)+len(nids) > reviewLimit {
		return fmt.Errorf("%w: more than %d", errTooLarge, reviewLimit)
	}
	var events []seenEvent
	for chunk := range slices.Chunk(nids, redoChunk) {
		read, err := v.s.readEvents(ctx, v.p, chunk, false)
		if err != nil {
			return err
		}
		for _, e := range read {
			v.seen[e.NID] = true
			v.s.metrics.reviewed.Inc()
			v.live = max(v.live, e.Ord)
			first := e.NID == v.first.NID
			events = append(events, seenEvent{nid: e.NID, id: e.ID, prev: e.PrevEvents,
				upon: first || !told[e.NID] && len(e.Prev) == len(e.PrevEvents)})
		}
	}
	if !v.seen[v.first.NID] {
		v.seen[v.first.NID] = true
		events = append(events, seenEvent{nid: v.first.NID, id: v.first.ID, prev: v.first.PrevEvents, upon: true})
	}
	v.enqueue(events)
	return nil
}

// noted reads which events of the room stand upon what was told, and which were refused.
func (v *toldReview) noted(ctx context.Context) (told map[int64]bool, err error) {
	rows, err := v.s.shards.For(v.p.part).Query(ctx, sqlToldOf, int32(v.p.part), v.w.r.nid)
	if err != nil {
		return nil, fmt.Errorf("events upon states that were told: %w", err)
	}
	told = make(map[int64]bool)
	var nid, pos int64
	var is bool
	_, err = pgx.ForEachRow(rows, []any{&nid, &is, &pos}, func() error {
		if is {
			told[nid] = true
		} else {
			v.history[nid] = pos != 0
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("events upon states that were told: %w", err)
	}
	return told, nil
}

// span reads which events of the timeline may follow the first and were not read yet.
func (v *toldReview) span(ctx context.Context) ([]int64, error) {
	holes, end := roomdb.At(v.told.pos).LateOrd(), roomdb.End.LateOrd()
	rows, err := v.s.shards.For(v.p.part).Query(ctx, sqlSpan, int32(v.p.part), v.w.r.nid, holes, end, v.live, reviewLimit+1)
	if err != nil {
		return nil, fmt.Errorf("events behind %s: %w", v.first.ID, err)
	}
	nids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, fmt.Errorf("events behind %s: %w", v.first.ID, err)
	}
	return nids, nil
}

// enqueue puts those of the events that follow others which are judged again into the queue. An event whose state was told
// itself stands upon that until its own turn comes, and so does what follows only it.
func (v *toldReview) enqueue(events []seenEvent) {
	children := make(map[id.Event][]*seenEvent, len(events))
	var next []*seenEvent
	for i := range events {
		e := &events[i]
		for _, p := range e.prev {
			children[p] = append(children[p], e)
		}
		if e.nid == v.first.NID || slices.ContainsFunc(e.prev, func(p id.Event) bool { return v.follow[p] }) {
			next = append(next, e)
		}
	}
	var found []*seenEvent
	for len(next) > 0 {
		e := next[0]
		next = next[1:]
		if v.follow[e.id] || !e.upon {
			continue
		}
		v.follow[e.id] = true
		found = append(found, e)
		next = append(next, children[e.id]...)
	}
	for _, e := range namedFirst(found, func(e *seenEvent) (id.Event, []id.Event) { return e.id, e.prev }) {
		v.queue = append(v.queue, e.nid)
	}
}

// chunk judges some events. When there are no more the room is taken over: the change says that.
func (v *toldReview) chunk(ctx context.Context, begun bool) (*change, error) {
	r, err := v.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer r.unlock()
	v.w.r, v.w.c.room = r, r // the room may have been read anew: what is drafted rests on commits
	if !begun {
		if err := v.look(ctx); err != nil { // what came since
			return nil, err
		}
		if err := v.stands(ctx, false); err != nil {
			return nil, err
		}
	}
	for range redoChunk {
		if len(v.queue) == 0 {
			if err := v.look(ctx); err != nil {
				return nil, err
			}
			if len(v.queue) == 0 {
				return v.finish(ctx)
			}
		}
		if err := v.one(ctx, v.queue[0]); err != nil {
			return nil, err
		}
		v.queue = v.queue[1:]
	}
	return nil, nil
}

// one judges an event again.
func (v *toldReview) one(ctx context.Context, nid int64) error {
	old, err := v.s.event(ctx, v.p, nid)
	if err != nil {
		return err
	}
	prev, _, err := v.follows(ctx, old)
	if err != nil {
		return err
	}
	e := &newEvent{pdu: old.PDU, nid: old.NID, ord: old.Ord, history: old.History() || v.history[nid]}
	at := parents{history: e.history}
	for _, p := range prev {
		e.prev = append(e.prev, p.NID)
		at.prev = append(at.prev, v.w.present(p))
	}
	if v.given && nid == v.first.NID {
		at.prev, at.also = nil, []*state.Snapshot{v.before}
	}
	return v.judge(ctx, old, e, at)
}

// stands makes the own head stand upon the forward extremities of the room that do not follow the first event and, if with is set, upon
// those of the own head that do. If there are none it stands before the first event.
func (v *toldReview) stands(ctx context.Context, with bool) error {
	own := v.w.h.extremities
	v.w.h = v.w.r.head
	var extremities []extremity
	for _, t := range v.w.r.head.extremities {
		if !v.follow[t.pdu.ID] {
			extremities = append(extremities, t)
		}
	}
	for _, t := range own {
		if with && v.follow[t.pdu.ID] {
			extremities = append(extremities, t)
		}
	}
	if len(extremities) == 0 {
		prev, _, err := v.follows(ctx, v.first)
		if err != nil {
			return err
		}
		if with { // none of what follows is accepted
			for _, p := range prev {
				extremities = append(extremities, extremity{p.NID, p.PDU})
			}
		}
		v.stand(v.before, extremities)
		return nil
	}
	v.w.h.extremities = nil // the state after the room's only end may be another now
	var snaps []*state.Snapshot
	for _, t := range extremities {
		snap, err := v.w.afterExtremity(ctx, t)
		if err != nil {
			return err
		}
		snaps = append(snaps, snap)
	}
	m, err := v.w.resolveSnaps(ctx, snaps)
	if err != nil {
		return err
	}
	snap, err := v.w.merge(snaps, m)
	if err != nil {
		return err
	}
	v.stand(snap, extremities)
	return nil
}

// finish makes the room go over to the own head.
func (v *toldReview) finish(ctx context.Context) (*change, error) {
	w, was := v.w, v.w.r.head
	if err := v.stands(ctx, true); err != nil {
		return nil, err
	}
	var users []id.User
	for ch := range state.Diff(was.state, w.h.state) {
		if ch.Key.Type == typeMember {
			users = append(users, id.User(ch.Key.StateKey))
		}
	}
	moved, err := w.moves(ctx, users, was.state)
	if err != nil {
		return nil, err
	}
	var local []movedMember
	for _, m := range moved {
		w.count(m)
		if m.now != m.before && v.s.localUser(m.user) {
			local = append(local, m)
		}
	}
	other := !was.state.Equal(w.h.state)
	if other {
		w.h.fullPos = fullHere
	}
	c, err := v.takeOver(ctx, was, local, other)
	if err != nil {
		return nil, err
	}
	v.outcomes.WithLabelValues("changed").Inc()
	v.s.log.Info("events are judged again", "room", v.roomID, "event", v.first.ID, "events", len(v.follow))
	return c, nil
}
