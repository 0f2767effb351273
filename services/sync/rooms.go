package sync

import (
	"cmp"
	"context"
	"slices"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/token"
	"hanse/pkg/userdb"
)

// addRooms adds the rooms of which there is something to tell.
func (s *Service) addRooms(ctx context.Context, a *answer, p *poll, m *moment) error {
	p.filled = nil
	full := m.joined
	if p.since != nil {
		told, err := s.addSince(ctx, a, p, m)
		if err != nil {
			return err
		}
		if !p.fullState {
			full = told
		}
	}
	if full = p.filter.rooms(full); p.since == nil {
		a.later, a.moment = full, m // they are read when they are sent
	} else if err := s.addWhole(ctx, a, p, m, full); err != nil {
		return err
	}
	if p.since == nil || p.fullState || m.seq > p.since.UserSeq {
		if err := s.addOthers(ctx, a, p, m); err != nil {
			return err
		}
	}
	a.sort()
	return nil
}

// addSince adds what is new since the token, but for the rooms that it returns: they are to be told in full, as the user has
// joined them since, or as their states have become whole. With full_state all are, and only device lists are added.
func (s *Service) addSince(ctx context.Context, a *answer, p *poll, m *moment) (full []*userdb.Membership, err error) {
	if m.seq > p.since.UserSeq {
		for _, r := range m.joined {
			if r.JoinSeq > p.since.UserSeq {
				full = append(full, r)
			}
		}
	}
	if err := s.addUntoldMembers(ctx, a, p, full); err != nil {
		return nil, err
	}
	fresh, err := s.fresh(ctx, p, m)
	if err != nil {
		return nil, err
	}
	fresh = p.user.withoutLeft(fresh, p.since)
	if err := s.addUntoldDevices(ctx, a, p, m, fresh); err != nil || p.fullState {
		return nil, err
	}
	filled, err := s.addJoined(ctx, a, p, m, fresh)
	return append(full, filled...), err
}

// addWhole adds rooms as if for the first time.
func (s *Service) addWhole(ctx context.Context, a *answer, p *poll, m *moment, rooms []*userdb.Membership) error {
	if len(rooms) == 0 {
		return nil
	}
	pr, err := s.prefsOf(ctx, p.user)
	if err != nil {
		return err
	}
	if p.plain(pr) {
		return s.addFirst(ctx, a, p, pr, m, rooms)
	}
	return s.addFull(ctx, a, p, m, rooms)
}

// rooms returns those that are to be in the answer at all.
func (f *filter) rooms(rooms []*userdb.Membership) []*userdb.Membership {
	if f.Room.Rooms == nil && f.Room.NotRooms == nil {
		return rooms
	}
	var wanted []*userdb.Membership
	for _, r := range rooms {
		if f.wantsRoom(r.Room) {
			wanted = append(wanted, r)
		}
	}
	return wanted
}

// addOthers adds rooms that the user is not in: invites, knocks, and what it has left.
func (s *Service) addOthers(ctx context.Context, a *answer, p *poll, m *moment) error {
	for _, r := range m.rooms {
		if r.Membership == "join" {
			continue
		}
		news := p.since == nil || r.Seq > p.since.UserSeq
		gone := r.Membership == "leave" || r.Membership == "ban"
		if !p.filter.wantsRoom(r.Room) || gone && r.Forgotten {
			if gone && news && p.since != nil {
				if err := s.untoldLeft(ctx, &a.deviceLists, &p.asker, r); err != nil {
					return err
				}
			}
			continue
		}
		switch {
		case !gone:
			if news || p.fullState {
				if err := s.addInvitation(ctx, a, p, r); err != nil {
					return err
				}
			}
		case !news || p.since == nil && !p.filter.Room.IncludeLeave:
		default:
			if err := s.addLeft(ctx, a, p, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// sort makes equal answers equal bytes.
func (a *answer) sort() {
	for _, rooms := range [][]roomAnswer{a.join, a.invite, a.knock, a.leave} {
		slices.SortFunc(rooms, func(x, y roomAnswer) int { return cmp.Compare(x.id, y.id) })
	}
}

// addInvitation adds an invite or a knock with its stripped state. Those whom the user ignores invite nobody
// (client-server API, "Ignoring Users").
func (s *Service) addInvitation(ctx context.Context, a *answer, p *poll, r *userdb.Membership) error {
	stripped, err := s.stripped(ctx, r)
	if err != nil {
		return err
	}
	write := func(name string) roomAnswer {
		b := append(make([]byte, 0, len(stripped)+32), `{"`+name+`":{"events":`...)
		b = append(b, stripped...)
		return roomAnswer{id: r.Room, json: append(b, '}', '}')}
	}
	switch r.Membership {
	case "invite":
		pr, err := s.prefsOf(ctx, p.user)
		if err != nil {
			return err
		}
		if pr.tellsInvite(r.Sender) {
			a.invite = append(a.invite, write("invite_state"))
		}
	case "knock":
		a.knock = append(a.knock, write("knock_state"))
	}
	return nil
}

// addJoined adds what is new in rooms that the user has been in since before the token. It returns those that are to be
// told in full, as their state has become whole.
func (s *Service) addJoined(ctx context.Context, a *answer, p *poll, m *moment, fresh []*userdb.Membership) (filled []*userdb.Membership, err error) {
	usual, filled, err := s.byFullness(ctx, p, m, p.filter.rooms(fresh))
	if err != nil {
		return nil, err
	}
	for _, r := range usual {
		after, ok := p.since.At(r.RoomPart)
		if !ok {
			after = r.JoinPos - 1
		}
		json, news, err := s.incremental(ctx, a, p, m, r, after)
		if err != nil {
			return nil, err
		}
		if json != nil {
			a.join = append(a.join, roomAnswer{id: r.Room, json: json})
			a.news = a.news || news
		}
	}
	return filled, nil
}

// fresh returns those of the user's rooms in which anything has happened.
func (s *Service) fresh(ctx context.Context, p *poll, m *moment) ([]*userdb.Membership, error) {
	fresh, err := s.changedSince(ctx, p.since, m)
	if err != nil || p.roomData == nil && !s.typing.any(p.since.Eph) {
		return fresh, err
	}
	for _, r := range m.joined {
		tell, _ := s.typing.changed(r.Room, p.since.Eph)
		if (tell || p.roomData[r.Room] != nil) && r.JoinSeq <= p.since.UserSeq && !slices.Contains(fresh, r) {
			fresh = append(fresh, r)
		}
	}
	return fresh, nil
}

// changedSince returns those of the user's rooms whose logs have new entries, but for those that were joined since.
func (s *Service) changedSince(ctx context.Context, since *token.Sync, m *moment) ([]*userdb.Membership, error) {
	var fresh []*userdb.Membership
	var unknown []roomdb.RoomKey
	maybe := make(map[id.Room]*userdb.Membership)
	for i := range m.parts {
		part, rooms := m.parts[i].part, m.parts[i].rooms
		after, ok := since.At(part)
		if !ok {
			after = rooms[0].JoinPos - 1
		}
		if quick, ok := s.quickly(&m.parts[i], after); ok {
			for _, r := range quick {
				if r.JoinSeq <= since.UserSeq {
					fresh = append(fresh, r)
				}
			}
			continue
		}
		s.tail.changed(part, rooms, after, func(r *userdb.Membership, known bool) {
			switch {
			case r.JoinSeq > since.UserSeq: // told in full
			case known:
				fresh = append(fresh, r)
			default:
				unknown = append(unknown, roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID})
				maybe[r.Room] = r
			}
		})
	}
	if len(unknown) > 0 {
		rows, err := s.rooms.RoomsByNID(ctx, unknown)
		if err != nil {
			return nil, err
		}
		for room, r := range maybe {
			if after, _ := since.At(r.RoomPart); rows[room] != nil && rows[room].LastPos > after {
				fresh = append(fresh, r)
			}
		}
	}
	return fresh, nil
}

// quickly returns those of a user's rooms of one partition that have entries behind a position, if that takes less than to look at
// each of the rooms.
func (s *Service) quickly(p *userPart, after int64) (changed []*userdb.Membership, ok bool) {
	if after < p.from {
		return nil, false
	}
	ok = s.tail.changedIn(p.part, after, len(p.rooms), func(nid int64) {
		at, mine := slices.BinarySearchFunc(p.rooms, nid, func(r *userdb.Membership, nid int64) int { return cmp.Compare(r.RoomNID, nid) })
		if mine && !slices.Contains(changed, p.rooms[at]) {
			changed = append(changed, p.rooms[at])
		}
	})
	return changed, ok
}

// delta is what happened in a room between two positions.
type delta struct {
	events   []*roomdb.Event // those of the timeline that are told, oldest first
	limited  bool
	hole     int64 // the position of the hole at which the timeline ends; 0: none
	before   int64 // current state at the first position
	after    int64 // and at the second
	receipts []receipt
	devices  map[id.User]struct{} // members whose devices changed
	members  []memberChange
}

// receipt is a receipt of somebody in the room.
type receipt struct {
	user, typ, thread string
	event             string
	ts                int64
}

// memberChange is a change of somebody's membership.
type memberChange struct {
	user      id.User
	now, then string // memberships; then is empty if it is not known
}

// delta collects what happened in a room in (after, upTo], from the tail or from PostgreSQL. It ends before the user was
// made to leave, of which the log may tell sooner than the membership index: the room is then told as one that was left.
func (s *Service) delta(ctx context.Context, p *asker, want wanted, pr *prefs, r *userdb.Membership, after, upTo int64) (*delta, error) {
	if entries, ok := s.tail.since(r.RoomPart, r.RoomNID, after, upTo); ok && !want.filter.relatedBy() {
		return s.deltaOfEntries(p, want, pr, entries), nil
	}
	d, err := s.deltaFromDB(ctx, p, want, r, after, upTo)
	if err != nil {
		return nil, err
	}
	for _, c := range d.members {
		if c.user == p.who.User && c.now != "join" {
			at, err := s.leftAt(ctx, r, d.after)
			if err != nil || at == 0 {
				return d, err
			}
			return s.deltaFromDB(ctx, p, want, r, after, at-1)
		}
	}
	return d, nil
}

// leftAt returns where the user's membership of a snapshot lies in the timeline.
func (s *Service) leftAt(ctx context.Context, r *userdb.Membership, sid int64) (int64, error) {
	m, err := s.rooms.State(ctx, r.RoomPart, sid)
	if err != nil {
		return 0, err
	}
	e, err := s.rooms.StateEvent(ctx, r.RoomPart, m, memberType, string(r.User))
	if err != nil || e == nil {
		return 0, err
	}
	return e.Ord, nil
}

func (s *Service) deltaOfEntries(p *asker, want wanted, pr *prefs, entries []*entry) *delta {
	d := new(delta)
	f := want.filter
	all := f.all()
	for _, e := range entries {
		switch {
		case e.receipt != nil:
			d.addReceipt(p.who.User, receipt{e.receipt.UserId, e.receipt.Type, e.receipt.ThreadId, e.receipt.EventId, e.receipt.Ts})
		case e.device != nil:
			d.addDevice(id.User(e.device.UserId))
		case e.event != nil:
			if e.leftBy(p.who.User) {
				return d.limit(want.limit)
			}
			if d.before == 0 {
				d.before = e.before
			}
			d.after = e.after
			d.addMembers(e)
			if e.hole {
				d.endAt(e.pos)
			}
			if pr.ignored.Heeds(e.event) && (all || f.wants(e.event.PDU)) {
				d.events = append(d.events, e.event)
				p.delivered(e)
			}
		}
	}
	return d.limit(want.limit)
}

// endAt ends the timeline at a hole: what is before it is no part of what a client may show as one.
func (d *delta) endAt(pos int64) { d.events, d.limited, d.hole = nil, true, pos }

// leftBy says whether a user is out of the room with this entry.
func (e *entry) leftBy(who id.User) bool {
	for u := range e.leavers {
		if u == who {
			return true
		}
	}
	return false
}

// addMembers adds whose membership changed with an entry.
func (d *delta) addMembers(e *entry) {
	if e.log.Membership != "" && e.event.StateKey != nil && !e.log.Overruled {
		d.members = append(d.members, memberChange{id.User(*e.event.StateKey), e.log.Membership, e.log.PrevMembership})
	}
	for _, m := range e.log.Moved {
		d.members = append(d.members, memberChange{id.User(m.UserId), m.Membership, m.PrevMembership})
	}
}

// limit leaves as many events as are wanted, the newest.
func (d *delta) limit(limit int) *delta {
	if len(d.events) > limit {
		d.events, d.limited = d.events[len(d.events)-limit:], true
	}
	return d
}

func (d *delta) addReceipt(me id.User, r receipt) {
	if r.typ == "m.read.private" && (r.user != string(me) || roomdb.IsMuted(r.thread)) {
		return
	}
	d.receipts = append(d.receipts, r)
}

func (d *delta) addDevice(user id.User) {
	if d.devices == nil {
		d.devices = make(map[id.User]struct{}, 1)
	}
	d.devices[user] = struct{}{}
}

// newest reads the newest events of a room that the user is to see, the newest first. It passes over what ignored users
// sent, or a flood of that would look like a gap; after many reads it is one.
func (s *Service) newest(ctx context.Context, p *asker, r *userdb.Membership, q roomdb.TimelineQuery) ([]*roomdb.Event, error) {
	pr, err := s.prefsOf(ctx, p.user)
	if err != nil {
		return nil, err
	}
	const reads = 20
	var seen []*roomdb.Event
	for n := 1; ; n++ {
		events, err := s.rooms.Timeline(ctx, r.RoomPart, r.RoomNID, q)
		if err != nil {
			return nil, err
		}
		if n == reads {
			return append(seen, events...), nil
		}
		seen = append(seen, pr.ignored.Heed(events)...)
		if len(events) < q.Limit || len(seen) >= q.Limit {
			return seen, nil
		}
		q.UpTo = events[len(events)-1].Place() - 1
	}
}

func (s *Service) deltaFromDB(ctx context.Context, p *asker, want wanted, r *userdb.Membership, after, upTo int64) (*delta, error) {
	d := new(delta)
	span, err := s.rooms.Span(ctx, r.RoomPart, r.RoomNID, after, upTo)
	if err != nil {
		return nil, err
	}
	d.before, d.after = span.Before, span.After
	from := roomdb.At(after)
	if span.Hole != nil {
		d.endAt(*span.Hole)
		from = roomdb.At(d.hole) - 1
	}
	limit, f := want.limit, want.filter
	if f.wantsRoom(r.Room) {
		d.events, err = s.newest(ctx, p, r, roomdb.TimelineQuery{
			After: from, UpTo: roomdb.At(upTo), Backwards: true, Limit: limit + 1, Filter: f.query(),
		})
		if err != nil {
			return nil, err
		}
	}
	if len(d.events) > limit {
		d.events, d.limited = d.events[:limit], true
	}
	slices.Reverse(d.events)
	receipts, err := s.rooms.ReceiptsSince(ctx, r.RoomPart, r.RoomNID, after, upTo)
	if err != nil {
		return nil, err
	}
	for _, v := range receipts {
		d.addReceipt(p.who.User, receipt{string(v.User), v.Type, v.Thread, string(v.Event), v.TS})
	}
	devices, err := s.rooms.DeviceChanges(ctx, r.RoomPart, r.RoomNID, after, upTo)
	if err != nil {
		return nil, err
	}
	for _, u := range devices {
		d.addDevice(u)
	}
	d.members, err = s.memberChanges(ctx, roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID}, d.before, d.after)
	return d, err
}
