package room

import (
	"context"
	"errors"

	"google.golang.org/protobuf/proto"

	"hanse/pkg/matrix/id"
	"hanse/pkg/resolve"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	logv1 "hanse/proto/log/v1"
)

// review judges stored events again, each upon the states that those before it have by now. It keeps a head of its own: the
// writer's, on which the room stands as if the events had been judged so all the time. The room itself goes on meanwhile. In
// the end it takes over that head, all in one change.
type review struct {
	w *writer
	// named are the events that those judged so far follow.
	named map[id.Event]bool
	order []*redoneEvent
	late  []*newEvent // were refused, and are not any more
	// standIn is the state that stands for one that nobody knows.
	standIn func(history bool) *state.Snapshot
	// guessed is how many events were judged by a state that stood in for another; doubt are these, and what follows them.
	guessed int
	doubt   map[int64]bool
}

// verdict makes what is judged from now on see a new verdict.
func (d *review) verdict(old *roomdb.Event, e *newEvent) {
	now := old.Copy()
	now.SID, now.Flags, now.Replaces, now.Auth, now.Prev = e.sid, e.flags, e.replaces, e.auth, e.prev
	if e.flags != 0 {
		now.Ord = 0
	}
	d.w.redone[e.nid] = now
	if (old.Flags^e.flags)&flagRejected != 0 {
		d.w.resolved = memo{} // it holds for the verdict of before
	}
}

// note keeps a new verdict.
func (d *review) note(old *roomdb.Event, e *newEvent) {
	d.verdict(old, e)
	// What was redacted meanwhile is not shown any more, and history has its place among what came with it or none.
	if old.Flags != 0 && e.flags == 0 && old.RedactedBy == 0 && !e.history {
		d.late = append(d.late, e)
		return
	}
	d.order = append(d.order, &redoneEvent{nid: e.nid, sid: e.sid, replaces: e.replaces, flags: e.flags, prev: e.prev})
}

// judge gives an event that stands at a place its new verdict.
func (d *review) judge(ctx context.Context, old *roomdb.Event, e *newEvent, at parents) error {
	w := d.w
	before, err := w.stateBefore(ctx, e, at)
	if errors.Is(err, resolve.ErrBudget) {
		before, at.guessed, err = d.standIn(at.history), true, nil
	}
	if err != nil {
		return err
	}
	m := state.Map{} // before the create event
	if before != nil {
		m, e.sid = before.Map(), before.SID()
	}
	refusal, err := w.judge(ctx, e, m, at.history)
	if err != nil {
		return err
	}
	if at.guessed {
		d.guessed++
	}
	// What our users sent stands upon what we had, which was the room to us.
	if (at.guessed || at.doubtful) && !at.history && !d.w.s.localUser(e.pdu.Sender) {
		d.doubt[e.nid] = true
	}
	if refusal == nil && d.doubt[e.nid] && e.pdu.IsState() {
		e.flags |= flagSoftFailed
		refusal = errNoState
	}
	if refusal != nil {
		w.s.log.Debug("event refused by the whole state", "event", old.ID, "flags", e.flags, "was", old.Flags, "err", refusal)
		return d.refuse(old, e, before, m)
	}
	after, err := w.stateAfter(e, before, m)
	if err != nil {
		return err
	}
	return d.accept(ctx, old, e, after)
}

// refuse notes an event that is no part of the room. One that is soft-failed has a state after it, for those that follow.
func (d *review) refuse(old *roomdb.Event, e *newEvent, before *state.Snapshot, m state.Map) error {
	d.note(old, e)
	if before == nil {
		return nil
	}
	_, err := d.w.stateAfter(e, before, m)
	return err
}

// accept makes an event part of the own head, as extendFork does with the room's.
func (d *review) accept(ctx context.Context, old *roomdb.Event, e *newEvent, after *state.Snapshot) error {
	known := d.named[old.ID]
	for _, p := range old.PrevEvents {
		d.named[p] = true
	}
	if e.history || known || d.doubt[e.nid] {
		d.note(old, e)
		return nil
	}
	e.replaces = replaced(e, d.w.h.state)
	d.verdict(old, e)
	extremities, snap, err := d.standAfter(ctx, e, after)
	if errors.Is(err, resolve.ErrBudget) {
		e.flags |= flagSoftFailed // as an event that arrives would not be taken
		d.note(old, e)
		return nil
	}
	if err != nil {
		return err
	}
	d.note(old, e)
	d.stand(snap, extremities)
	return nil
}

// standAfter works out where the own head stands once an event is one of its ends.
func (d *review) standAfter(ctx context.Context, e *newEvent, after *state.Snapshot) ([]extremity, *state.Snapshot, error) {
	extremities, snaps, err := d.w.extremitiesAfter(ctx, e, after, true)
	if err != nil {
		return nil, nil, err
	}
	next, err := d.w.resolveSnaps(ctx, snaps)
	if err != nil {
		return nil, nil, err
	}
	snap, err := d.w.merge(snaps, next)
	return extremities, snap, err
}

// stand moves the own head.
func (d *review) stand(snap *state.Snapshot, extremities []extremity) {
	d.w.h.snap, d.w.h.state, d.w.h.sid, d.w.h.extremities = snap, snap.Map(), snap.SID(), extremities
}

// replaced is the state event that an event takes the place of.
func replaced(e *newEvent, in state.Map) int64 {
	if !e.pdu.IsState() {
		return 0
	}
	nid, _ := in.Get(state.Key(e.pdu.Tuple()))
	return nid
}

// follows returns the events that an event follows: those that have their place, and those that are missing. It may
// have come before those.
func (d *review) follows(ctx context.Context, old *roomdb.Event) (prev []*roomdb.Event, missing []id.Event, err error) {
	if len(old.Prev) == len(old.PrevEvents) {
		prev, err = d.w.s.events(ctx, d.w.r.p, old.Prev)
		return prev, nil, err
	}
	found, err := d.w.stored(ctx, old.PrevEvents)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range old.PrevEvents {
		if ev := found[p]; ev != nil && ev.Flags&flagOutlier == 0 {
			prev = append(prev, ev)
		} else {
			missing = append(missing, p)
		}
	}
	return prev, missing, nil
}

// takeOver makes the own head the room's: the state, the verdicts and, if tell is set, an entry of the log that tells the
// readers that the state is another. Local users whose membership is another by now are in the entry. was is the room's head.
func (d *review) takeOver(ctx context.Context, was head, moved []movedMember, tell bool) (*change, error) {
	w := d.w
	if tell {
		en, err := d.entry(was.sid, moved)
		if err != nil {
			return nil, err
		}
		w.c.entries = append(w.c.entries, en)
		for _, m := range moved {
			w.c.members = append(w.c.members, memberRow{user: m.user, membership: m.now, eventNID: m.nid, eventID: m.event,
				sender: m.sender, entry: en, fresh: m.before != "join"})
		}
	}
	for _, e := range d.late {
		if err := d.deliverLate(ctx, e); err != nil {
			return nil, err
		}
	}
	if err := d.restore(ctx); err != nil {
		return nil, err
	}
	for _, e := range d.order {
		w.c.partial.redone = append(w.c.partial.redone, *e)
	}
	w.c.snaps = []offered{{w.h.snap, 0}}
	d.trim()
	if err := w.put(); err != nil {
		return nil, err
	}
	for nid, ev := range w.redone { // what is built upon them from now on needs them as they are
		w.s.cache.Add(eventKey{w.r.p.part, w.r.p.epoch, nid}, ev)
	}
	w.r.forgetResolved()
	return w.c, nil
}

// trim leaves of the states after events those after the forward extremities of the room. What the room has of others is of the time
// when it lacked members.
func (d *review) trim() {
	keep := make(map[int64]*state.Snapshot, len(d.w.h.extremities))
	for _, t := range d.w.h.extremities {
		if snap := d.w.afters[t.nid]; snap != nil {
			keep[t.nid] = snap
		}
	}
	d.w.afters, d.w.r.afters = keep, nil
}

// deliverLate gives an event its place that was refused for what we did not know.
func (d *review) deliverLate(ctx context.Context, e *newEvent) error {
	w := d.w
	e.rowExists = true
	w.c.events = append(w.c.events, e)
	_, missing, err := d.follows(ctx, &roomdb.Event{PDU: e.pdu, Prev: e.prev})
	if err != nil {
		return err
	}
	w.lack(e, missing)
	shown, err := w.applyRedaction(ctx, e, false)
	if e.withheld = !shown; err != nil || e.withheld {
		return err
	}
	en, err := w.logEntry(ctx, e, w.h.sid, nil, false)
	if err != nil {
		return err
	}
	w.c.entries = append(w.c.entries, en)
	return nil
}

// restore takes back redactions that are refused now.
func (d *review) restore(ctx context.Context) error {
	for nid, e := range d.w.redone {
		if e.Flags&(flagRejected|flagSoftFailed) == 0 || e.Type != typeRedaction || e.Redacts == "" {
			continue
		}
		target, err := d.w.find(ctx, e.Redacts)
		if err != nil {
			return err
		}
		if target != nil && target.RedactedBy == nid {
			d.w.c.partial.restored = append(d.w.c.partial.restored, redaction{target: target.NID, by: nid})
		}
	}
	for _, e := range d.w.c.partial.restored {
		delete(d.w.redone, e.target) // they are to be read anew
	}
	return nil
}

func (d *review) entry(before int64, moved []movedMember) (*entry, error) {
	w := d.w
	body := &logv1.Filled{CurrentBefore: before, CurrentAfter: w.h.sid}
	for _, m := range moved {
		body.Moved = append(body.Moved, m.proto())
	}
	stored, err := proto.Marshal(body)
	if err != nil {
		return nil, err
	}
	return &entry{kind: roomdb.KindFilled, before: before, after: w.h.sid, body: stored,
		bus: &logv1.Entry{RoomNid: d.w.r.nid, RoomId: string(d.w.r.id), Body: &logv1.Entry_Filled{Filled: body}}}, nil
}

// forget drops verdicts that were not written.
func (d *review) forget() {
	for nid := range d.w.redone {
		d.w.s.cache.Remove(eventKey{d.w.r.p.part, d.w.r.p.epoch, nid})
	}
}

// moves returns how users' memberships in the draft's state differ from those of another one.
func (w *writer) moves(ctx context.Context, users []id.User, was state.Map) ([]movedMember, error) {
	type pair struct{ old, now int64 }
	pairs := make(map[id.User]pair, len(users))
	var nids []int64
	for _, user := range users {
		key := state.Key{Type: typeMember, StateKey: string(user)}
		old, _ := was.Get(key)
		now, _ := w.h.state.Get(key)
		if _, twice := pairs[user]; old != now && !twice {
			pairs[user] = pair{old, now}
			nids = append(nids, old, now)
		}
	}
	events, err := w.s.db.Events(ctx, w.r.p.part, nids)
	if err != nil {
		return nil, err
	}
	var moved []movedMember
	for user, p := range pairs {
		m := movedMember{user: user, now: "leave", nid: p.now}
		if e := events[p.old]; e != nil {
			m.before = e.Membership()
		}
		if e := events[p.now]; e != nil {
			m.now, m.event, m.sender = e.Membership(), e.ID, e.Sender
		}
		moved = append(moved, m)
	}
	return moved, nil
}
