package sync

import (
	"context"
	"slices"

	"hanse/pkg/roomdb"
	"hanse/pkg/view"
)

// tellOther adds a room that the user is not in: an invite, a knock, or one that it had to leave, or has left.
func (s *Service) tellOther(ctx context.Context, p *slide, a *slideAnswer, pr *prefs, t *task) error {
	gone := t.r.Membership == "leave" || t.r.Membership == "ban"
	if t.known && t.was.Live && !t.initial && p.since != nil && t.r.Seq <= p.since.UserSeq && !t.more && !t.expanded {
		return nil
	}
	if !gone {
		if t.seen == nil || t.r.Membership == "invite" && !pr.tellsInvite(t.r.Sender) {
			return nil
		}
		stripped, err := s.stripped(ctx, t.r)
		if err != nil {
			return err
		}
		a.tells(p, t)
		return s.addSlideRoom(ctx, p, a, &slideRoom{task: t, joined: -1, stripped: stripped})
	}
	if t.seen == nil {
		t.seen = new(seen)
		if t.known && int(t.was.Config) < len(p.told().Configs) {
			t.seen.config.Limit = p.told().Configs[t.was.Config].Limit
		}
	}
	v, err := s.viewLeft(ctx, p, pr, t)
	if err != nil {
		return err
	}
	if (*placed)(t.r).listed() {
		a.tells(p, t)
	} else {
		a.changes.Forget(keyOfRoom(t.r))
	}
	return s.addSlideRoom(ctx, p, a, v)
}

// viewLeft makes what is told of a room that the user is out of: what happened until then.
func (s *Service) viewLeft(ctx context.Context, p *slide, pr *prefs, t *task) (*slideRoom, error) {
	v := &slideRoom{task: t, joined: -1, prevBatch: roomdb.At(t.r.Pos)}
	rv := &roomView{r: t.r}
	_, member, err := s.memberUntil(ctx, t.r)
	if err != nil {
		return nil, err
	}
	if !member {
		if err := s.addLeaveEvent(ctx, rv); err != nil {
			return nil, err
		}
		v.state = rv.timeline
		return v, nil
	}
	after := min(max(t.after, t.r.JoinPos-1), t.r.Pos-1)
	if t.initial {
		after = roomdb.Start.Pos()
	}
	want := wanted{filter: &noFilter.Room.Timeline, limit: max(t.seen.config.Limit, 1)}
	if t.d, err = s.deltaFromDB(ctx, &p.asker, want, t.r, after, t.r.Pos); err != nil {
		return nil, err
	}
	v.limited, v.prevBatch = t.d.limited, t.d.start(after, t.r.Pos)
	reader := view.Reader{User: p.who.User, JoinedUntil: roomdb.At(t.r.Pos)}
	if v.timeline, err = view.Visible(ctx, s.rooms, reader, pr.ignored.Heed(t.d.events)); err != nil {
		return nil, err
	}
	if v.limited || t.initial {
		if v.bundles, err = view.Bundled(ctx, s.rooms, reader, pr.ignored, v.timeline); err != nil {
			return nil, err
		}
	}
	if !t.initial {
		v.live = len(v.timeline)
	}
	m, err := s.rooms.State(ctx, t.r.RoomPart, t.d.after)
	if err != nil {
		return nil, err
	}
	nids := []int64{t.r.EventNID} // how the user is out of the room, whatever was asked for
	if t.initial {
		if more := t.seen.Of(m, p.who.User); len(more) < largeState {
			nids = append(nids, more...)
		}
	}
	slices.Sort(nids)
	if v.state, err = s.rooms.InOrder(ctx, t.r.RoomPart, slices.Compact(nids)); err != nil {
		return nil, err
	}
	if t.initial {
		return v, s.addFace(ctx, p, v, m, true)
	}
	return v, nil
}
