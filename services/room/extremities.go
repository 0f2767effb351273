package room

import (
	"context"
	"errors"
	"time"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
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
