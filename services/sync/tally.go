package sync

import (
	"context"

	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/pushrule"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	"hanse/pkg/userdb"
)

// maxTally is how many events are looked at one by one, the newest: more unread ones make no higher count.
const maxTally = 500

// tally counts what is unread of a room one by one, behind the read position and those of the threads.
func (s *Service) tally(ctx context.Context, p *asker, pr *prefs, r *userdb.Membership, st *readState, threads map[string]int64) error {
	st.tallies = map[string]tally{}
	if pr.program != nil {
		st.rules = pr.rawRules
	}
	var c *ruleContext
	for upTo, left := st.upTo, maxTally; upTo > st.ord && left > 0; {
		events, err := s.rooms.Timeline(ctx, r.RoomPart, r.RoomNID, roomdb.TimelineQuery{
			After: roomdb.At(st.ord), UpTo: roomdb.At(upTo), Backwards: true, Live: true, Limit: left + 1,
		})
		if err != nil || len(events) == 0 {
			return err
		}
		if c == nil {
			if c, err = s.ruleContext(ctx, p, r); err != nil {
				return err
			}
		}
		upTo = st.ord
		for i, e := range events[:min(len(events), left)] {
			if m := pr.mutedAt(r.RoomPart, e.Ord); m != nil {
				upTo = m.Since[r.RoomPart] // what came before the mute still counts
				break
			}
			left--
			before := st.notifySeq
			if i+1 < len(events) {
				before = events[i+1].NotifySeq
			}
			st.tallyOne(p, pr, c, e, e.NotifySeq > before, threads)
		}
	}
	return nil
}

// tallyOne counts an event, if the user has not read it.
func (s *readState) tallyOne(p *asker, pr *prefs, c *ruleContext, e *roomdb.Event, notifies bool, threads map[string]int64) {
	root := threadOf(e.PDU)
	read := threads["main"]
	if root != "" {
		read = threads[root]
	}
	if e.Ord <= read || e.Sender == p.who.User || e.RedactedBy != 0 || pr.ignored.Has(e.Sender) {
		return
	}
	t := pr.judge(e, notifies, c)
	if e.Ord <= s.plain {
		t = t.muted(notifyMentions)
	}
	s.add(root, t)
}

// countEntry goes on by an event of the tail.
func (s *Service) countEntry(ctx context.Context, p *asker, pr *prefs, st *readState, r *userdb.Membership, e *entry) error {
	notifies := e.log.NotifySeq > st.head
	st.head = e.log.NotifySeq
	me := string(p.who.User)
	if e.log.Sender == me || e.log.Redacted || pr.ignored.Has(id.User(e.log.Sender)) {
		return nil
	}
	if pr.program == nil {
		t := tally{}
		if mentioned(e, me) {
			t = tally{1, 1}
		} else if notifies {
			t.notifications = 1
		}
		st.add(e.log.Thread, t)
		return nil
	}
	c, err := s.ruleContext(ctx, p, r)
	if err != nil {
		return err
	}
	st.add(e.log.Thread, pr.judge(e.event, notifies, c))
	return nil
}

func (s *readState) add(root string, t tally) {
	if t == (tally{}) {
		return
	}
	was := s.tallies[root]
	s.tallies[root] = tally{was.notifications + t.notifications, was.highlights + t.highlights}
}

// judge says what an event counts: by the user's rules, or by the default ones, of which its author has told whether
// they notify everybody.
func (p *prefs) judge(e *roomdb.Event, notifies bool, c *ruleContext) tally {
	var t tally
	if p.program != nil {
		o := p.program.Evaluate(pushrule.NewView(e.PDU), c.of(e.PDU))
		if o.Notify {
			t.notifications = 1
			if o.Highlight {
				t.highlights = 1
			}
		}
		return t
	}
	mentions := gjson.GetBytes(e.Content, `m\.mentions`)
	if mentions.Get("room").Type == gjson.True && notifies && c.mayNotify(e.PDU, "room") {
		return tally{1, 1}
	}
	for _, u := range mentions.Get("user_ids").Array() {
		if u.Str == string(c.user.User) {
			return tally{1, 1}
		}
	}
	if notifies {
		t.notifications = 1
	}
	return t
}

// ruleContext is what rules look at beside the event: the room as it is now.
type ruleContext struct {
	user  pushrule.Context
	state auth.State
}

func (s *Service) ruleContext(ctx context.Context, p *asker, r *userdb.Membership) (*ruleContext, error) {
	c := &ruleContext{user: pushrule.Context{User: p.who.User}, state: make(auth.State, 2)}
	rows, err := s.rooms.RoomsByNID(ctx, []roomdb.RoomKey{{Part: r.RoomPart, NID: r.RoomNID}})
	if err != nil {
		return nil, err
	}
	row := rows[r.Room]
	if row == nil {
		return c, nil
	}
	c.user.Members = row.Joined
	m, err := s.rooms.State(ctx, row.Part, row.SID)
	if err != nil {
		return nil, err
	}
	var nids []int64
	for _, k := range []state.Key{{Type: "m.room.create"}, {Type: "m.room.power_levels"}, {Type: memberType, StateKey: string(p.who.User)}} {
		if nid, ok := m.Get(k); ok {
			nids = append(nids, nid)
		}
	}
	events, err := s.rooms.Events(ctx, row.Part, nids)
	if err != nil {
		return nil, err
	}
	for _, e := range events {
		if e.Type == memberType {
			c.user.DisplayName = gjson.GetBytes(e.Content, "displayname").Str
			continue
		}
		c.state[event.Tuple{Type: e.Type}] = e.PDU
	}
	return c, nil
}

// of is the context for one event.
func (c *ruleContext) of(e *event.PDU) pushrule.Context {
	of := c.user
	of.MayNotify = func(key string) bool { return c.mayNotify(e, key) }
	return of
}

// mayNotify says whether the sender may notify the room (client-server API, sender_notification_permission). Power
// levels that are malformed grant nothing.
func (c *ruleContext) mayNotify(e *event.PDU, key string) bool {
	required, malformed := auth.PowerLevelsOf(c.state).Notification(key)
	return malformed == nil && auth.PowerOf(e.Sender, c.state) >= required
}

// threadOf returns the root of the thread that an event is in, "" for the main timeline (client-server API,
// "Threaded read receipts").
func threadOf(e *event.PDU) string {
	relation := gjson.GetBytes(e.Content, `m\.relates_to`)
	if relation.Get("rel_type").Str != "m.thread" {
		return ""
	}
	return relation.Get("event_id").Str
}
