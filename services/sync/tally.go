package sync

import (
	"context"

	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/pushrule"
	"hanse/pkg/notify"
	"hanse/pkg/roomdb"
	"hanse/pkg/userdb"
)

// tally counts what is unread of a room one by one, behind the read position and those of the threads.
func (s *Service) tally(ctx context.Context, p *asker, pr *prefs, r *userdb.Membership, st *readState, threads map[string]int64) error {
	st.tallies = map[string]tally{}
	if pr.Own() {
		st.rules, _ = pr.Raw()
	}
	var room *notify.Room
	for upTo, left := st.upTo, notify.MaxTally; upTo > st.ord && left > 0; {
		events, err := s.rooms.Timeline(ctx, r.RoomPart, r.RoomNID, roomdb.TimelineQuery{
			After: roomdb.At(st.ord), UpTo: roomdb.At(upTo), Backwards: true, Live: true, Limit: left + 1,
		})
		if err != nil || len(events) == 0 {
			return err
		}
		if room == nil {
			if room, err = notify.LoadRoom(ctx, s.rooms, roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID}, p.who.User); err != nil {
				return err
			}
		}
		upTo = st.ord
		for _, e := range events[:min(len(events), left)] {
			if m := pr.mutedAt(r.RoomPart, e.Ord); m != nil {
				upTo = m.Since[r.RoomPart] // what came before the mute still counts
				break
			}
			left--
			st.tallyOne(p, pr, room, e, threads)
		}
	}
	return nil
}

// tallyOne counts an event, if the user has not read it.
func (s *readState) tallyOne(p *asker, pr *prefs, room *notify.Room, e *roomdb.Event, threads map[string]int64) {
	root := notify.ThreadOf(e.PDU)
	read := threads["main"]
	if root != "" {
		read = threads[root]
	}
	if e.Ord <= read || e.Sender == p.who.User || e.RedactedBy != 0 {
		return
	}
	t := pr.judge(e, room)
	if e.Ord <= s.plain {
		t = t.muted(notify.Mentions)
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
	if !pr.Own() {
		t := tally{}
		if mentioned(e, me) {
			t = tally{1, 1}
		} else if notifies {
			t.notifications = 1
		}
		st.add(e.log.Thread, t)
		return nil
	}
	room, err := notify.LoadRoom(ctx, s.rooms, roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID}, p.who.User)
	if err != nil {
		return err
	}
	st.add(e.log.Thread, pr.judge(e.event, room))
	return nil
}

func (s *readState) add(root string, t tally) {
	if t == (tally{}) {
		return
	}
	was := s.tallies[root]
	s.tallies[root] = tally{was.notifications + t.notifications, was.highlights + t.highlights}
}

// judge says what an event counts by the user's rules, but for those for the whole room, unless the user has rules of their own.
func (p *prefs) judge(e *roomdb.Event, room *notify.Room) (t tally) {
	o := p.JudgeLoud(pushrule.NewView(e.PDU), e.PDU, room)
	if o.Notify {
		t.notifications = 1
		if o.Highlight {
			t.highlights = 1
		}
	}
	return t
}
