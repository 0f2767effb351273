package sync

import (
	"context"

	"hanse/pkg/matrix/id"
	"hanse/pkg/notify"
	"hanse/pkg/roomdb"
	"hanse/pkg/userdb"
)

// tally counts what is unread of a room one by one, behind the read position and those of the threads.
func (s *Service) tally(ctx context.Context, pr *prefs, r *userdb.Membership, st *readState, read *notify.Read) error {
	if pr.Own() {
		st.rules, _ = pr.Raw()
	}
	counts, err := notify.Tally(ctx, s.rooms, &pr.Rules, pr.muted, roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID}, read, st.upTo)
	st.tallies = make(map[string]tally, len(counts))
	for root, c := range counts {
		st.tallies[root] = tally(c)
	}
	return err
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
			t.Notifications = 1
		}
		st.add(e.log.Thread, t)
		return nil
	}
	room, err := notify.LoadRoom(ctx, s.rooms, roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID}, p.who.User)
	if err != nil {
		return err
	}
	st.add(e.log.Thread, tally(pr.Count(e.event.PDU, room)))
	return nil
}

func (s *readState) add(root string, t tally) {
	if t == (tally{}) {
		return
	}
	was := s.tallies[root]
	s.tallies[root] = tally{was.Notifications + t.Notifications, was.Highlights + t.Highlights}
}
