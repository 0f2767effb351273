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
	if l.unread, err = s.unreadOfAll(ctx, p, pr, m, open); err != nil {
		return err
	}
	if err := s.loadOwn(ctx, p, l, open); err != nil {
		return err
	}
	for _, r := range open {
		json, err := s.first(ctx, p, r, l)
		if err != nil {
			return err
		}
		a.join, a.news = append(a.join, roomAnswer{r.Room, json}), true
	}
	p.user.lazySent(p, l.sent)
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

// first writes a room.
func (s *Service) first(ctx context.Context, p *poll, r *userdb.Membership, l *firstLoad) ([]byte, error) {
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
	// The weight is about that of the JSON, with the members.
	b := o.timeline.Append(v.begin(make([]byte, 0, v.size()+int(o.size))), l.format)
	b = v.between(b, p)
	start := len(b)
	b = o.state.Append(b, l.format)
	comma := func() {
		if len(b) > start {
			b = append(b, ',')
		}
	}
	for i := range o.members {
		m := &o.members[i]
		if !m.wrote && m.user != p.who.User && !v.summary.names(m.user) {
			continue
		}
		l.sent = append(l.sent, keyOf(key.Part, m.nid))
		if m.event.Len() > 0 {
			comma()
			b = m.event.Append(b, l.format)
		}
	}
	if e := l.own[key]; e != nil {
		l.sent = append(l.sent, keyOf(key.Part, e.NID))
		comma()
		var err error
		if b, err = view.Append(ctx, s.rooms, l.format, b, []*roomdb.Event{e}); err != nil {
			return nil, err
		}
	}
	return v.end(b), nil
}
