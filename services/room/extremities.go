package room

import (
	"context"
	"errors"
	"time"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/state"
)

// The state of a room with many ends costs a resolution of all their states with every event, and our own events can
// name 20 of them only.
const (
	// mergeAbove is the number of forward extremities above which a room gets events that merge them, soon and in the
	// background (Synapse's dummy events).
	mergeAbove = 10
	// crowdedTips is the number above which whoever sends more waits until they are merged.
	crowdedTips = 50
	// maxTips is the number at which events that only add to it are not taken in, where nobody of ours may merge. A
	// server is free not to have got an event: it is asked for again when one that is taken in names it.
	maxTips = 200
)

// errCrowded is the answer to events that would add one more end to a room that has too many.
var errCrowded = errors.New("the room has too many forward extremities")

const (
	// mergeTimeout bounds the merging of one room.
	mergeTimeout = time.Minute
	// maxMerges bounds how often it is tried: each merge leaves 19 ends less.
	maxMerges = 1000
)

// mergeSoon merges the ends of a room in the background, one room at a time for each room.
func (s *Service) mergeSoon(roomID id.Room) {
	if _, busy := s.merging.LoadOrStore(roomID, true); busy {
		return
	}
	s.work.Go(func() {
		defer s.merging.Delete(roomID)
		s.mergeAll(context.Background(), roomID)
	})
}

// mergeAll merges the ends of a room until they are few, or nobody of ours may.
func (s *Service) mergeAll(ctx context.Context, roomID id.Room) {
	ctx, cancel := context.WithTimeout(ctx, mergeTimeout)
	defer cancel()
	for range maxMerges {
		more, err := s.mergeTips(ctx, roomID)
		if err != nil {
			s.log.Debug("merge of forward extremities", "room", roomID, "err", err)
		}
		if !more {
			return
		}
	}
}

// mergeTips sends one dummy event; more is true if there are still too many ends.
func (s *Service) mergeTips(ctx context.Context, roomID id.Room) (more bool, err error) {
	r, err := s.joinedRoom(ctx, roomID)
	if err != nil {
		return false, err
	}
	w := s.newWriter(ctx, r)
	if len(w.h.tips) <= mergeAbove {
		r.unlock()
		return false, nil
	}
	err = w.dummy(ctx)
	if err == nil {
		err = w.put()
	}
	more = len(r.head.tips) > mergeAbove
	r.unlock()
	if err != nil {
		return false, err
	}
	if err := w.c.wait(ctx); err != nil {
		return errors.Is(err, errStale), err // the room is read anew, and its ends with it
	}
	return more, nil
}

// dummy sends a dummy event by any local member who may.
func (w *writer) dummy(ctx context.Context) error {
	r := w.r
	if r.mute != nil && r.mute.Equal(w.h.state) {
		return merr.Forbidden("Nobody of ours may send to the room")
	}
	found, err := w.s.authEvents(ctx, r.p, w.h.state, []event.Tuple{{Type: typePowerLevels}})
	if err != nil {
		return err
	}
	required, err := auth.PowerLevelsOf(found.lookup).Required(typeDummy, false)
	if err != nil {
		return err
	}
	may := func(user id.User) bool { return auth.PowerOf(user, found.lookup) >= required }
	now := ""
	if r.merger != "" && may(r.merger) {
		if now, _, err = w.s.membershipIn(ctx, r.p, w.h.state, r.merger); err != nil {
			return err
		}
	}
	if now != "join" {
		if r.merger, err = w.s.localMember(ctx, r.p, w.h.state, may); err != nil {
			return err
		}
	}
	if r.merger == "" {
		mute := w.h.state
		r.mute = &mute
		return merr.Forbidden("Nobody of ours may send to the room")
	}
	_, err = w.send(ctx, intent{typ: typeDummy, content: []byte(`{}`), sender: r.merger})
	return err
}

// extendFork makes an accepted event an end of the room, in place of those of its prev events that were, and resolves
// the current state anew, now or with what comes next (receive_batch.go).
func (w *writer) extendFork(ctx context.Context, e *newEvent, after *state.Snapshot, local bool) error {
	ours := w.isOurMember(e.pdu)
	if ours {
		if err := w.settle(ctx, local); err != nil {
			return err
		}
	}
	tips, snaps, err := w.tipsAfter(ctx, e, after, local)
	if err != nil {
		return err
	}
	w.h.tips = tips
	w.h.depth = max(w.h.depth, e.pdu.Depth)
	w.ready = snaps
	w.hold(e)
	if w.patient && !ours && !decides(e.pdu) && w.unresolved(snaps) {
		return nil
	}
	return w.settle(ctx, local)
}

// tipsAfter returns the ends of the room once an event is one of them, and the states after them.
func (w *writer) tipsAfter(ctx context.Context, e *newEvent, after *state.Snapshot, local bool) ([]tip, []*state.Snapshot, error) {
	covered, err := w.covered(ctx, e.prev)
	if err != nil {
		return nil, nil, err
	}
	tips := make([]tip, 0, len(w.h.tips)+1)
	var snaps []*state.Snapshot
	for _, t := range w.h.tips {
		if !covered[t.nid] {
			tips = append(tips, t)
		}
	}
	if !local && len(tips) == len(w.h.tips) && len(tips) >= w.maxTips {
		return nil, nil, errCrowded
	}
	for _, t := range tips {
		snap, err := w.afterTip(ctx, t)
		if err != nil {
			return nil, nil, err
		}
		snaps = append(snaps, snap)
	}
	return append(tips, tip{e.nid, e.pdu}), append(snaps, after), nil
}

// maxUnseen bounds how many refused events are looked through.
const maxUnseen = 1000

// covered returns the events that are no ends of the room any more if an event names these as its prev events: these,
// and what lies before those of them that were refused, as a refused event never replaced them.
func (w *writer) covered(ctx context.Context, prev []int64) (map[int64]bool, error) {
	covered := make(map[int64]bool, len(prev))
	next := prev
	for len(next) > 0 && len(covered) < maxUnseen {
		var deeper []int64
		for _, nid := range next {
			if covered[nid] {
				continue
			}
			covered[nid] = true
			ev, err := w.s.event(ctx, w.r.p, nid)
			if err != nil {
				return nil, err
			}
			if w.present(ev).Flags&(flagRejected|flagSoftFailed) != 0 {
				deeper = append(deeper, ev.Prev...)
			}
		}
		next = deeper
	}
	return covered, nil
}

func (w *writer) afterTip(ctx context.Context, t tip) (*state.Snapshot, error) {
	ev, err := w.s.event(ctx, w.r.p, t.nid)
	if err != nil {
		return nil, err
	}
	return w.after(ctx, w.present(ev))
}
