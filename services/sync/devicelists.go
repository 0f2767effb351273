package sync

import (
	"context"
	"maps"
	"slices"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	"hanse/pkg/userdb"
)

// Device lists (client-server API, module End-to-end encryption, "Tracking the device list for a user"): changed are
// those whose devices changed and those whom the user sees for the first time; left are those with whom no room is
// shared any more. A name too many in changed costs the client a query; one too few costs it a message. What a filter
// says of rooms does not matter: the client encrypts for rooms that it does not want to hear of now.

// addUntoldDevices adds what happened in those of some rooms of which nothing else is told.
func (s *Service) addUntoldDevices(ctx context.Context, a *answer, p *poll, m *moment, rooms []*userdb.Membership) error {
	if len(rooms) == 0 {
		return nil
	}
	pr, err := s.prefsOf(ctx, p.user)
	if err != nil {
		return err
	}
	for _, r := range rooms {
		if !p.fullState && p.filter.wantsRoom(r.Room) {
			continue
		}
		after, ok := p.since.At(r.RoomPart)
		if !ok {
			after = r.JoinPos - 1
		}
		d, err := s.delta(ctx, &p.asker, noEvents, pr, r, after, m.at(r.RoomPart))
		if err != nil {
			return err
		}
		if err := s.addDeviceLists(ctx, &a.deviceLists, &p.asker, d); err != nil {
			return err
		}
	}
	return nil
}

// addUntoldMembers adds the members of those of some rooms, which the user has joined, of which nothing else is told.
func (s *Service) addUntoldMembers(ctx context.Context, a *answer, p *poll, rooms []*userdb.Membership) error {
	var keys []roomdb.RoomKey
	for _, r := range rooms {
		if !p.filter.wantsRoom(r.Room) {
			keys = append(keys, roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID})
		}
	}
	if len(keys) == 0 {
		return nil
	}
	rows, err := s.rooms.RoomsByNID(ctx, keys)
	if err != nil {
		return err
	}
	for _, row := range rows {
		members, err := s.rooms.State(ctx, row.Part, row.SID)
		if err != nil {
			return err
		}
		if err := s.membersChanged(ctx, &a.deviceLists, &p.asker, row, members); err != nil {
			return err
		}
	}
	return nil
}

// deviceLists is whose devices a client must ask for anew, and whose it need not follow any more.
type deviceLists struct {
	changed, left map[id.User]struct{}
	met           map[id.User]struct{} // who came into sight, whose presence is told
}

// addDeviceLists adds what happened in a room that both were and are in.
func (s *Service) addDeviceLists(ctx context.Context, a *deviceLists, p *asker, d *delta) error {
	for u := range d.devices {
		a.deviceChanged(u)
	}
	for _, c := range d.members {
		if c.user != p.who.User && c.now == "join" && c.then != "join" {
			a.meet(c.user)
		}
	}
	return s.membersLeft(ctx, a, p, d)
}

// membersLeft adds those of others who left a room.
func (s *Service) membersLeft(ctx context.Context, a *deviceLists, p *asker, d *delta) error {
	var left []id.User
	for _, c := range d.members {
		if c.user != p.who.User && c.then == "join" && c.now != "join" {
			left = append(left, c.user)
		}
	}
	return s.devicesLeft(ctx, a, p, left)
}

// deviceChanged notes whose devices the client must ask for anew. User ids of the historical character set are not told outside
// of events (appendices, "Historical User IDs").
func (a *deviceLists) deviceChanged(u id.User) {
	if !u.Compliant() {
		return
	}
	if a.changed == nil {
		a.changed = make(map[id.User]struct{})
	}
	a.changed[u] = struct{}{}
	delete(a.left, u)
}

// meet notes somebody whom the user may see for the first time.
func (a *deviceLists) meet(u id.User) {
	a.deviceChanged(u)
	if a.met == nil {
		a.met = make(map[id.User]struct{})
	}
	if len(a.met) < maxPresence {
		a.met[u] = struct{}{}
	}
}

// devicesLeft adds those who left a room, if it was the last one shared.
func (s *Service) devicesLeft(ctx context.Context, a *deviceLists, p *asker, users []id.User) error {
	users = slices.DeleteFunc(users, func(u id.User) bool { _, ok := a.changed[u]; return ok || !u.Compliant() })
	shared, err := s.shareRooms(ctx, p.user, users)
	if err != nil {
		return err
	}
	for _, u := range users {
		if shared[u] {
			continue
		}
		if a.left == nil {
			a.left = make(map[id.User]struct{})
		}
		a.left[u] = struct{}{}
	}
	return nil
}

// membersChanged adds all members of a room that the user has joined, the user too.
func (s *Service) membersChanged(ctx context.Context, a *deviceLists, p *asker, row *roomdb.Room, m state.Map) error {
	a.deviceChanged(p.who.User)
	if !roomdb.ListsDevices(m, row.Joined) {
		return nil
	}
	return s.rooms.EachJoined(ctx, row.Key(), m.Type(memberType), func(users []id.User) error {
		for _, u := range users {
			if u != p.who.User {
				a.meet(u)
			}
		}
		return nil
	})
}

// untoldLeft is roomLeft for a room of which nothing else is told.
func (s *Service) untoldLeft(ctx context.Context, a *deviceLists, p *asker, r *userdb.Membership) error {
	before, member, err := s.memberUntil(ctx, r)
	if err != nil || !member {
		return err
	}
	if after, ok := p.since.At(r.RoomPart); ok && after < r.Pos {
		d, err := s.deltaFromDB(ctx, p, noEvents, r, max(after, r.JoinPos-1), r.Pos)
		if err != nil {
			return err
		}
		if err := s.membersLeft(ctx, a, p, d); err != nil { // before the user did
			return err
		}
	}
	return s.roomLeft(ctx, a, p, r, before)
}

// roomLeft adds those whom the user saw in a room that it has left, and sees in no other.
func (s *Service) roomLeft(ctx context.Context, a *deviceLists, p *asker, r *userdb.Membership, sid int64) error {
	if sid == 0 {
		return nil
	}
	m, err := s.rooms.State(ctx, r.RoomPart, sid)
	if err != nil {
		return err
	}
	if !roomdb.ListsDevices(m, m.Len()) {
		return nil
	}
	return s.rooms.EachJoined(ctx, roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID}, m.Type(memberType), func(users []id.User) error {
		users = slices.DeleteFunc(users, func(u id.User) bool { return u == p.who.User })
		return s.devicesLeft(ctx, a, p, users)
	})
}

// shareRooms says which of some users are in a room together with one now. It looks into the states of that one's rooms:
// a lookup in memory for each that is cached.
func (s *Service) shareRooms(ctx context.Context, u *user, others []id.User) (map[id.User]bool, error) {
	if len(others) == 0 {
		return nil, nil
	}
	var keys []roomdb.RoomKey
	for _, r := range u.joinedRooms() {
		keys = append(keys, roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID})
	}
	rows, err := s.rooms.RoomsByNID(ctx, keys)
	if err != nil {
		return nil, err
	}
	shared := make(map[id.User]bool)
	for _, row := range rows {
		m, err := s.rooms.State(ctx, row.Part, row.SID)
		if err != nil {
			return nil, err
		}
		of := make(map[int64]id.User)
		for _, other := range others {
			if nid, ok := memberOf(m, other); ok && !shared[other] {
				of[nid] = other
			}
		}
		is, err := s.rooms.Memberships(ctx, row.Key(), slices.Collect(maps.Keys(of)))
		if err != nil {
			return nil, err
		}
		for nid, membership := range is {
			if membership == "join" {
				shared[of[nid]] = true
			}
		}
	}
	return shared, nil
}
