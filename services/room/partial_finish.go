package room

import (
	"context"
	"maps"

	"hanse/pkg/matrix/id"
	"hanse/pkg/state"
)

// finish makes the own head the room's: the state that is whole, the verdicts, the counts of members and of their servers,
// and an entry of the log that tells the readers. Local users whose membership is another by now are in the entry.
func (d *redo) finish(ctx context.Context) (*change, error) {
	w, was := d.w, d.w.r.head
	w.h.depth, w.h.firstOrd, w.h.notifySeq, w.h.fullPos = was.depth, was.firstOrd, was.notifySeq, fullHere
	w.h.active, w.h.bumped = was.active, was.bumped
	if err := d.count(ctx, was.state); err != nil {
		return nil, err
	}
	moved, err := d.localMoves(ctx, was.state)
	if err != nil {
		return nil, err
	}
	w.c.partial.end = true
	if t := w.s.joinedBy(d.f.in.origin); t.asks > 0 {
		w.c.upon = append(w.c.upon, toldEvent{nid: d.f.join.NID, pos: max(0, d.f.join.Ord), telling: t})
	}
	c, err := d.takeOver(ctx, was, moved, true)
	if err != nil {
		return nil, err
	}
	w.r.partial, w.r.home = nil, ""
	w.s.metrics.fillGuessed.Add(float64(d.guessed))
	return c, nil
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
	w.c.servers, err = d.w.r.uncounted(ctx, servers)
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
