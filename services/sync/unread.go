package sync

import (
	"bytes"
	"context"
	"maps"
	"slices"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	"hanse/pkg/notify"
	"hanse/pkg/roomdb"
	"hanse/pkg/userdb"
)

// An unread count is a subtraction: the events of the room that notify by the default rules, which each event carries
// as a running number, less those up to the user's receipt, and behind it the user's own, those of ignored users and
// redacted ones. Only mentions are rows.
// Users with rules of their own that look at single messages, and users who read by threads, have their unread events
// looked at one by one, newest first and no more than so many; see tally.go.

// readState is how far a user has read a room, and what lies behind. It is never changed, only replaced.
type readState struct {
	upTo int64 // log position up to which it counts
	head int64 // notify_seq there

	// Without threads:
	ord, notifySeq int64 // of the read position
	plain          int64 // position up to which only mentions count: the room was muted until then
	silent         int64 // events behind the read position that notify others, but not this user
	mentions       int64

	// One by one, if tallies is not nil: by thread, "" for the main timeline.
	tallies map[string]tally
	rules   []byte // the rules that they were counted with

	ignore   []byte             // the ignored users without whose events it was counted
	silenced []userdb.MutedTime // the times in which everything was muted, without whose events it was counted
}

// tally is what counts of one thread.
type tally notify.Count

// unread is what an answer says of a room.
type unread struct {
	tally
	threads map[string]tally // nil if the client did not ask
	changed bool             // the last answer said something else, or there was none
	unknown bool             // what the last answer said: another worker may have given it
}

func (u *unread) append(b []byte) []byte {
	b = append(b, `,"unread_notifications":`...)
	b = u.tally.append(b)
	if len(u.threads) == 0 {
		return b
	}
	b = append(b, `,"unread_thread_notifications":{`...)
	for i, root := range slices.Sorted(maps.Keys(u.threads)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(canonjson.AppendString(b, root), ':')
		b = u.threads[root].append(b)
	}
	return append(b, '}')
}

func (t tally) append(b []byte) []byte {
	b = appendCount(append(b, '{'), "highlight_count", t.Highlights)
	b = appendCount(append(b, ','), "notification_count", t.Notifications)
	return append(b, '}')
}

// muted applies a rule for the whole room: only mentions notify, or nothing does.
func (t tally) muted(level notify.Level) tally {
	return tally(notify.Count(t).Cut(level))
}

// counts applies the rules for the whole room. With rules of the user's own these are in the tallies already.
func (s *readState) counts(pr *prefs, room id.Room, byThread bool) unread {
	level := pr.Level(room)
	if s.tallies == nil {
		all := max(0, s.head-s.notifySeq-s.silent)
		u := unread{tally: tally{max(all, s.mentions), s.mentions}.muted(level)}
		if byThread {
			u.threads = map[string]tally{}
		}
		return u
	}
	if pr.Own() {
		level = notify.All
	}
	var u unread
	if byThread {
		u.threads = make(map[string]tally, len(s.tallies))
	}
	for root, t := range s.tallies {
		t = t.muted(level)
		if root != "" && byThread {
			if t != (tally{}) {
				u.threads[root] = t
			}
			continue
		}
		u.Notifications += t.Notifications
		u.Highlights += t.Highlights
	}
	return u
}

func (u *unread) equal(o *unread) bool { return u.tally == o.tally && maps.Equal(u.threads, o.threads) }

// unread returns the counts of one room after what happened in it.
func (s *Service) unread(ctx context.Context, p *asker, pr *prefs, r *userdb.Membership, upTo int64) (*unread, error) {
	key := roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID}
	old, now, err := s.knownRead(ctx, p, pr, r, upTo)
	if err != nil {
		return nil, err
	}
	if now == nil {
		all, err := s.readStates(ctx, p, pr, []*userdb.Membership{r}, func(uint32) int64 { return upTo })
		if err != nil {
			return nil, err
		}
		now = all[key]
	}
	p.user.keepRead(key, now)
	u := now.counts(pr, r.Room, p.byThread)
	u.changed, u.unknown = true, old == nil
	if old != nil {
		was := old.counts(pr, r.Room, p.byThread)
		u.changed = !u.equal(&was)
	}
	return &u, nil
}

// moved says whether counts are others than the client was told at position after. If a worker does not know that, it counts as
// of then, unless the user's own receipt came since, which counts anew what was before.
func (s *Service) moved(ctx context.Context, p *asker, pr *prefs, r *userdb.Membership, d *delta, after int64, u *unread) (bool, error) {
	me := string(p.who.User)
	if !u.unknown || slices.ContainsFunc(d.receipts, func(c receipt) bool { return c.user == me }) {
		return u.changed, nil
	}
	states, err := s.readStates(ctx, p, pr, []*userdb.Membership{r}, func(uint32) int64 { return after })
	if err != nil {
		return false, err
	}
	was := states[roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID}].counts(pr, r.Room, p.byThread)
	return !u.equal(&was), nil
}

// knownRead returns how far the worker knows a room to have been read, and what follows for a position from the tail;
// nil where that is not enough.
func (s *Service) knownRead(ctx context.Context, p *asker, pr *prefs, r *userdb.Membership, upTo int64) (old, now *readState, err error) {
	p.user.mu.Lock()
	old = p.user.reads[roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID}]
	p.user.mu.Unlock()
	if old == nil || !old.fits(pr, p.byThread) {
		return old, nil, nil
	}
	now, err = s.advance(ctx, p, pr, old, r, upTo)
	return old, now, err
}

// keepRead remembers how far a room was read, if the user is still in it.
func (u *user) keepRead(key roomdb.RoomKey, st *readState) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, ok := u.in[key]; ok {
		u.reads[key] = st
	}
}

// fits says whether a state can go on with these rules.
func (s *readState) fits(pr *prefs, byThread bool) bool {
	rawRules, rawIgnore := pr.Raw()
	if !bytes.Equal(s.ignore, rawIgnore) || !slices.EqualFunc(s.silenced, pr.muted, userdb.MutedTime.Equal) {
		return false
	}
	if s.tallies == nil {
		return !pr.Own() && (!byThread || s.allRead())
	}
	return !pr.Own() && s.rules == nil || pr.Own() && bytes.Equal(s.rules, rawRules)
}

// allRead says whether nothing is unread, in no thread.
func (s *readState) allRead() bool {
	if s.tallies != nil {
		return len(s.tallies) == 0
	}
	return s.head-s.notifySeq-s.silent <= 0 && s.mentions == 0
}

// advance continues a read state with what the tail holds; nil if that is not all.
func (s *Service) advance(ctx context.Context, p *asker, pr *prefs, old *readState, r *userdb.Membership, upTo int64) (*readState, error) {
	if old.upTo == upTo {
		return old, nil
	}
	entries, ok := s.tail.since(r.RoomPart, r.RoomNID, old.upTo, upTo)
	if !ok || old.upTo > upTo {
		return nil, nil
	}
	now := *old
	now.upTo = upTo
	if p.byThread && now.tallies == nil {
		now.tallies = map[string]tally{} // nothing is unread, or it would not fit
	} else {
		now.tallies = maps.Clone(now.tallies)
	}
	me := string(p.who.User)
	for _, e := range entries {
		switch {
		case e.receipt != nil && e.receipt.UserId == me:
			if !now.read(e) {
				return nil, nil // how much of it lies behind the receipt, PostgreSQL knows
			}
		case e.event != nil && e.log.Redacts != "" && !now.allRead():
			return nil, nil // nor is it known here whether what is redacted was unread
		case e.event != nil && now.tallies != nil:
			if err := s.countEntry(ctx, p, pr, &now, r, e); err != nil {
				return nil, err
			}
		case e.event != nil:
			now.count(e, me, pr)
		}
	}
	return &now, nil
}

// count goes on by an event.
func (s *readState) count(e *entry, me string, pr *prefs) {
	notifies := e.log.NotifySeq > s.head
	s.head = e.log.NotifySeq
	switch {
	case e.log.Sender == me, pr.ignored.Has(id.User(e.log.Sender)), e.log.Redacted:
		if notifies {
			s.silent++
		}
	case mentioned(e, me):
		s.mentions++
	}
}

func mentioned(e *entry, me string) bool {
	return e.log.MentionsRoom || slices.Contains(e.log.Mentions, me)
}

// read goes on by a receipt of the user's own; false if what is left behind it must be counted anew.
func (s *readState) read(e *entry) bool {
	r := e.receipt
	if r.Type != "m.read" && r.Type != "m.read.private" {
		return true
	}
	if roomdb.IsMuted(r.ThreadId) {
		return s.allRead()
	}
	if s.tallies == nil {
		if r.ThreadId != "" {
			return s.allRead()
		}
		if r.Ord <= s.ord {
			return true
		}
		if r.NotifySeq < s.head {
			return false
		}
		s.ord, s.notifySeq, s.silent, s.mentions = r.Ord, r.NotifySeq, 0, 0
		return true
	}
	if len(s.tallies) == 0 {
		return true
	}
	if s.rules != nil || r.NotifySeq < s.head {
		return false
	}
	switch r.ThreadId {
	case "":
		clear(s.tallies)
	case "main":
		delete(s.tallies, "")
	default:
		delete(s.tallies, r.ThreadId)
	}
	return true
}

// unreadOfAll returns the counts of many rooms, with a fixed number of queries for each shard for those of which the
// worker does not know them.
func (s *Service) unreadOfAll(ctx context.Context, p *asker, pr *prefs, m *moment, rooms []*userdb.Membership) (map[roomdb.RoomKey]*unread, error) {
	out := make(map[roomdb.RoomKey]*unread, len(rooms))
	add := func(r *userdb.Membership, key roomdb.RoomKey, st *readState) {
		u := st.counts(pr, r.Room, p.byThread)
		u.changed = true
		out[key] = &u
		p.user.keepRead(key, st)
	}
	var unknown []*userdb.Membership
	for _, r := range rooms {
		key := roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID}
		_, now, err := s.knownRead(ctx, p, pr, r, m.at(r.RoomPart))
		if err != nil {
			return nil, err
		}
		if now == nil {
			unknown = append(unknown, r)
			continue
		}
		add(r, key, now)
	}
	if len(unknown) == 0 {
		return out, nil
	}
	states, err := s.readStates(ctx, p, pr, unknown, m.at)
	if err != nil {
		return nil, err
	}
	for _, r := range unknown {
		key := roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID}
		add(r, key, states[key])
	}
	return out, nil
}

// readStates reads how far the user has read rooms.
func (s *Service) readStates(ctx context.Context, p *asker, pr *prefs, rooms []*userdb.Membership, upTo func(part uint32) int64) (map[roomdb.RoomKey]*readState, error) {
	keys := make([]roomdb.RoomKey, len(rooms))
	states := make(map[roomdb.RoomKey]*readState, len(rooms))
	joins := make(map[roomdb.RoomKey]int64, len(rooms))
	ends := make(map[uint32]int64)
	_, ignore := pr.Raw()
	for i, r := range rooms {
		keys[i] = roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID}
		states[keys[i]] = &readState{upTo: upTo(r.RoomPart), ord: r.JoinPos, ignore: ignore, silenced: pr.muted}
		joins[keys[i]], ends[r.RoomPart] = r.JoinPos, upTo(r.RoomPart)
	}
	heads, err := s.rooms.NotifySeqs(ctx, keys, ends, joins)
	if err != nil {
		return nil, err
	}
	receipts, err := s.rooms.ReceiptsOf(ctx, keys, p.who.User)
	if err != nil {
		return nil, err
	}
	spans := make([]roomdb.UnreadSpan, 0, len(keys))
	for _, r := range rooms {
		key := roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID}
		st := states[key]
		st.head, st.notifySeq = heads[key].Head, heads[key].AtJoin
		read := st.place(receipts[key])
		switch {
		case pr.Own(), st.head > st.notifySeq && (p.byThread || read.OneByOne(&pr.Rules, pr.muted, r.RoomPart, st.upTo)):
			if err := s.tally(ctx, pr, r, st, read); err != nil {
				return nil, err
			}
		case st.head > st.notifySeq:
			spans = append(spans, roomdb.UnreadSpan{RoomKey: key, After: st.ord, UpTo: st.upTo})
		}
	}
	counts, err := s.unreadBehind(ctx, p.who.User, pr.ignored, spans)
	if err != nil {
		return nil, err
	}
	for key, c := range counts {
		states[key].silent, states[key].mentions = c.silent, c.mentions
	}
	return states, nil
}

// place moves the read position to the newest receipt that counts for all threads, and returns it with how far single threads were
// read beyond it.
func (s *readState) place(receipts []roomdb.Receipt) *notify.Read {
	r := &notify.Read{Ord: s.ord, NotifySeq: s.notifySeq, Plain: s.plain}
	r.Take(receipts)
	s.ord, s.notifySeq, s.plain = r.Ord, r.NotifySeq, r.Plain
	return r
}
