package sync

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/cache"
	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	"hanse/pkg/userdb"
	"hanse/pkg/view"
)

// opening is what a first sync tells of a room to whoever is in it: worked out once, and given to everybody until
// something happens in the room. It is immutable.
type opening struct {
	pos     int64 // of the log, as of which it counts
	last    int64 // of the newest entry of the room that it tells of
	sid     int64 // the state then
	missing bool  // nothing to tell yet
	// closed says that not everybody in the room may see all of the timeline, and who may see what is decided for each; or
	// that the room is too large to be kept.
	closed bool

	joined, invited int
	candidates      *candidates
	limited         bool
	prevBatch       roomdb.Place
	timeline, state view.List
	members         []openingMember // if members are loaded lazily, who may be needed
	receipts        []roomdb.Receipt
	private         map[id.User]struct{} // whose receipts only they see
	receiptEvent    []byte               // of those that everybody sees; nil if there are none
	size            int64
}

// openingMember is the member event of somebody who sent the timeline or may name the room.
type openingMember struct {
	user  id.User
	nid   int64
	wrote bool      // the timeline
	told  bool      // the timeline brings the event
	event view.List // of one
}

// openingKey says what of the poll an opening depends on.
type openingKey struct {
	room       roomdb.RoomKey
	limit      int
	lazy       bool
	stateAfter bool
}

// openingAge bounds how long an opening is kept. Fetched history, which changes the timeline without an entry in the
// log, is told after that time at the latest.
const openingAge = 5 * time.Minute

func newOpenings(budget int64, reg prometheus.Registerer) *cache.Cache[openingKey, *opening] {
	return cache.New(cache.Config[openingKey, *opening]{
		Name: "opening", Budget: budget, MaxAge: openingAge, Metrics: reg,
		Weigh: func(_ openingKey, o *opening) int64 { return o.size },
	})
}

func (p *poll) openingKey(key roomdb.RoomKey) openingKey {
	return openingKey{key, p.filter.timelineLimit(), p.filter.Room.State.LazyLoadMembers, p.stateAfter}
}

// plain says whether the answer of a poll can be made of openings: it is a first one, and the filter leaves events and
// their form alone.
func (p *poll) plain(pr *prefs) bool {
	f := p.filter
	return p.since == nil && f.EventFormat != formatFederation && len(f.EventFields) == 0 &&
		f.Room.Timeline.all() && f.Room.State.all() && len(pr.ignored) == 0
}

// openingsOf returns what is to be told of rooms. What another poll is working out is waited for; the rest of what is not known, or
// of rooms in which something has happened since it was worked out, is read together.
func (s *Service) openingsOf(ctx context.Context, p *poll, m *moment, rooms []*userdb.Membership) (map[roomdb.RoomKey]*opening, error) {
	found := make(map[roomdb.RoomKey]*opening, len(rooms))
	unknown := s.unopened(p, m, rooms, found)
	// After two rounds it is better not to wait: others have failed, or the rooms change faster than they are worked out.
	for range 2 {
		if len(unknown) == 0 {
			return found, nil
		}
		others, err := s.openSome(ctx, p, m, unknown, found)
		if err != nil {
			return nil, err
		}
		if err := waitAll(ctx, others); err != nil {
			return nil, err
		}
		unknown = s.unopened(p, m, unknown, found)
	}
	return found, s.openAll(ctx, p, m, unknown, found)
}

// unopened adds to found what is known, and returns the rooms of which nothing is.
func (s *Service) unopened(p *poll, m *moment, rooms []*userdb.Membership, found map[roomdb.RoomKey]*opening) (unknown []*userdb.Membership) {
	for _, r := range rooms {
		key := roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID}
		if found[key] != nil {
			continue
		}
		// One that was worked out at a later moment counts for this one if nothing happened in the room in between.
		if o, ok := s.openings.Get(p.openingKey(key)); ok && o.last <= m.at(key.Part) && s.tail.quiet(key, o.pos) {
			found[key] = o
		} else {
			unknown = append(unknown, r)
		}
	}
	return unknown
}

// openSome works out those of the openings that no other poll is working out, and returns what to wait for until the others are.
func (s *Service) openSome(ctx context.Context, p *poll, m *moment, rooms []*userdb.Membership, found map[roomdb.RoomKey]*opening) ([]<-chan struct{}, error) {
	keys := make([]openingKey, len(rooms))
	for i, r := range rooms {
		keys[i] = p.openingKey(roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID})
	}
	mine, others := s.underway.claim(keys)
	defer s.underway.release(mine)
	own := make([]*userdb.Membership, 0, len(mine))
	for i, r := range rooms {
		if mine[keys[i]] {
			own = append(own, r)
		}
	}
	own = s.unopened(p, m, own, found) // another poll may have come to its end since we looked
	return others, s.openAll(ctx, p, m, own, found)
}

// openAll works out openings, and adds them to found.
func (s *Service) openAll(ctx context.Context, p *poll, m *moment, rooms []*userdb.Membership, found map[roomdb.RoomKey]*opening) error {
	if len(rooms) == 0 {
		return nil
	}
	load, err := s.loadFull(ctx, p, m, rooms)
	if err != nil {
		return err
	}
	var told []*roomdb.Event
	for _, events := range load.timelines {
		told = append(told, events...)
	}
	if load.bundles, load.closed, err = view.BundledForAll(ctx, s.rooms, told); err != nil {
		return err
	}
	for _, r := range rooms {
		key := roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID}
		o, err := s.open(ctx, p, m, key, load)
		if err != nil {
			return err
		}
		s.openings.Add(p.openingKey(key), o)
		found[key] = o
	}
	return nil
}

// open works out a room's opening.
func (s *Service) open(ctx context.Context, p *poll, m *moment, key roomdb.RoomKey, l *fullLoad) (*opening, error) {
	row := l.rooms[key]
	pos := m.at(key.Part)
	if !p.tells(row, m) {
		return &opening{missing: true, pos: pos, last: pos, size: 200}, nil
	}
	o := &opening{
		pos: pos, last: min(pos, row.LastPos), sid: l.sids[key], joined: row.Joined, invited: row.Invited, limited: l.limited[key],
		prevBatch: l.end(key, pos), receipts: l.receipts[key],
	}
	events := l.timelines[key]
	// What somebody may see who was no member at any of these events, anybody may see who is one now.
	visible, err := view.Visible(ctx, s.rooms, view.Reader{Joined: true}, events)
	if err != nil {
		return nil, err
	}
	if len(visible) < len(events) || l.closed[key] {
		return &opening{closed: true, pos: pos, last: o.last, size: 200}, nil
	}
	if o.timeline, err = view.Prepare(ctx, s.rooms, view.Format{Bundles: l.bundles}, events); err != nil {
		return nil, err
	}
	end := l.states[state.Ref{Part: key.Part, SID: o.sid}]
	if p.isLarge(end) {
		return &opening{closed: true, pos: pos, last: o.last, size: 200}, nil // not worth the place
	}
	start := end
	if len(events) > 0 {
		o.prevBatch = events[0].Place() - 1
		if !p.stateAfter {
			start = l.states[state.Ref{Part: key.Part, SID: events[0].SID}]
		}
	}
	if o.candidates, err = s.candidates(ctx, key.Part, end); err != nil {
		return nil, err
	}
	told := toldBy(events)
	stateEvents, err := s.stateEvents(ctx, key.Part, p.stateBefore(start, end, events), l)
	if err != nil {
		return nil, err
	}
	if o.state, err = view.Prepare(ctx, s.rooms, view.Format{}, stateEvents); err != nil {
		return nil, err
	}
	if p.filter.Room.State.LazyLoadMembers {
		if err := s.addOpeningMembers(ctx, p, o, key.Part, end, events, told); err != nil {
			return nil, err
		}
	}
	o.addReceipts()
	o.weigh()
	return o, nil
}

// addOpeningMembers adds the member events that lazy loading may need.
func (s *Service) addOpeningMembers(ctx context.Context, p *poll, o *opening, part uint32, end state.Map, timeline []*roomdb.Event, told map[int64]bool) error {
	index := make(map[id.User]struct{})
	add := func(user id.User, wrote bool) {
		if _, ok := index[user]; ok {
			return
		}
		index[user] = struct{}{}
		if nid, ok := memberOf(end, user); ok {
			o.members = append(o.members, openingMember{user: user, nid: nid, wrote: wrote, told: told[nid] && !p.stateAfter})
		}
	}
	for _, e := range timeline {
		add(e.Sender, true)
	}
	for _, users := range [][]id.User{o.candidates.present, o.candidates.gone} {
		for _, u := range users {
			add(u, false)
		}
	}
	var nids []int64
	for _, m := range o.members {
		if !m.told {
			nids = append(nids, m.nid)
		}
	}
	events, err := s.rooms.Events(ctx, part, nids)
	if err != nil {
		return err
	}
	for i := range o.members {
		m := &o.members[i]
		if e := events[m.nid]; e != nil {
			if m.event, err = view.Prepare(ctx, s.rooms, view.Format{}, []*roomdb.Event{e}); err != nil {
				return err
			}
		}
	}
	return nil
}

// addReceipts writes the receipts that everybody sees.
func (o *opening) addReceipts() {
	for _, r := range o.receipts {
		if r.Type == "m.read.private" {
			if o.private == nil {
				o.private = make(map[id.User]struct{})
			}
			o.private[r.User] = struct{}{}
		}
	}
	if public := receiptsFor(o.receipts, ""); len(public) > 0 {
		o.receiptEvent = receiptEvent(public)
	}
	if o.private == nil {
		o.receipts = nil // the event says it all
	}
}

// receiptsOf returns the event with the receipts that a user sees; nil if there are none.
func (o *opening) receiptsOf(me id.User) []byte {
	if _, ok := o.private[me]; !ok {
		return o.receiptEvent
	}
	return receiptEvent(receiptsFor(o.receipts, me))
}

func (o *opening) weigh() {
	size := 800 + o.timeline.Size() + o.state.Size() + len(o.receiptEvent) + 250*len(o.receipts) + 120*len(o.private)
	for i := range o.members {
		size += 150 + o.members[i].event.Size()
	}
	o.size = int64(size)
}

// quiet says that nothing has happened in a room since a position.
func (t *tail) quiet(room roomdb.RoomKey, since int64) bool {
	p := t.parts[room.Part]
	p.mu.RLock()
	defer p.mu.RUnlock()
	changed, known := p.changed(room.NID, since)
	return known && !changed
}
