package sync

import (
	"context"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	"hanse/pkg/userdb"
	"hanse/pkg/view"
)

// firstLoad is what a first answer needs beside the rooms' openings.
type firstLoad struct {
	openings map[roomdb.RoomKey]*opening
	unread   map[roomdb.RoomKey]*unread
	own      map[roomdb.RoomKey]*roomdb.Event // the user's member events that no opening has; if members are loaded lazily
	format   view.Format
	sent     []lazyKey
}

// addFirst adds rooms as addFull does, out of their openings.
func (s *Service) addFirst(ctx context.Context, a *answer, p *poll, pr *prefs, m *moment, rooms []*userdb.Membership) error {
	l := &firstLoad{format: p.format()}
	var err error
	if l.openings, err = s.openingsOf(ctx, p, m, rooms); err != nil {
		return err
	}
	var open, closed []*userdb.Membership
	for _, r := range rooms {
		switch o := l.openings[roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID}]; {
		case o.closed:
			closed = append(closed, r)
		case !o.missing:
			open = append(open, r)
		}
	}
	if l.unread, err = s.unreadOfAll(ctx, &p.asker, pr, m, open); err != nil {
		return err
	}
	if err := s.loadOwn(ctx, p, l, open); err != nil {
		return err
	}
	for _, r := range open {
		f, err := s.first(ctx, p, r, l)
		if err != nil {
			return err
		}
		a.join, a.news = append(a.join, roomAnswer{id: r.Room, first: f}), true
	}
	p.user.lazySent(&p.asker, l.sent)
	return s.addFull(ctx, a, p, m, closed)
}

// loadOwn reads the user's own member events, which lazy loading always brings.
func (s *Service) loadOwn(ctx context.Context, p *poll, l *firstLoad, rooms []*userdb.Membership) error {
	if !p.filter.Room.State.LazyLoadMembers {
		return nil
	}
	var keys []roomdb.RoomKey
	var refs []state.Ref
	for _, r := range rooms {
		key := roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID}
		o := l.openings[key]
		if o.member(p.who.User) == nil {
			keys, refs = append(keys, key), append(refs, state.Ref{Part: key.Part, SID: o.sid})
		}
	}
	states, err := s.rooms.States(ctx, refs)
	if err != nil {
		return err
	}
	nids := make(map[uint32][]int64)
	of := make(map[roomdb.RoomKey]int64, len(keys))
	for i, key := range keys {
		if nid, ok := memberOf(states[refs[i]], p.who.User); ok {
			of[key] = nid
			nids[key.Part] = append(nids[key.Part], nid)
		}
	}
	events, err := s.rooms.EventsIn(ctx, nids)
	if err != nil {
		return err
	}
	l.own = make(map[roomdb.RoomKey]*roomdb.Event, len(of))
	for key, nid := range of {
		l.own[key] = events[key.Part][nid]
	}
	return nil
}

// member returns what the opening knows of a member; nil if it is nothing.
func (o *opening) member(user id.User) *openingMember {
	for i := range o.members {
		if o.members[i].user == user {
			return &o.members[i]
		}
	}
	return nil
}

// first makes a room's part of the answer.
func (s *Service) first(ctx context.Context, p *poll, r *userdb.Membership, l *firstLoad) (*firstRoom, error) {
	key := roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID}
	o := l.openings[key]
	v := &roomView{
		r: r, data: p.roomData[r.Room], limited: o.limited, prevBatch: o.prevBatch, unread: l.unread[key],
		summary: &summary{heroes: o.candidates.heroes(p.who.User), joined: o.joined, invited: o.invited},
	}
	s.addTyping(p, v)
	f := &p.filter.Room.Ephemeral
	if e := o.receiptsOf(p.who.User); e != nil && f.wantsRoom(r.Room) && f.wantsType("m.receipt") {
		v.ephemeral = append(v.ephemeral, e)
	}
	room := &firstRoom{opening: o, view: v, poll: p, format: &l.format}
	for i := range o.members {
		if room.needs(&o.members[i]) {
			l.sent = append(l.sent, keyOf(key.Part, o.members[i].nid))
		}
	}
	if e := l.own[key]; e != nil {
		l.sent = append(l.sent, keyOf(key.Part, e.NID))
		own, err := view.Append(ctx, s.rooms, l.format, nil, []*roomdb.Event{e})
		if err != nil {
			return nil, err
		}
		room.own = own
	}
	return room, nil
}

// firstRoom is an opening and what its reader is told besides. It is written straight into the answer.
type firstRoom struct {
	opening *opening
	view    *roomView
	poll    *poll
	format  *view.Format
	own     []byte // the reader's member event, if no list of the opening has it
}

// needs says whether a lazily loaded member is in the answer.
func (r *firstRoom) needs(m *openingMember) bool {
	return m.wrote || m.user == r.poll.who.User || r.view.summary.names(m.user)
}

// size is about how many bytes the room takes: the weight of its opening is about that of its JSON.
func (r *firstRoom) size() int { return r.view.size() + int(r.opening.size) + len(r.own) }

func (r *firstRoom) append(b []byte) []byte {
	o := r.opening
	b = o.timeline.Append(r.view.begin(b), *r.format)
	b = r.view.between(b, r.poll)
	start := len(b)
	b = o.state.Append(b, *r.format)
	comma := func() {
		if len(b) > start {
			b = append(b, ',')
		}
	}
	for i := range o.members {
		if m := &o.members[i]; m.event.Len() > 0 && r.needs(m) {
			comma()
			b = m.event.Append(b, *r.format)
		}
	}
	if r.own != nil {
		comma()
		b = append(b, r.own...)
	}
	return r.view.end(b)
}
