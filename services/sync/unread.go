package sync

import (
	"context"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/userdb"
)

// An unread count is a subtraction: the events of the room that notify by the default rules, which each event carries
// as a running number, less those up to the user's receipt and the user's own behind it. Only mentions are rows.

// readState is how far a user has read a room, and what lies behind.
type readState struct {
	ord, notifySeq int64 // of the read position
	upTo           int64 // log position up to which the rest counts
	head           int64 // notify_seq at upTo
	own            int64 // events of the user's own behind the read position that notify others
	mentions       int64
}

// unread is what an answer says of a room.
type unread struct {
	notifications, highlights int64
	changed                   bool // the last answer said something else, or there was none
}

func (u *unread) append(b []byte) []byte {
	b = append(b, `,"unread_notifications":{`...)
	b = appendCount(b, "highlight_count", u.highlights)
	b = append(b, ',')
	b = appendCount(b, "notification_count", u.notifications)
	return append(b, '}')
}

// counts applies the user's rules: of a muted room only mentions notify, or nothing does.
func (s *readState) counts(level ruleLevel) unread {
	all := max(0, s.head-s.notifySeq-s.own)
	switch level {
	case notifyNone:
		return unread{}
	case notifyMentions:
		return unread{notifications: s.mentions, highlights: s.mentions}
	}
	return unread{notifications: max(all, s.mentions), highlights: s.mentions}
}

// unread returns the counts of one room after what happened in it.
func (s *Service) unread(ctx context.Context, p *poll, r *userdb.Membership, upTo int64, d *delta) (*unread, error) {
	level, err := s.levelOf(ctx, p.user, r.Room)
	if err != nil {
		return nil, err
	}
	key := roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID}
	p.user.mu.Lock()
	old := p.user.reads[key]
	p.user.mu.Unlock()
	now, ok := (*readState)(nil), false
	if old != nil {
		now, ok = s.advance(old, p.who.User, key, upTo)
	}
	if !ok {
		all, err := s.readStates(ctx, p.who.User, []*userdb.Membership{r}, map[uint32]int64{r.RoomPart: upTo})
		if err != nil {
			return nil, err
		}
		now = all[key]
	}
	p.user.mu.Lock()
	p.user.reads[key] = now
	p.user.mu.Unlock()
	u := now.counts(level)
	u.changed = old == nil || func() bool {
		o := old.counts(level)
		return o.notifications != u.notifications || o.highlights != u.highlights
	}()
	return &u, nil
}

// advance continues a read state with what the tail holds; false if that is not all.
func (s *Service) advance(old *readState, me id.User, key roomdb.RoomKey, upTo int64) (*readState, bool) {
	if old.upTo == upTo {
		return old, true
	}
	entries, ok := s.tail.since(key.Part, key.NID, old.upTo, upTo)
	if !ok || old.upTo > upTo {
		return nil, false
	}
	now := *old
	now.upTo = upTo
	for _, e := range entries {
		switch {
		case e.receipt != nil && e.receipt.UserId == string(me):
			if e.receipt.ThreadId != "" && e.receipt.ThreadId != "main" || e.receipt.Ord <= now.ord {
				continue
			}
			if e.receipt.Ord < e.pos-1 && now.own+now.mentions > 0 {
				return nil, false // how many of them lie behind the receipt, PostgreSQL knows
			}
			now.ord, now.notifySeq = e.receipt.Ord, e.receipt.NotifySeq
			if now.notifySeq >= now.head {
				now.own, now.mentions = 0, 0
			}
		case e.event != nil:
			notifies := e.log.NotifySeq > now.head
			now.head = e.log.NotifySeq
			if e.log.Sender == string(me) {
				if notifies {
					now.own++
				}
				continue
			}
			if e.log.MentionsRoom || contains(e.log.Mentions, string(me)) {
				now.mentions++
			}
		}
	}
	return &now, true
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}

// unreadOfAll returns the counts of many rooms, with a fixed number of queries for each shard.
func (s *Service) unreadOfAll(ctx context.Context, p *poll, m *moment, rooms []*userdb.Membership, l *fullLoad) (map[roomdb.RoomKey]*unread, error) {
	states, err := s.readStates(ctx, p.who.User, rooms, m.pos)
	if err != nil {
		return nil, err
	}
	out := make(map[roomdb.RoomKey]*unread, len(rooms))
	for _, r := range rooms {
		key := roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID}
		st := states[key]
		if st == nil {
			continue
		}
		level, err := s.levelOf(ctx, p.user, r.Room)
		if err != nil {
			return nil, err
		}
		u := st.counts(level)
		u.changed = true
		out[key] = &u
	}
	p.user.mu.Lock()
	for key, st := range states {
		p.user.reads[key] = st
	}
	p.user.mu.Unlock()
	return out, nil
}

// readStates reads how far the user has read rooms.
func (s *Service) readStates(ctx context.Context, me id.User, rooms []*userdb.Membership, upTo map[uint32]int64) (map[roomdb.RoomKey]*readState, error) {
	keys := make([]roomdb.RoomKey, len(rooms))
	states := make(map[roomdb.RoomKey]*readState, len(rooms))
	for i, r := range rooms {
		keys[i] = roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID}
		states[keys[i]] = &readState{upTo: upTo[r.RoomPart], ord: r.JoinPos}
	}
	heads, err := s.rooms.NotifySeqs(ctx, keys, upTo, joinsOf(states))
	if err != nil {
		return nil, err
	}
	receipts, err := s.rooms.Receipts(ctx, keys, me)
	if err != nil {
		return nil, err
	}
	spans := make([]roomdb.UnreadSpan, 0, len(keys))
	for key, st := range states {
		h := heads[key]
		st.head, st.notifySeq = h.Head, h.AtJoin
		for _, r := range receipts[key] {
			if (r.Thread == "" || r.Thread == "main") && (r.Type == "m.read" || r.Type == "m.read.private") && r.Ord >= st.ord {
				st.ord, st.notifySeq = r.Ord, r.NotifySeq
			}
		}
		if st.head > st.notifySeq {
			spans = append(spans, roomdb.UnreadSpan{RoomKey: key, After: st.ord, UpTo: st.upTo})
		}
	}
	counts, err := s.rooms.Unread(ctx, me, spans)
	if err != nil {
		return nil, err
	}
	for key, c := range counts {
		states[key].own, states[key].mentions = c.OwnNotifying, c.Mentions
	}
	return states, nil
}

// joinsOf returns the positions of the rooms' joins.
func joinsOf(states map[roomdb.RoomKey]*readState) map[roomdb.RoomKey]int64 {
	at := make(map[roomdb.RoomKey]int64, len(states))
	for key, st := range states {
		at[key] = st.ord
	}
	return at
}
