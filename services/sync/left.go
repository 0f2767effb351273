package sync

import (
	"context"
	"fmt"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/roomdb"
	"hanse/pkg/userdb"
	"hanse/pkg/view"
)

// addLeft adds a room that the user left, or was made to leave, with what happened until then.
func (s *Service) addLeft(ctx context.Context, a *answer, p *poll, r *userdb.Membership) error {
	v := &roomView{r: r, prevBatch: roomdb.At(r.Pos), data: p.roomData[r.Room]}
	before, member, err := s.memberUntil(ctx, r)
	if err != nil {
		return err
	}
	if member {
		err = s.addLeftTimeline(ctx, a, p, v, before)
	} else {
		err = s.addLeaveEvent(ctx, v)
	}
	if err != nil {
		return err
	}
	json, err := s.write(ctx, p, v)
	if err != nil {
		return err
	}
	a.leave = append(a.leave, roomAnswer{id: r.Room, json: json})
	return nil
}

// memberUntil says whether the user was in the room until the present membership began, and returns the snapshot before
// it. A user who was banned after leaving, or has declined an invite, was not in the room, and may not see what happened.
func (s *Service) memberUntil(ctx context.Context, r *userdb.Membership) (sid int64, member bool, err error) {
	if r.JoinPos == 0 {
		return 0, false, nil
	}
	events, err := s.rooms.Events(ctx, r.RoomPart, []int64{r.EventNID})
	if err != nil || events[r.EventNID] == nil {
		return 0, false, err
	}
	sid = events[r.EventNID].SID
	m, err := s.rooms.State(ctx, r.RoomPart, sid)
	if err != nil {
		return 0, false, err
	}
	e, err := s.rooms.StateEvent(ctx, r.RoomPart, m, memberType, string(r.User))
	return sid, e != nil && e.Membership() == "join", err
}

// addLeftTimeline adds what happened since the token, the end of the membership always. Of a room that the client never
// knew, and in an initial sync, it is all of the state.
func (s *Service) addLeftTimeline(ctx context.Context, a *answer, p *poll, v *roomView, before int64) error {
	r := v.r
	after, known := roomdb.Start.Pos(), false
	if p.since != nil {
		at, ok := p.since.At(r.RoomPart)
		known = ok && r.JoinSeq <= p.since.UserSeq
		if after = r.JoinPos - 1; known {
			after = max(after, at)
		}
		// Polls may have been told of the log beyond the end, but never of the end itself.
		after = min(after, r.Pos-1)
	}
	d, err := s.deltaFromDB(ctx, &p.asker, p.wanted(), r, after, r.Pos)
	if err != nil {
		return err
	}
	if !known {
		d.before = 0
	}
	pr, err := s.prefsOf(ctx, p.user)
	if err != nil {
		return err
	}
	reader := view.Reader{User: p.who.User, JoinedUntil: roomdb.At(r.Pos)}
	if v.timeline, err = view.Visible(ctx, s.rooms, reader, pr.ignored.Heed(d.events)); err != nil {
		return err
	}
	if v.limited, v.prevBatch = d.limited, d.start(after, r.Pos); v.limited || p.since == nil {
		if v.bundles, err = view.Bundled(ctx, s.rooms, reader, pr.ignored, v.timeline); err != nil {
			return err
		}
	}
	if err := s.addStateDelta(ctx, p, v, d); err != nil {
		return err
	}
	if p.since == nil {
		return nil
	}
	if err := s.membersLeft(ctx, &a.deviceLists, &p.asker, d); err != nil { // before the user did
		return err
	}
	return s.roomLeft(ctx, &a.deviceLists, &p.asker, r, before)
}

// addLeaveEvent shows the end of an invite or a knock: the event itself, if we have it.
func (s *Service) addLeaveEvent(ctx context.Context, v *roomView) error {
	if v.r.EventNID == 0 {
		return addOutsideEvent(v)
	}
	events, err := s.rooms.Events(ctx, v.r.RoomPart, []int64{v.r.EventNID})
	if err != nil {
		return err
	}
	if e := events[v.r.EventNID]; e != nil && e.Is(memberType, string(v.r.User)) {
		v.timeline = []*roomdb.Event{e}
	}
	return nil
}

// addOutsideEvent shows a membership event of a room that no local user is in.
func addOutsideEvent(v *roomView) error {
	rules, ok := roomversion.Get(v.r.RoomVersion)
	if !ok || len(v.r.Event) == 0 {
		return nil
	}
	pdu, err := event.ParseTrusted(v.r.Event, v.r.EventID, rules)
	if err != nil {
		return fmt.Errorf("membership of %s: %w", v.r.Room, err)
	}
	if pdu.Is(memberType, string(v.r.User)) {
		v.timeline = []*roomdb.Event{{PDU: pdu, Part: v.r.RoomPart}}
	}
	return nil
}
