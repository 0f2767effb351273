package sync

import (
	"context"
	"slices"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	"hanse/pkg/userdb"
)

// Device lists (client-server API, module End-to-end encryption, "Tracking the device list for a user"): changed are
// those whose devices changed and those whom the user sees for the first time; left are those with whom no room is
// shared any more. A name too many in changed costs the client a query; one too few costs it a message.

// addDeviceLists adds what happened in a room that both were and are in.
func (s *Service) addDeviceLists(ctx context.Context, a *answer, p *poll, d *delta) error {
	for u := range d.devices {
		a.deviceChanged(u)
	}
	for _, c := range d.members {
		if c.user == p.who.User {
			continue
		}
		switch {
		case c.now == "join" && c.then != "join":
			a.deviceChanged(c.user)
		case c.then == "join" && c.now != "join":
			if err := s.deviceLeft(ctx, a, p, c.user); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *answer) deviceChanged(u id.User) {
	if a.changed == nil {
		a.changed = make(map[id.User]struct{})
	}
	a.changed[u] = struct{}{}
	delete(a.left, u)
}

// deviceLeft adds somebody who left a room, if it was the last one shared.
func (s *Service) deviceLeft(ctx context.Context, a *answer, p *poll, u id.User) error {
	if _, ok := a.changed[u]; ok {
		return nil
	}
	shares, err := s.sharesRoom(ctx, p.user, u)
	if err != nil || shares {
		return err
	}
	if a.left == nil {
		a.left = make(map[id.User]struct{})
	}
	a.left[u] = struct{}{}
	return nil
}

// membersStep is how many member events are held at once.
const membersStep = 1000

// membersChanged adds all members of a room that the user has joined.
func (s *Service) membersChanged(ctx context.Context, a *answer, p *poll, part uint32, m state.Map) error {
	var nids []int64
	for _, nid := range m.Type(memberType) {
		nids = append(nids, nid)
	}
	for step := range slices.Chunk(nids, membersStep) {
		events, err := s.rooms.InOrder(ctx, part, step)
		if err != nil {
			return err
		}
		for _, e := range events {
			if e.Membership() == "join" && *e.StateKey != string(p.who.User) {
				a.deviceChanged(id.User(*e.StateKey))
			}
		}
	}
	return nil
}

// roomLeft adds those whom the user saw in a room that it has left, and sees in no other.
func (s *Service) roomLeft(ctx context.Context, a *answer, p *poll, r *userdb.Membership, sid int64) error {
	if sid == 0 {
		return nil
	}
	m, err := s.rooms.State(ctx, r.RoomPart, sid)
	if err != nil {
		return err
	}
	events, err := s.rooms.StateEvents(ctx, r.RoomPart, m.Type(memberType))
	if err != nil {
		return err
	}
	for _, e := range events {
		if e.Membership() == "join" && *e.StateKey != string(p.who.User) {
			if err := s.deviceLeft(ctx, a, p, id.User(*e.StateKey)); err != nil {
				return err
			}
		}
	}
	return nil
}

// sharesRoom says whether two users are in a room together now. It looks into the states of the rooms of one: a lookup
// in memory for each that is cached.
func (s *Service) sharesRoom(ctx context.Context, u *user, other id.User) (bool, error) {
	var keys []roomdb.RoomKey
	for _, r := range u.joinedRooms() {
		keys = append(keys, roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID})
	}
	rows, err := s.rooms.RoomsByNID(ctx, keys)
	if err != nil {
		return false, err
	}
	for _, row := range rows {
		m, err := s.rooms.State(ctx, row.Part, row.SID)
		if err != nil {
			return false, err
		}
		nid, ok := memberOf(m, other)
		if !ok {
			continue
		}
		events, err := s.rooms.Events(ctx, row.Part, []int64{nid})
		if err != nil {
			return false, err
		}
		if e := events[nid]; e != nil && e.Membership() == "join" {
			return true, nil
		}
	}
	return false, nil
}
