package room

import (
	"context"
	"time"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
)

// mergeAbove is the number of forward extremities above which a room gets an event that merges them (Synapse's dummy
// event): the state of a room with many ends costs a resolution with every event.
const mergeAbove = 10

// mergeTimeout bounds one merge.
const mergeTimeout = time.Minute

// mergeSoon merges the ends of a room in the background, one room at a time for each room.
func (s *Service) mergeSoon(roomID id.Room) {
	if _, busy := s.merging.LoadOrStore(roomID, true); busy {
		return
	}
	s.work.Go(func() {
		defer s.merging.Delete(roomID)
		ctx, cancel := context.WithTimeout(context.Background(), mergeTimeout)
		defer cancel()
		for range maxRebuilds {
			more, err := s.mergeTips(ctx, roomID)
			if err != nil {
				s.log.Debug("merge of forward extremities", "room", roomID, "err", err)
			}
			if !more {
				return
			}
		}
	})
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
	return more, w.c.wait(ctx)
}

// dummy sends a dummy event by any local member who may.
func (w *writer) dummy(ctx context.Context) error {
	found, err := w.s.authEvents(ctx, w.r.p, w.h.state, []event.Tuple{{Type: typePowerLevels}})
	if err != nil {
		return err
	}
	required, err := auth.PowerLevelsOf(found.lookup).Required(typeDummy, false)
	if err != nil {
		return err
	}
	for key := range w.h.state.Type(typeMember) {
		user := id.User(key.StateKey)
		if !w.s.localUser(user) || auth.PowerOf(user, found.lookup) < required {
			continue
		}
		now, _, err := w.s.membershipIn(ctx, w.r.p, w.h.state, user)
		if err != nil {
			return err
		}
		if now == "join" {
			_, err = w.send(ctx, intent{typ: typeDummy, content: []byte(`{}`), sender: user})
			return err
		}
	}
	return merr.Forbidden("Nobody of ours may send to the room")
}
