package sync

import (
	"context"
	"slices"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	"hanse/pkg/userdb"
	"hanse/pkg/view"
)

// roomView is a room's part of an answer before it is written.
type roomView struct {
	r         *userdb.Membership
	timeline  []*roomdb.Event
	bundles   view.Bundles // what relates to the timeline, if it is limited
	limited   bool
	prevBatch roomdb.Place
	state     []*roomdb.Event
	later     []int64 // the rest of a large state, which is read while it is sent
	rest      rest    // where
	ephemeral [][]byte
	data      [][]byte
	summary   *summary
	unread    *unread
	news      bool // there is more than what another worker may have told already
}

// incremental writes what is new in a room; nil if the filter leaves nothing of it. news says whether it is worth an
// answer before its time.
func (s *Service) incremental(ctx context.Context, a *answer, p *poll, m *moment, r *userdb.Membership, after int64) (json []byte, news bool, err error) {
	upTo := m.at(r.RoomPart)
	pr, err := s.prefsOf(ctx, p.user)
	if err != nil {
		return nil, false, err
	}
	d, err := s.delta(ctx, &p.asker, p.wanted(), pr, r, after, upTo)
	if err != nil {
		return nil, false, err
	}
	v := &roomView{r: r, data: p.roomData[r.Room], limited: d.limited, prevBatch: d.start(after, upTo)}
	reader := view.Reader{User: p.who.User, Joined: true, CurrentSID: d.after}
	if v.timeline, err = view.Visible(ctx, s.rooms, reader, pr.ignored.Heed(d.events)); err != nil {
		return nil, false, err
	}
	if v.limited {
		if v.bundles, err = s.bundlesOf(ctx, &p.asker, pr, v.timeline); err != nil {
			return nil, false, err
		}
	}
	if len(d.members) > 0 {
		if v.summary, err = s.summary(ctx, p.who.User, r, d.after); err != nil {
			return nil, false, err
		}
	}
	if err := s.addStateDelta(ctx, p, v, d); err != nil {
		return nil, false, err
	}
	s.addEphemeral(p, v, d.receipts)
	if v.unread, err = s.unread(ctx, &p.asker, pr, r, upTo); err != nil {
		return nil, false, err
	}
	if err := s.addDeviceLists(ctx, &a.deviceLists, &p.asker, d); err != nil {
		return nil, false, err
	}
	// A summary alone is no news, as with Synapse: the filter left nothing of what changed it.
	v.news = v.news || len(v.timeline)+len(v.state)+len(v.data) > 0 || v.limited
	if !v.news {
		if v.news, err = s.moved(ctx, &p.asker, pr, r, d, after, v.unread); err != nil {
			return nil, false, err
		}
	}
	if !v.news && len(v.ephemeral) == 0 {
		return nil, false, nil
	}
	json, err = s.write(ctx, p, v)
	return json, v.news, err
}

// start returns the place before the timeline: there /messages goes on.
func (d *delta) start(after, upTo int64) roomdb.Place {
	switch {
	case len(d.events) > 0:
		return d.events[0].Place() - 1
	case d.hole != 0:
		return roomdb.At(d.hole) - 1
	case d.limited:
		return roomdb.At(upTo)
	}
	return roomdb.At(after)
}

// addStateDelta adds the state that the timeline does not bring: what changed in a gap or a hole, and what the resolution of a
// fork changed without an event of its own in the timeline. Of what the timeline changes, a client gets the state from before
// the timeline, of all else the state at its end: whoever applies one after the other has that then.
func (s *Service) addStateDelta(ctx context.Context, p *poll, v *roomView, d *delta) error {
	part := v.r.RoomPart
	var changes []int64
	told := toldBy(v.timeline)
	if d.before != d.after {
		before, err := s.rooms.State(ctx, part, d.before)
		if err != nil {
			return err
		}
		end, err := s.rooms.State(ctx, part, d.after)
		if err != nil {
			return err
		}
		replayed := map[state.Key]bool{}
		if !p.stateAfter {
			replayed = replayedBy(v.timeline)
		}
		for c := range state.Diff(before, end) {
			if c.New != 0 && !replayed[c.Key] {
				changes = append(changes, c.New)
			}
		}
		if d.limited && len(replayed) > 0 {
			start, err := s.rooms.State(ctx, part, v.timeline[0].SID)
			if err != nil {
				return err
			}
			for key := range replayed {
				nid, _ := start.Get(key)
				if was, _ := before.Get(key); nid != 0 && nid != was && !told[nid] {
					changes = append(changes, nid)
				}
			}
		}
	}
	if p.filter.Room.State.LazyLoadMembers && len(v.timeline) > 0 && d.after != 0 {
		lazy, err := s.lazyOfTimeline(ctx, p, v, d.after)
		if err != nil {
			return err
		}
		for _, nid := range lazy {
			if !slices.Contains(changes, nid) && (p.stateAfter || !told[nid]) {
				changes = append(changes, nid)
			}
		}
	}
	events, err := s.rooms.InOrder(ctx, part, changes)
	if err != nil {
		return err
	}
	v.state = filterState(&p.filter.Room.State, events)
	return nil
}

// replayedBy says of which entries of the state a timeline brings events.
func replayedBy(timeline []*roomdb.Event) map[state.Key]bool {
	replayed := make(map[state.Key]bool)
	for _, e := range timeline {
		if e.IsState() {
			replayed[state.Key(e.Tuple())] = true
		}
	}
	return replayed
}

// filterState applies the state filter.
func filterState(f *roomEventFilter, events []*roomdb.Event) []*roomdb.Event {
	if f.all() {
		return events
	}
	return slices.DeleteFunc(events, func(e *roomdb.Event) bool { return !f.wants(e.PDU) })
}

const memberType = "m.room.member"

// memberOf returns the number of somebody's member event.
func memberOf(m state.Map, user id.User) (int64, bool) {
	return m.Get(state.Key{Type: memberType, StateKey: string(user)})
}
