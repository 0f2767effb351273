package sync

import (
	"cmp"
	"context"
	"slices"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	"hanse/pkg/userdb"
	"hanse/pkg/view"
	"hanse/services/sync/sliding"
)

// task is a room of which there may be something to tell.
type task struct {
	r        *userdb.Membership
	activity activity
	seen     *seen        // what is asked for of it; nil: nothing, only device lists
	was      sliding.Told // what the client knows, if it knows the room
	known    bool
	initial  bool // all is told
	more     bool // more events of the timeline are asked for than before
	expanded bool // or more of the state
	after    int64
	d        *delta // what has happened, once it is known
}

func (t *task) key() roomdb.RoomKey { return roomdb.RoomKey{Part: t.r.RoomPart, NID: t.r.RoomNID} }

// keyOfRoom names a room for the connection. Rooms that no local user is in have no number: a hash of the id stands for it.
func keyOfRoom(r *userdb.Membership) sliding.Key {
	if r.RoomNID == 0 {
		return sliding.KeyOfID(r.RoomPart, string(r.Room))
	}
	return sliding.KeyOf(r.RoomPart, r.RoomNID)
}

// What one answer tells of rooms as a whole is bounded: each counts as the events of its timeline, and roomCost for all else. Other
// rooms follow with the next answer, which does not wait.
const (
	maxWhole = 3500
	roomCost = 10
)

// todo is what an answer is made of.
type todo struct {
	joined []*task // of rooms that the user is in: what has changed, as a whole or since some position
	others []*task // invites, knocks, and rooms that the user is out of
	gone   []*userdb.Membership
	came   []*userdb.Membership // joined since the client's position
}

// roomsToTell finds the rooms of which there may be something to tell: those in sight that the client does not know, or knows less
// of than it asks for, and those in which something has happened.
func (s *Service) roomsToTell(ctx context.Context, p *slide, m *moment, x *sight, a *slideAnswer, data []userdb.AccountData) (*todo, error) {
	out, have := new(todo), make(map[id.Room]struct{})
	add := func(r *userdb.Membership, at activity, v *seen) {
		if _, ok := have[r.Room]; ok {
			return
		}
		have[r.Room] = struct{}{}
		t := &task{r: r, activity: at, seen: v}
		t.was, t.known = p.told().Told(keyOfRoom(r))
		p.judge(t)
		if r.Membership == "join" {
			out.joined = append(out.joined, t)
		} else {
			out.others = append(out.others, t)
		}
	}
	cost := 0
	if p.since != nil {
		if err := s.addChanged(ctx, p, m, x, a, &cost, out, add); err != nil {
			return nil, err
		}
	}
	if !p.settled(m, x.o) {
		pr, err := s.prefsOf(ctx, p.user)
		if err != nil {
			return nil, err
		}
		x.each(func(pl *place) bool {
			if pl.r.Membership == "invite" && !pr.tellsInvite(pl.r.Sender) {
				return true // it is never told, and must not take the place of others
			}
			v := x.of(pl.r.Room, pl)
			was, known := p.told().Told(keyOfRoom(pl.r))
			if known && was.Live && !p.wantsMore(v, was) && v.config.Limit == p.told().Configs[was.Config].Limit && sameState(&v.config, &p.told().Configs[was.Config]) {
				return true
			}
			if !known || !was.Live || p.wantsMore(v, was) {
				if cost += v.config.Limit + roomCost; cost > maxWhole {
					a.partial, a.news = true, true
					return false
				}
			}
			add(pl.r, pl.activity, v)
			return true
		})
	}
	for _, d := range data { // account data of rooms that the client knows
		if pl := x.o.of(d.Room); d.Room != "" && p.since != nil && pl != nil {
			if v := x.of(d.Room, pl); v == nil {
				p.hide(a, pl.r)
			}
		}
	}
	return out, nil
}

func sameState(a, b *sliding.Config) bool { return a.Covers(b) && b.Covers(a) }

// judge says what is to be told of a room.
func (p *slide) judge(t *task) {
	t.initial = !t.known || p.since == nil || t.r.Membership == "join" && t.r.JoinSeq > p.since.UserSeq
	if t.initial || t.seen == nil {
		if p.since != nil {
			t.after, _ = p.since.At(t.r.RoomPart)
		}
		return
	}
	if t.after = t.was.Pos; t.was.Live {
		var ok bool
		if t.after, ok = p.since.At(t.r.RoomPart); !ok {
			t.after = t.r.JoinPos - 1
		}
	}
	if int(t.was.Config) >= len(p.told().Configs) {
		t.initial = true
		return
	}
	old := &p.told().Configs[t.was.Config]
	t.more, t.expanded = t.seen.config.Limit > old.Limit, !old.Covers(&t.seen.config)
}

// wantsMore says whether more is asked for of a room than the client was told.
func (p *slide) wantsMore(v *seen, was sliding.Told) bool {
	if int(was.Config) >= len(p.told().Configs) {
		return true
	}
	old := &p.told().Configs[was.Config]
	return v.config.Limit > old.Limit || !old.Covers(&v.config)
}

// addChanged adds the rooms in which something has happened since the client's position.
func (s *Service) addChanged(ctx context.Context, p *slide, m *moment, x *sight, a *slideAnswer, cost *int, out *todo, add func(*userdb.Membership, activity, *seen)) error {
	if m.seq > p.since.UserSeq {
		for _, r := range m.rooms {
			if r.Seq <= p.since.UserSeq {
				continue
			}
			pl := x.o.of(r.Room)
			_, known := p.told().Told(keyOfRoom(r))
			gone := r.Membership == "leave" || r.Membership == "ban"
			var at activity
			if pl != nil {
				at = pl.activity
			}
			switch v := x.of(r.Room, pl); {
			case gone && known,
				pl != nil && v != nil && (r.Membership != "join" || r.JoinSeq > p.since.UserSeq):
				add(r, at, v)
			case known && !gone && (r.Membership != "join" || r.JoinSeq > p.since.UserSeq):
				// It changed where the client does not look: it is told as a whole when it comes into sight.
				a.changes.Forget(keyOfRoom(r))
				a.hidden++
			}
			if gone {
				out.gone = append(out.gone, r)
			} else if r.Membership == "join" && r.JoinSeq > p.since.UserSeq {
				out.came = append(out.came, r)
			}
		}
	}
	changed, err := s.changedSince(ctx, p.since, m)
	if err != nil {
		return err
	}
	for _, r := range p.user.withoutLeft(changed, p.since) {
		pl := x.o.of(r.Room)
		if pl == nil {
			continue
		}
		v := x.of(r.Room, pl)
		if v != nil {
			if *cost += v.config.Limit + roomCost; *cost > maxWhole {
				p.hide(a, r)
				a.partial, a.news = true, true
				continue
			}
		}
		add(r, pl.activity, v)
	}
	return nil
}

// hide notes that something has happened in a room that the client knows, where it does not look.
func (p *slide) hide(a *slideAnswer, r *userdb.Membership) {
	key := keyOfRoom(r)
	was, known := p.told().Told(key)
	if !known || !was.Live || a.changes.Has(key) {
		return
	}
	pos, ok := p.since.At(r.RoomPart)
	if !ok {
		pos = r.JoinPos - 1
	}
	a.hidden++
	a.changes.Set(key, sliding.Told{Pos: max(pos, 0), Config: was.Config})
}

// tells notes that the client is told of a room, up to the answer's position.
func (a *slideAnswer) tells(p *slide, t *task) {
	used := func(n uint16) bool { return p.told().UsesConfig(n) || slices.Contains(a.given, n) }
	n, head := a.head.ConfigNumber(t.seen.config, used)
	if head != nil {
		a.setHead(head)
	}
	if !slices.Contains(a.given, n) {
		a.given = append(a.given, n)
	}
	if now := (sliding.Told{Live: true, Config: n}); !t.known || t.was != now {
		a.changes.Set(keyOfRoom(t.r), now)
	}
}

// tellRooms adds what there is to tell of rooms.
func (s *Service) tellRooms(ctx context.Context, p *slide, m *moment, a *slideAnswer, todo *todo) error {
	pr, err := s.prefsOf(ctx, p.user)
	if err != nil {
		return err
	}
	var whole []*task
	for _, t := range todo.joined {
		switch {
		case t.seen != nil && (t.initial || t.more || t.expanded):
			whole = append(whole, t)
		default:
			if err := s.tellChanges(ctx, p, m, a, pr, t); err != nil {
				return err
			}
		}
	}
	if err := s.tellWhole(ctx, p, m, a, pr, whole); err != nil {
		return err
	}
	for _, t := range todo.others {
		if err := s.tellOther(ctx, p, a, pr, t); err != nil {
			return err
		}
	}
	slices.SortFunc(a.rooms, func(x, y roomAnswer) int { return cmp.Compare(x.id, y.id) })
	return nil
}

// tellChanges adds what has happened in a room since the client was told of it.
func (s *Service) tellChanges(ctx context.Context, p *slide, m *moment, a *slideAnswer, pr *prefs, t *task) error {
	if t.seen == nil {
		p.hide(a, t.r)
		return nil
	}
	upTo, want := m.at(t.r.RoomPart), noEvents
	want.limit = t.seen.config.Limit
	var err error
	if t.d, err = s.delta(ctx, &p.asker, want, pr, t.r, t.after, upTo); err != nil {
		return err
	}
	v := &slideRoom{task: t, joined: -1, limited: t.d.limited, prevBatch: t.d.start(t.after, upTo)}
	reader := view.Reader{User: p.who.User, Joined: true, CurrentSID: t.d.after}
	if v.timeline, err = view.Visible(ctx, s.rooms, reader, pr.ignored.Heed(t.d.events)); err != nil {
		return err
	}
	if v.limited {
		if v.bundles, err = s.bundlesOf(ctx, &p.asker, pr, v.timeline); err != nil {
			return err
		}
	}
	v.live = len(v.timeline)
	if err := s.addSlideDelta(ctx, p, v); err != nil {
		return err
	}
	if !p.req.Stable {
		if v.unread, err = s.unread(ctx, &p.asker, pr, t.r, upTo); err != nil {
			return err
		}
	}
	// The counts may have fallen at a poll of another device, which kept what they are now.
	own := !p.req.Stable && slices.ContainsFunc(t.d.receipts, func(c receipt) bool { return c.user == string(p.who.User) })
	news := own || len(v.timeline)+len(v.state)+len(v.stubs) > 0 || v.limited || v.joined >= 0
	if !news && v.unread != nil {
		if news, err = s.moved(ctx, &p.asker, pr, t.r, t.d, t.after, v.unread); err != nil {
			return err
		}
	}
	a.tells(p, t)
	if !news {
		return nil
	}
	return s.addSlideRoom(ctx, p, a, v)
}

// addSlideDelta adds what has changed of a room's state.
func (s *Service) addSlideDelta(ctx context.Context, p *slide, v *slideRoom) error {
	t, d := v.task, v.task.d
	me, part := p.who.User, t.r.RoomPart
	if d.after == 0 {
		return nil
	}
	end, err := s.rooms.State(ctx, part, d.after)
	if err != nil {
		return err
	}
	var nids []int64
	var shown state.Map
	if d.before != d.after {
		before, err := s.rooms.State(ctx, part, d.before)
		if err != nil {
			return err
		}
		lazy := t.seen.Lazy() && !d.limited
		for c := range state.Diff(before, end) {
			switch {
			case !t.seen.Matches(c.Key, me) && !(lazy && c.Key.Type == memberType):
			case c.New != 0:
				nids = append(nids, c.New)
			default:
				v.stubs = append(v.stubs, c.Key)
			}
			v.changed(c.Key)
		}
		shown = end
	}
	if t.seen.Lazy() && len(v.timeline) > 0 {
		for _, nid := range p.user.lazyNew(&p.asker, part, end, v.members(), false) {
			if !slices.Contains(nids, nid) {
				nids = append(nids, nid)
			}
		}
	}
	if v.state, err = s.rooms.InOrder(ctx, part, nids); err != nil {
		return err
	}
	if len(d.members) == 0 && !v.named && !v.pictured {
		return nil
	}
	rows, err := s.rooms.RoomsByNID(ctx, []roomdb.RoomKey{t.key()})
	if err != nil {
		return err
	}
	row := rows[t.r.Room]
	if row == nil {
		return nil
	}
	if len(d.members) > 0 {
		v.joined, v.invited = row.Joined, row.Invited
	}
	return s.addFace(ctx, p, v, shown, len(d.members) > 0)
}

// members are those whose member events a timeline needs (MSC4186, "Lazy loaded memberships"): who sent it, and whom it is about.
func (v *slideRoom) members() map[id.User]struct{} {
	users := make(map[id.User]struct{}, 4)
	for _, e := range v.timeline {
		users[e.Sender] = struct{}{}
		if e.Type == memberType && e.StateKey != nil {
			users[id.User(*e.StateKey)] = struct{}{}
		}
	}
	return users
}

// whole is what rooms that are told as a whole need, read for all of them at once.
type whole struct {
	rows   map[roomdb.RoomKey]*roomdb.Room
	sids   map[roomdb.RoomKey]int64
	ends   map[roomdb.RoomKey]roomdb.Ending
	states map[state.Ref]state.Map
	unread map[roomdb.RoomKey]*unread
}

func (w *whole) state(key roomdb.RoomKey) state.Map {
	return w.states[state.Ref{Part: key.Part, SID: w.sids[key]}]
}

// tellWhole adds rooms that the client does not know, or of which it asks for more than before.
func (s *Service) tellWhole(ctx context.Context, p *slide, m *moment, a *slideAnswer, pr *prefs, tasks []*task) error {
	if len(tasks) == 0 {
		return nil
	}
	w, err := s.loadWhole(ctx, p, m, pr, tasks)
	if err != nil {
		return err
	}
	views := make([]*slideRoom, 0, len(tasks))
	want := make(map[uint32][]int64)
	for _, t := range tasks {
		row := w.rows[t.key()]
		if row == nil || t.seen.Members() && !roomdb.WholeAt(row.FullPos, m.at(row.Part)) {
			a.partial = true // the membership index may be ahead of the row; one that lacks members comes when they are known
			if t.known {
				a.changes.Forget(keyOfRoom(t.r))
			}
			continue
		}
		v, err := s.viewWhole(ctx, p, m, pr, w, t)
		if err != nil {
			return err
		}
		if len(v.nids) > largeState {
			s.log.WarnContext(ctx, "a room is left out of sliding sync, as the state that the client asks for is too large", "room", t.r.Room)
			if t.known {
				a.changes.Forget(keyOfRoom(t.r))
			}
			continue
		}
		want[t.r.RoomPart] = append(want[t.r.RoomPart], v.nids...)
		views = append(views, v)
	}
	events, err := s.rooms.EventsIn(ctx, want)
	if err != nil {
		return err
	}
	timelines := make([][]*roomdb.Event, len(views))
	for i, v := range views {
		timelines[i] = v.timeline
	}
	bundles, err := s.bundlesOf(ctx, &p.asker, pr, timelines...)
	if err != nil {
		return err
	}
	for _, v := range views {
		v.bundles = bundles
		for _, nid := range v.nids {
			if e := events[v.r.RoomPart][nid]; e != nil {
				v.state = append(v.state, e)
			}
		}
		// What changed of these since the client was told of the room is not looked for.
		row := w.rows[v.key()]
		v.joined, v.invited, v.named, v.pictured = row.Joined, row.Invited, true, true
		if err := s.addFace(ctx, p, v, w.state(v.key()), true); err != nil {
			return err
		}
		v.unread = w.unread[v.key()]
		a.tells(p, v.task)
		if err := s.addSlideRoom(ctx, p, a, v); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) loadWhole(ctx context.Context, p *slide, m *moment, pr *prefs, tasks []*task) (*whole, error) {
	w := &whole{rows: make(map[roomdb.RoomKey]*roomdb.Room, len(tasks)), sids: make(map[roomdb.RoomKey]int64, len(tasks))}
	keys, ends := make([]roomdb.RoomKey, len(tasks)), make([]roomdb.TimelineEnd, len(tasks))
	members := make([]*userdb.Membership, len(tasks))
	most := 0
	for i, t := range tasks {
		keys[i], members[i] = t.key(), t.r
		ends[i] = roomdb.TimelineEnd{RoomKey: keys[i], UpTo: m.at(keys[i].Part)}
		most = max(most, t.seen.config.Limit)
	}
	rows, err := s.rooms.RoomsByNID(ctx, keys)
	if err != nil {
		return nil, err
	}
	var refs []state.Ref
	for _, row := range rows {
		key := row.Key()
		if w.rows[key] = row; row.LastPos > 0 {
			if w.sids[key], err = s.sidAt(ctx, row, m); err != nil {
				return nil, err
			}
		}
		refs = append(refs, state.Ref{Part: key.Part, SID: w.sids[key]})
	}
	if w.ends, err = s.rooms.TimelineEnds(ctx, ends, most+1); err != nil {
		return nil, err
	}
	for key, e := range w.ends {
		for _, sid := range view.Bases(e.Events) {
			refs = append(refs, state.Ref{Part: key.Part, SID: sid})
		}
	}
	if w.states, err = s.rooms.States(ctx, refs); err != nil {
		return nil, err
	}
	if !p.req.Stable {
		w.unread, err = s.unreadOfAll(ctx, &p.asker, pr, m, members)
	}
	return w, err
}

// viewWhole makes what is told of a room but for the events of its state.
func (s *Service) viewWhole(ctx context.Context, p *slide, m *moment, pr *prefs, w *whole, t *task) (*slideRoom, error) {
	key := t.key()
	end, limit := w.ends[key], t.seen.config.Limit
	upTo := m.at(key.Part)
	v := &slideRoom{task: t, joined: -1, limited: end.Hole != nil, prevBatch: roomdb.At(upTo)}
	if end.Hole != nil {
		v.prevBatch = roomdb.At(*end.Hole) - 1
	}
	events := end.Events
	if len(events) > limit {
		events, v.limited = events[:limit], true
	}
	events = slices.Clone(events)
	slices.Reverse(events)
	if !t.initial && !t.more {
		cut := slices.IndexFunc(events, func(e *roomdb.Event) bool { return e.Place() > roomdb.At(t.after) })
		if cut < 0 {
			cut = len(events)
		}
		if events = events[cut:]; cut > 0 {
			v.limited = false
			v.prevBatch = roomdb.At(t.after)
		}
	}
	if len(events) > 0 {
		v.prevBatch = events[0].Place() - 1
	}
	var err error
	reader := view.Reader{User: p.who.User, Joined: true, CurrentSID: w.sids[key]}
	if v.timeline, err = view.Visible(ctx, s.rooms, reader, pr.ignored.Heed(events)); err != nil {
		return nil, err
	}
	if p.since != nil {
		after := max(t.after, t.r.JoinPos-1)
		for _, e := range v.timeline {
			if e.Place() > roomdb.At(after) {
				v.live++
			}
		}
	}
	end2 := w.state(key)
	v.nids = t.seen.Of(end2, p.who.User)
	if t.seen.Lazy() {
		for _, nid := range p.user.lazyNew(&p.asker, key.Part, end2, v.members(), t.initial) {
			if !slices.Contains(v.nids, nid) {
				v.nids = append(v.nids, nid)
			}
		}
	}
	return v, nil
}
