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

// The state of a room with many forward extremities costs a resolution of all their states with every event, and our own events can
// name 20 of them only.
const (
	// mergeAbove is the number of forward extremities above which a room gets events that merge them, soon and in the
	// background (Synapse's dummy events).
	mergeAbove = 10
	// crowdedExtremities is the number above which whoever sends more waits until they are merged.
	crowdedExtremities = 50
	// maxExtremities is the number at which events that only add to it are not taken in, where no local user may merge. A
	// server is free not to have got an event: it is asked for again when one that is taken in names it.
	maxExtremities = 200
)

// errCrowded is the answer to events that would add one more forward extremity to a room that has too many.
var errCrowded = errors.New("the room has too many forward extremities")

const (
	// mergeTimeout bounds the merging of one room.
	mergeTimeout = time.Minute
	// mergePause is how long the merging of a room rests that took longer.
	mergePause = time.Second
	// maxMerges bounds how often it is tried: each merge leaves 19 fewer.
	maxMerges = 1000
)

// mergeSoon merges the forward extremities of a room in the background, one room at a time for each room.
func (s *Service) mergeSoon(roomID id.Room) {
	if _, busy := s.merging.LoadOrStore(roomID, true); busy {
		return
	}
	s.work.Go(func() {
		err := s.mergeAll(s.background, roomID)
		s.merging.Delete(roomID)
		more := false
		if err == nil { // others may have come in the very moment, and relied on this
			more, err = s.mergeExtremities(s.background, roomID)
		}
		if passes(err) {
			more = pause(s.background, mergePause)
		}
		if more {
			s.mergeSoon(roomID)
		}
	})
}

// passes says whether what keeps forward extremities from being merged passes, and is not the business of another owner.
func passes(err error) bool {
	_, elsewhere := asNotOwner(err)
	return !elsewhere && (errors.Is(err, context.DeadlineExceeded) || retry(err))
}

// mergeAll merges the forward extremities of a room until they are few. An error says why they are not.
func (s *Service) mergeAll(ctx context.Context, roomID id.Room) error {
	ctx, cancel := context.WithTimeout(ctx, mergeTimeout)
	defer cancel()
	for range maxMerges {
		more, err := s.mergeExtremities(ctx, roomID)
		if err != nil {
			s.log.Debug("merge of forward extremities", "room", roomID, "err", err)
		}
		if !more {
			return err
		}
	}
	return context.DeadlineExceeded
}

// mergeExtremities sends one dummy event; more is true if there are still too many forward extremities.
func (s *Service) mergeExtremities(ctx context.Context, roomID id.Room) (more bool, err error) {
	r, err := s.joinedRoom(ctx, roomID)
	if err != nil {
		return false, err
	}
	w := s.newWriter(ctx, r)
	if len(w.h.extremities) <= mergeAbove {
		r.unlock()
		return false, nil
	}
	err = w.dummy(ctx)
	if err == nil {
		err = w.put()
	}
	more = len(r.head.extremities) > mergeAbove
	r.unlock()
	if err != nil {
		return false, err
	}
	if err := w.c.wait(ctx); err != nil {
		return errors.Is(err, errStale), err // the room is read anew, with its forward extremities
	}
	return more, nil
}

// dummy sends a dummy event by any local member who may.
func (w *writer) dummy(ctx context.Context) error {
	r := w.r
	if r.mute != nil && r.mute.Equal(w.h.state) {
		return merr.Forbidden("No user of this server may send to the room")
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
		return merr.Forbidden("No user of this server may send to the room")
	}
	_, err = w.send(ctx, intent{typ: typeDummy, content: []byte(`{}`), sender: r.merger})
	return err
}

// extendFork makes an accepted event a forward extremity of the room, in place of those of its prev events that were, and resolves
// the current state anew, now or with what comes next (receive_batch.go).
func (w *writer) extendFork(ctx context.Context, e *newEvent, after *state.Snapshot, local bool) error {
	ours := w.isOurMember(e.pdu)
	if ours {
		if err := w.deliverHeld(ctx, local); err != nil {
			return err
		}
	}
	extremities, snaps, err := w.extremitiesAfter(ctx, e, after, local)
	if err != nil {
		return err
	}
	w.h.extremities = extremities
	w.h.depth = max(w.h.depth, e.pdu.Depth)
	w.ready = snaps
	w.hold(e)
	if w.patient && !ours && !decides(e.pdu) && w.unresolved(snaps) {
		return nil
	}
	return w.deliverHeld(ctx, local)
}

// extremitiesAfter returns the forward extremities of the room once an event is one of them, and the states after them.
func (w *writer) extremitiesAfter(ctx context.Context, e *newEvent, after *state.Snapshot, local bool) ([]extremity, []*state.Snapshot, error) {
	covered, err := w.covered(ctx, e.prev)
	if err != nil {
		return nil, nil, err
	}
	extremities := make([]extremity, 0, len(w.h.extremities)+1)
	var snaps []*state.Snapshot
	for _, t := range w.h.extremities {
		if !covered[t.nid] {
			extremities = append(extremities, t)
		}
	}
	if !local && len(extremities) == len(w.h.extremities) && len(extremities) >= w.maxExtremities {
		return nil, nil, errCrowded
	}
	for _, t := range extremities {
		snap, err := w.afterExtremity(ctx, t)
		if err != nil {
			return nil, nil, err
		}
		snaps = append(snaps, snap)
	}
	return append(extremities, extremity{e.nid, e.pdu}), append(snaps, after), nil
}

// maxUnseen bounds how many refused events are looked through.
const maxUnseen = 1000

// covered returns the events that are no forward extremities of the room any more if an event names these as its prev events: these,
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

func (w *writer) afterExtremity(ctx context.Context, t extremity) (*state.Snapshot, error) {
	ev, err := w.s.event(ctx, w.r.p, t.nid)
	if err != nil {
		return nil, err
	}
	return w.after(ctx, w.present(ev))
}
