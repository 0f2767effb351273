package room

import (
	"context"
	"time"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

// A room that was joined without its members is written and read while they are being fetched. Here is what differs then:
//
//   - The state knows of members only what came with the join and what events cite: the member events that an accepted
//     event names as its auth events become part of the state before it, where that has no others. So an event is never
//     refused for a member that was omitted, and its sender has a name.
//   - The state after a prev event that we lack is not asked for, as it is large: what we know stands in for it.
//   - Every event is noted, to be judged again by the whole state (partial_redo.go).

// withMembers adds the member events among an event's auth events to a state that has none for these users.
func withMembers(m state.Map, cited []*roomdb.Event) state.Map {
	for _, c := range cited {
		if c.Type != typeMember || c.StateKey == nil || c.Flags&flagRejected != 0 {
			continue
		}
		if key := state.Key(c.Tuple()); !m.Has(key) {
			m = m.Set(key, c.NID)
		}
	}
	return m
}

// withCited is withMembers for the state before an event.
func (w *writer) withCited(ctx context.Context, e *newEvent, before *state.Snapshot) (*state.Snapshot, error) {
	if before == nil {
		return nil, nil
	}
	cited, err := w.cited(ctx, e)
	if err != nil {
		return nil, err
	}
	m := withMembers(before.Map(), cited)
	if m.Equal(before.Map()) {
		return before, nil
	}
	return w.batch().Child(before, w.nid(), m)
}

// withOwn is the current state with a member who came before our join, and was omitted: another local user, mostly, who
// joined at the same time.
func (w *writer) withOwn(e *newEvent) state.Map {
	if !w.h.partial() || e.pdu.Type != typeMember || e.pdu.StateKey == nil {
		return w.h.state
	}
	key := state.Key(e.pdu.Tuple())
	if w.h.state.Has(key) {
		return w.h.state
	}
	return w.h.state.Set(key, e.nid)
}

// unsure notes an event that is judged by a state that lacks members.
func (w *writer) unsure(e *newEvent, history bool) {
	w.c.partial.unsure = append(w.c.partial.unsure, unsureEvent{n: w.nid(), nid: e.nid, history: history})
}

// standIn is the state that stands for one that cannot be known yet: for history that with which we joined, for other
// events the present one.
func (w *writer) standIn(ctx context.Context, history bool) (*state.Snapshot, error) {
	if !history || w.r.partial == nil {
		return w.h.snap, nil
	}
	join, err := w.s.event(ctx, w.r.p, w.r.partial.joinNID)
	if err != nil {
		return nil, err
	}
	return w.open(ctx, join.SID)
}

// beginPartial makes a join the only end of a room, with the state before it as far as we were told. The servers that are
// said to be in the room count with one member each, so that they are sent what we say, until the members are known.
func (w *writer) beginPartial(ctx context.Context, e *newEvent, after *state.Snapshot, answer *joinAnswer) error {
	if err := w.r.waitCommitted(ctx); err != nil {
		return err
	}
	before := w.r.head.sid
	if err := w.countPartial(ctx, after.Map()); err != nil {
		return err
	}
	for server, n := range w.s.said(answer) {
		w.c.servers[server] += n
	}
	var err error
	if w.c.servers, err = w.r.uncounted(ctx, w.c.servers); err != nil {
		return err
	}
	w.c.partial.begin = &partialRoom{joinNID: e.nid, via: answer.via, sinceTS: time.Now().UnixMilli()}
	w.c.snaps = append(w.c.snaps, offered{after, 0})
	w.h.snap, w.h.state, w.h.sid, w.h.fullPos = after, after.Map(), after.SID(), roomdb.PartialState
	w.add(e)
	en, err := w.logEntry(ctx, e, before, nil, false)
	if err != nil {
		return err
	}
	w.c.entries = append(w.c.entries, en)
	w.c.members = append(w.c.members, memberRow{user: e.pdu.Sender, membership: "join", eventNID: e.nid, eventID: e.pdu.ID,
		sender: e.pdu.Sender, entry: en, fresh: true})
	return nil
}

// countPartial counts the members that are known.
func (w *writer) countPartial(ctx context.Context, m state.Map) error {
	var nids []int64
	for _, nid := range m.Type(typeMember) {
		nids = append(nids, nid)
	}
	members, err := w.s.events(ctx, w.r.p, nids)
	if err != nil {
		return err
	}
	w.h.joined, w.h.invited, w.h.joinedLocal = 0, 0, 0
	w.c.servers = make(map[id.Server]int32)
	for _, e := range members {
		w.count(movedMember{user: id.User(*e.StateKey), now: e.Membership()})
	}
	return nil
}
