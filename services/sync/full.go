package sync

import (
	"context"
	"maps"
	"slices"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	"hanse/pkg/userdb"
	"hanse/pkg/view"
)

// addFull adds rooms as if for the first time: the newest events, and all of the state.
func (s *Service) addFull(ctx context.Context, a *answer, p *poll, m *moment, rooms []*userdb.Membership) error {
	if len(rooms) == 0 {
		return nil
	}
	load, err := s.loadFull(ctx, p, m, rooms)
	if err != nil {
		return err
	}
	if load.prefs, err = s.prefsOf(ctx, p.user); err != nil {
		return err
	}
	if load.unread, err = s.unreadOfAll(ctx, &p.asker, load.prefs, m, rooms); err != nil {
		return err
	}
	if load.bundles, err = s.bundlesOf(ctx, &p.asker, load.prefs, slices.Collect(maps.Values(load.timelines))...); err != nil {
		return err
	}
	for _, r := range rooms {
		key := roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID}
		if !p.tells(load.rooms[key], m) {
			continue
		}
		room, err := s.full(ctx, a, p, m, r, load)
		if err != nil {
			return err
		}
		a.join, a.news = append(a.join, room), true
	}
	return nil
}

// fullLoad is what the rooms of an initial sync need, read for all of them at once.
type fullLoad struct {
	rooms     map[roomdb.RoomKey]*roomdb.Room
	sids      map[roomdb.RoomKey]int64
	states    map[state.Ref]state.Map
	timelines map[roomdb.RoomKey][]*roomdb.Event
	limited   map[roomdb.RoomKey]bool
	holes     map[roomdb.RoomKey]int64 // at which timelines end
	receipts  map[roomdb.RoomKey][]roomdb.Receipt
	events    map[uint32]map[int64]*roomdb.Event
	unread    map[roomdb.RoomKey]*unread
	prefs     *prefs
	bundles   view.Bundles            // what relates to the timelines
	closed    map[roomdb.RoomKey]bool // of openings: that is not the same for everybody in the room
}

func (s *Service) loadFull(ctx context.Context, p *poll, m *moment, rooms []*userdb.Membership) (*fullLoad, error) {
	l := &fullLoad{
		rooms: make(map[roomdb.RoomKey]*roomdb.Room, len(rooms)), sids: make(map[roomdb.RoomKey]int64, len(rooms)),
		limited: make(map[roomdb.RoomKey]bool),
	}
	keys := make([]roomdb.RoomKey, len(rooms))
	ends := make([]roomdb.TimelineEnd, len(rooms))
	for i, r := range rooms {
		keys[i] = roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID}
		ends[i] = roomdb.TimelineEnd{RoomKey: keys[i], UpTo: m.at(r.RoomPart)}
	}
	rows, err := s.rooms.RoomsByNID(ctx, keys)
	if err != nil {
		return nil, err
	}
	refs := make([]state.Ref, 0, len(rooms))
	for _, row := range rows {
		key := roomdb.RoomKey{Part: row.Part, NID: row.NID}
		l.rooms[key], l.sids[key] = row, row.SID
		if row.LastPos > m.at(row.Part) {
			// The room went on since the moment: its state then is in the log.
			if span, err := s.rooms.Span(ctx, row.Part, row.NID, 0, m.at(row.Part)); err != nil {
				return nil, err
			} else if span.After != 0 {
				l.sids[key] = span.After
			}
		}
		refs = append(refs, state.Ref{Part: row.Part, SID: l.sids[key]})
	}
	if err := s.loadTimelines(ctx, p, l, rooms, ends); err != nil {
		return nil, err
	}
	// Besides the states that are told, those are read that visibility looks into: together, into the cache.
	var at []state.Ref
	for key, events := range l.timelines {
		if len(events) > 0 && !p.stateAfter {
			refs = append(refs, state.Ref{Part: key.Part, SID: events[0].SID})
		}
		for _, sid := range view.Bases(events) {
			at = append(at, state.Ref{Part: key.Part, SID: sid})
		}
	}
	states, err := s.rooms.States(ctx, append(at, refs...))
	if err != nil {
		return nil, err
	}
	l.states = make(map[state.Ref]state.Map, len(refs))
	for _, ref := range refs {
		l.states[ref] = states[ref]
	}
	if l.receipts, err = s.rooms.Receipts(ctx, keys); err != nil {
		return nil, err
	}
	return l, s.loadStateEvents(ctx, p, l)
}

// end is the place before an empty timeline.
func (l *fullLoad) end(key roomdb.RoomKey, pos int64) roomdb.Place {
	if hole, ok := l.holes[key]; ok {
		return roomdb.At(hole) - 1
	}
	return roomdb.At(pos)
}

// loadTimelines reads the newest events, oldest first. After a token they are those behind it at most. They end at a hole.
func (s *Service) loadTimelines(ctx context.Context, p *poll, l *fullLoad, rooms []*userdb.Membership, ends []roomdb.TimelineEnd) error {
	limit := p.filter.timelineLimit()
	f := &p.filter.Room.Timeline
	var err error
	l.timelines = make(map[roomdb.RoomKey][]*roomdb.Event, len(ends))
	if f.all() {
		found, err := s.rooms.TimelineEnds(ctx, ends, limit+1)
		if err != nil {
			return err
		}
		l.holes = make(map[roomdb.RoomKey]int64)
		for key, e := range found {
			if l.timelines[key] = e.Events; e.Hole != nil {
				l.holes[key] = *e.Hole
			}
		}
	} else {
		if l.holes, err = s.rooms.Holes(ctx, ends); err != nil {
			return err
		}
		for i, e := range ends {
			if !f.wantsRoom(rooms[i].Room) {
				continue
			}
			from := roomdb.Start
			if hole, ok := l.holes[e.RoomKey]; ok {
				from = roomdb.At(hole) - 1
			}
			l.timelines[e.RoomKey], err = s.rooms.Timeline(ctx, e.Part, e.NID, roomdb.TimelineQuery{
				After: from, UpTo: roomdb.At(e.UpTo), Backwards: true, Limit: limit + 1, Filter: f.query(),
			})
			if err != nil {
				return err
			}
		}
	}
	for key := range l.holes {
		l.limited[key] = true
	}
	for key, events := range l.timelines {
		if len(events) > limit {
			events, l.limited[key] = events[:limit], true
		}
		slices.Reverse(events)
		l.timelines[key] = events
	}
	return nil
}

// loadStateEvents reads the events of all states at once: into the cache, from where each room takes its own.
func (s *Service) loadStateEvents(ctx context.Context, p *poll, l *fullLoad) error {
	want := make(map[uint32][]int64)
	for ref, m := range l.states {
		if p.isLarge(m) {
			continue // written some at a time
		}
		for key, nid := range m.All() {
			if key.Type == memberType && p.filter.Room.State.LazyLoadMembers {
				continue
			}
			if p.filter.Room.State.wantsType(key.Type) {
				want[ref.Part] = append(want[ref.Part], nid)
			}
		}
	}
	for part := range want {
		slices.Sort(want[part])
		want[part] = slices.Compact(want[part])
	}
	var err error
	l.events, err = s.rooms.EventsIn(ctx, want)
	return err
}

func (s *Service) full(ctx context.Context, a *answer, p *poll, m *moment, r *userdb.Membership, l *fullLoad) (room roomAnswer, err error) {
	key := roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID}
	filled := p.filled[r.Room]
	newly := p.since != nil && (r.JoinSeq > p.since.UserSeq || filled && !p.filter.Room.State.LazyLoadMembers)
	v := &roomView{r: r, data: p.roomData[r.Room], limited: l.limited[key] || newly, prevBatch: l.end(key, m.at(r.RoomPart)), unread: l.unread[key], bundles: l.bundles}
	events := l.timelines[key]
	if p.since != nil && !newly {
		// full_state: all of the state, but no event twice.
		after, _ := p.since.At(r.RoomPart)
		cut := slices.IndexFunc(events, func(e *roomdb.Event) bool { return e.Place() > roomdb.At(after) })
		if cut < 0 {
			cut = len(events)
		}
		hole, ended := l.holes[key]
		v.limited = v.limited && cut == 0 && (!ended || hole > after)
		if events = events[cut:]; len(events) == 0 && !v.limited {
			v.prevBatch = roomdb.At(after)
		}
	}
	end := l.states[state.Ref{Part: key.Part, SID: l.sids[key]}]
	start := end
	if len(events) > 0 {
		v.prevBatch = events[0].Place() - 1
		if !p.stateAfter {
			start = l.states[state.Ref{Part: key.Part, SID: events[0].SID}]
		}
	}
	reader := view.Reader{User: p.who.User, Joined: true, CurrentSID: l.sids[key]}
	if v.timeline, err = view.Visible(ctx, s.rooms, reader, l.prefs.ignored.Heed(events)); err != nil {
		return room, err
	}
	if v.summary, err = s.summaryOf(ctx, p.who.User, l.rooms[key], end); err != nil {
		return room, err
	}
	if err := s.addFullState(ctx, p, v, start, end, l); err != nil {
		return room, err
	}
	if newly {
		if err := s.addAccountDataOf(ctx, p, v); err != nil {
			return room, err
		}
	}
	if newly || filled {
		if err := s.membersChanged(ctx, &a.deviceLists, &p.asker, l.rooms[key], end); err != nil {
			return room, err
		}
	}
	s.addEphemeral(p, v, receiptsFor(l.receipts[key], p.who.User))
	room.id = r.Room
	if room.json, err = s.write(ctx, p, v); len(v.later) > 0 {
		room.rest = &v.rest
	}
	return room, err
}

// receiptsFor returns those of a room's receipts that a user may see.
func receiptsFor(all []roomdb.Receipt, me id.User) []receipt {
	receipts := make([]receipt, 0, len(all))
	for _, c := range all {
		if c.Type != "m.read.private" || c.User == me && !roomdb.IsMuted(c.Thread) {
			receipts = append(receipts, receipt{string(c.User), c.Type, c.Thread, string(c.Event), c.TS})
		}
	}
	return receipts
}

// addAccountDataOf adds the account data of a room that was joined anew: what of it is older than the token was told
// when the user was not in the room, or never.
func (s *Service) addAccountDataOf(ctx context.Context, p *poll, v *roomView) error {
	f := &p.filter.Room.AccountData
	if !f.wantsRoom(v.r.Room) {
		return nil
	}
	all, err := s.userdb.AccountDataSince(ctx, p.who.User, 0, p.since.UserSeq)
	if err != nil {
		return err
	}
	for _, d := range all {
		if d.Room == v.r.Room && f.wantsType(d.Type) {
			v.data = append(v.data, basicEvent(d.Type, d.Content))
		}
	}
	return nil
}

// addFullState adds the state from before the timeline (or at its end, for state_after), and what the timeline does not
// tell of the way from one to the other.
func (s *Service) addFullState(ctx context.Context, p *poll, v *roomView, start, end state.Map, l *fullLoad) error {
	f := &p.filter.Room.State
	told := toldBy(v.timeline)
	nids := p.stateBefore(start, end, v.timeline)
	if f.LazyLoadMembers {
		for _, nid := range s.lazyOfFull(p, v, end) {
			if p.stateAfter || !told[nid] {
				nids = append(nids, nid)
			}
		}
	}
	if len(nids) > largeState {
		v.later = nids
		return s.beginLarge(ctx, p)
	}
	events, err := s.stateEvents(ctx, v.r.RoomPart, nids, l)
	if err != nil {
		return err
	}
	v.state = filterState(f, events)
	return nil
}

// toldBy says which events a timeline tells.
func toldBy(timeline []*roomdb.Event) map[int64]bool {
	told := make(map[int64]bool, len(timeline))
	for _, e := range timeline {
		told[e.NID] = true
	}
	return told
}

// stateBefore returns what addFullState adds, but for lazily loaded members: of what the timeline changes the state from before
// it, of all else the state at its end, so that whoever applies one after the other has that then.
func (p *poll) stateBefore(start, end state.Map, timeline []*roomdb.Event) []int64 {
	f := &p.filter.Room.State
	wants := func(key state.Key) bool {
		return (key.Type != memberType || !f.LazyLoadMembers) && f.wantsType(key.Type)
	}
	var replayed map[state.Key]bool
	if !p.stateAfter {
		replayed = replayedBy(timeline)
	}
	var nids []int64
	for key, nid := range end.All() {
		if wants(key) && !replayed[key] {
			nids = append(nids, nid)
		}
	}
	if len(replayed) == 0 {
		return nids
	}
	told := toldBy(timeline)
	for key := range replayed {
		if nid, _ := start.Get(key); nid != 0 && wants(key) && !told[nid] {
			nids = append(nids, nid)
		}
	}
	return nids
}

// stateEvents returns events of a room's state, in order: what was loaded with those of other rooms, or is read now.
func (s *Service) stateEvents(ctx context.Context, part uint32, nids []int64, l *fullLoad) ([]*roomdb.Event, error) {
	var missing []int64
	known := l.events[part]
	for _, nid := range nids {
		if known[nid] == nil {
			missing = append(missing, nid)
		}
	}
	more, err := s.rooms.Events(ctx, part, missing)
	if err != nil {
		return nil, err
	}
	events := make([]*roomdb.Event, 0, len(nids))
	for _, nid := range nids {
		e := known[nid]
		if e == nil {
			e = more[nid]
		}
		if e != nil {
			events = append(events, e)
		}
	}
	return events, nil
}
