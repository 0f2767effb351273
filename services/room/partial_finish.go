package room

import (
	"context"
	"maps"

	"google.golang.org/protobuf/proto"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	logv1 "hanse/proto/log/v1"
)

// finish makes the own head the room's: the state that is whole, the verdicts, the counts of members and of their servers,
// and an entry of the log that tells the readers. Local users whose membership is another by now are in the entry.
func (d *redo) finish(ctx context.Context) (*change, error) {
	w, was := d.w, d.r.head
	w.h.depth, w.h.firstOrd, w.h.notifySeq, w.h.fullPos = was.depth, was.firstOrd, was.notifySeq, fullHere
	if err := d.count(ctx, was.state); err != nil {
		return nil, err
	}
	moved, err := d.localMoves(ctx, was.state)
	if err != nil {
		return nil, err
	}
	en, err := d.entry(was.sid, moved)
	if err != nil {
		return nil, err
	}
	w.c.entries = append(w.c.entries, en)
	for _, m := range moved {
		w.c.members = append(w.c.members, memberRow{user: m.user, membership: m.now, eventNID: m.nid, eventID: m.event,
			sender: m.sender, entry: en, fresh: m.before != "join"})
	}
	for _, e := range d.late {
		if err := d.deliverLate(ctx, e); err != nil {
			return nil, err
		}
	}
	if err := d.restore(ctx); err != nil {
		return nil, err
	}
	w.c.partial.end = true
	for _, e := range d.order {
		w.c.partial.redone = append(w.c.partial.redone, *e)
	}
	w.c.snaps = []offered{{w.h.snap, 0}}
	d.trim()
	if err := w.put(); err != nil {
		return nil, err
	}
	d.r.partial, d.r.home = nil, ""
	w.s.metrics.fillGuessed.Add(float64(d.guessed))
	for nid, ev := range w.redone { // what is built upon them from now on needs them as they are
		w.s.cache.Add(eventKey{d.r.p.part, d.r.p.epoch, nid}, ev)
	}
	d.r.forgetResolved()
	return w.c, nil
}

// trim leaves of the states after events those after the ends of the room. What the room has of others is of the time
// when it lacked members.
func (d *redo) trim() {
	keep := make(map[int64]*state.Snapshot, len(d.w.h.tips))
	for _, t := range d.w.h.tips {
		if snap := d.w.afters[t.nid]; snap != nil {
			keep[t.nid] = snap
		}
	}
	d.w.afters, d.r.afters = keep, nil
}

// deliverLate gives an event its place that was refused for what we did not know.
func (d *redo) deliverLate(ctx context.Context, e *newEvent) error {
	w := d.w
	e.place = true
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
func (d *redo) restore(ctx context.Context) error {
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

func (d *redo) entry(before int64, moved []movedMember) (*entry, error) {
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
		bus: &logv1.Entry{RoomNid: d.r.nid, RoomId: string(d.r.id), Body: &logv1.Entry_Filled{Filled: body}}}, nil
}

// count sets the counts of members: those of the state before our join, and what changed since.
func (d *redo) count(ctx context.Context, was state.Map) error {
	w := d.w
	joined, invited, servers := d.st.joined, d.st.invited, maps.Clone(d.st.servers)
	var users []id.User
	for ch := range state.Diff(d.st.m, w.h.state) {
		if ch.Key.Type == typeMember {
			users = append(users, id.User(ch.Key.StateKey))
		}
	}
	moved, err := w.moves(ctx, users, d.st.m)
	if err != nil {
		return err
	}
	for _, m := range moved {
		joined += m.delta("join")
		invited += m.delta("invite")
		servers[m.user.Server()] += m.delta("join")
	}
	w.h.joined, w.h.invited, w.h.joinedLocal = joined, invited, 0
	for server, n := range servers {
		if w.s.servers.IsLocal(server) {
			w.h.joinedLocal += n
		}
	}
	w.c.servers, err = d.r.uncounted(ctx, servers)
	return err
}

// localMoves are the memberships of local users that differ from what they were taken for.
func (d *redo) localMoves(ctx context.Context, was state.Map) ([]movedMember, error) {
	users := append([]id.User(nil), d.st.local...)
	for key := range was.Type(typeMember) {
		if user := id.User(key.StateKey); d.f.s.localUser(user) {
			users = append(users, user)
		}
	}
	for ch := range state.Diff(d.st.m, d.w.h.state) {
		if user := id.User(ch.Key.StateKey); ch.Key.Type == typeMember && d.f.s.localUser(user) {
			users = append(users, user)
		}
	}
	moved, err := d.w.moves(ctx, users, was)
	changed := moved[:0]
	for _, m := range moved {
		if m.now != m.before {
			changed = append(changed, m)
		}
	}
	return changed, err
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
