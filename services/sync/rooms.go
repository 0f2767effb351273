package sync

import (
	"cmp"
	"context"
	"slices"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/userdb"
)

// addRooms adds the rooms of which there is something to tell.
func (s *Service) addRooms(ctx context.Context, a *answer, p *poll, m *moment) error {
	if p.since == nil {
		return s.addAllRooms(ctx, a, p, m)
	}
	var full, left []*userdb.Membership
	var joined []*userdb.Membership
	for _, r := range m.rooms {
		if !p.filter.wantsRoom(r.Room) {
			continue
		}
		news := r.Seq > p.since.UserSeq
		switch {
		case r.Membership == "join" && (r.JoinSeq > p.since.UserSeq || p.fullState):
			full = append(full, r)
		case r.Membership == "join":
			joined = append(joined, r)
		case news && (r.Membership == "leave" || r.Membership == "ban") && !r.Forgotten:
			left = append(left, r)
		case news || p.fullState:
			a.addInvitation(r)
		}
	}
	if err := s.addJoined(ctx, a, p, m, joined); err != nil {
		return err
	}
	if err := s.addFull(ctx, a, p, m, full); err != nil {
		return err
	}
	for _, r := range left {
		if err := s.addLeft(ctx, a, p, r); err != nil {
			return err
		}
	}
	a.sort()
	return nil
}

// addAllRooms is the initial sync.
func (s *Service) addAllRooms(ctx context.Context, a *answer, p *poll, m *moment) error {
	var joined []*userdb.Membership
	for _, r := range m.rooms {
		if !p.filter.wantsRoom(r.Room) {
			continue
		}
		switch r.Membership {
		case "join":
			joined = append(joined, r)
		case "leave", "ban":
			if p.filter.Room.IncludeLeave && !r.Forgotten {
				if err := s.addLeft(ctx, a, p, r); err != nil {
					return err
				}
			}
		default:
			a.addInvitation(r)
		}
	}
	if err := s.addFull(ctx, a, p, m, joined); err != nil {
		return err
	}
	a.sort()
	return nil
}

// sort makes equal answers equal bytes.
func (a *answer) sort() {
	for _, rooms := range [][]roomAnswer{a.join, a.invite, a.knock, a.leave} {
		slices.SortFunc(rooms, func(x, y roomAnswer) int { return cmp.Compare(x.id, y.id) })
	}
}

// addInvitation adds an invite or a knock with its stripped state.
func (a *answer) addInvitation(r *userdb.Membership) {
	stripped := r.Stripped
	if len(stripped) == 0 {
		stripped = []byte("[]")
	}
	write := func(name string) roomAnswer {
		b := append(make([]byte, 0, len(stripped)+32), `{"`+name+`":{"events":`...)
		b = append(b, stripped...)
		return roomAnswer{r.Room, append(b, '}', '}')}
	}
	switch r.Membership {
	case "invite":
		a.invite = append(a.invite, write("invite_state"))
	case "knock":
		a.knock = append(a.knock, write("knock_state"))
	}
}

// addJoined adds what is new in rooms that the user has been in since before the token.
func (s *Service) addJoined(ctx context.Context, a *answer, p *poll, m *moment, rooms []*userdb.Membership) error {
	var unknown []*userdb.Membership
	var fresh []*userdb.Membership
	for _, r := range rooms {
		after, ok := p.since.At(r.RoomPart)
		if !ok {
			after = r.JoinPos - 1
		}
		changed, known := s.tail.changed(r.RoomPart, r.RoomNID, after)
		switch {
		case !known:
			unknown = append(unknown, r)
		case changed, p.roomData[r.Room] != nil, s.typing.changed(r.Room, p.since.Eph):
			fresh = append(fresh, r)
		}
	}
	if len(unknown) > 0 {
		keys := make([]roomdb.RoomKey, len(unknown))
		for i, r := range unknown {
			keys[i] = roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID}
		}
		rows, err := s.rooms.RoomsByNID(ctx, keys)
		if err != nil {
			return err
		}
		for _, r := range unknown {
			after, _ := p.since.At(r.RoomPart)
			if row := rows[r.Room]; row != nil && row.LastPos > after || p.roomData[r.Room] != nil || s.typing.changed(r.Room, p.since.Eph) {
				fresh = append(fresh, r)
			}
		}
	}
	for _, r := range fresh {
		after, ok := p.since.At(r.RoomPart)
		if !ok {
			after = r.JoinPos - 1
		}
		json, err := s.incremental(ctx, a, p, m, r, after)
		if err != nil {
			return err
		}
		if json != nil {
			a.join = append(a.join, roomAnswer{r.Room, json})
		}
	}
	return nil
}

// delta is what happened in a room between two positions.
type delta struct {
	events   []*roomdb.Event // those of the timeline that are told, oldest first
	limited  bool
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

// delta collects what happened in a room in (after, upTo], from the tail or from PostgreSQL.
func (s *Service) delta(ctx context.Context, p *poll, r *userdb.Membership, after, upTo int64) (*delta, error) {
	if entries, ok := s.tail.since(r.RoomPart, r.RoomNID, after, upTo); ok {
		return s.deltaOfEntries(p, entries), nil
	}
	return s.deltaFromDB(ctx, p, r, after, upTo)
}

func (s *Service) deltaOfEntries(p *poll, entries []*entry) *delta {
	d := new(delta)
	f := &p.filter.Room.Timeline
	for _, e := range entries {
		switch {
		case e.receipt != nil:
			d.addReceipt(p.who.User, receipt{e.receipt.UserId, e.receipt.Type, e.receipt.ThreadId, e.receipt.EventId, e.receipt.Ts})
		case e.device != nil:
			d.addDevice(id.User(e.device.UserId))
		case e.event != nil:
			if d.before == 0 {
				d.before = e.before
			}
			d.after = e.after
			if e.log.Membership != "" && e.event.StateKey != nil && e.before != e.after {
				d.members = append(d.members, memberChange{id.User(*e.event.StateKey), e.log.Membership, e.log.PrevMembership})
			}
			if f.all() || f.wants(e.event.PDU) {
				d.events = append(d.events, e.event)
				p.delivered(e)
			}
		}
	}
	if limit := p.filter.timelineLimit(); len(d.events) > limit {
		d.events, d.limited = d.events[len(d.events)-limit:], true
	}
	return d
}

func (d *delta) addReceipt(me id.User, r receipt) {
	if r.typ == "m.read.private" && r.user != string(me) {
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

func (s *Service) deltaFromDB(ctx context.Context, p *poll, r *userdb.Membership, after, upTo int64) (*delta, error) {
	d := new(delta)
	var err error
	if d.before, d.after, err = s.rooms.Span(ctx, r.RoomPart, r.RoomNID, after, upTo); err != nil {
		return nil, err
	}
	limit := p.filter.timelineLimit()
	d.events, err = s.rooms.Timeline(ctx, r.RoomPart, r.RoomNID, roomdb.TimelineQuery{
		After: after, UpTo: upTo, Backwards: true, Limit: limit + 1, Filter: p.filter.Room.Timeline.query(),
	})
	if err != nil {
		return nil, err
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
	d.members, err = s.memberChanges(ctx, r.RoomPart, d.before, d.after)
	return d, err
}
