package room

import (
	"context"
	"fmt"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
	logv1 "hanse/proto/log/v1"
)

// outside stores a membership event of one of our users in a room that we are not in: the event as an outlier, and the
// user's row. If unlessInside is set and we are in the room, nothing is done: the event comes by federation.
func (s *Service) outside(ctx context.Context, pdu *event.PDU, user id.User, membership string, stripped []byte, unlessInside bool) error {
	r, err := s.lockRoom(ctx, pdu.RoomID)
	if err != nil {
		return err
	}
	if unlessInside && r.exists && r.head.joinedLocal > 0 {
		r.unlock()
		return nil
	}
	c, nid, err := s.outlierOf(ctx, r, pdu)
	head := r.p.published.Load()
	r.unlock()
	if err != nil {
		return err
	}
	if c != nil {
		if err := c.wait(ctx); err != nil && !pg.IsUnique(err, "") {
			return err
		}
		head = max(head, c.last)
	}
	return s.projectOutside(ctx, r, pdu, user, membership, stripped, nid, head)
}

// outlierOf queues the event as an outlier, and the room's row if there is none; nil if it is stored already.
func (s *Service) outlierOf(ctx context.Context, r *room, pdu *event.PDU) (*change, int64, error) {
	if r.exists {
		if r.rules.Version != pdu.Rules.Version {
			return nil, 0, merr.InvalidParam("The room has another version")
		}
		old, err := r.eventByID(ctx, pdu.ID)
		if err != nil {
			return nil, 0, err
		}
		if old != nil {
			return nil, old.NID, nil
		}
	}
	r.rules = pdu.Rules
	w := s.newWriter(ctx, r)
	if !r.exists {
		r.nid = w.nid()
		w.c.create = true
	}
	e := &newEvent{pdu: pdu, nid: w.nid(), flags: flagOutlier | flagOutside}
	s.remember(r, e)
	w.c.events = append(w.c.events, e)
	if err := w.put(); err != nil {
		if !r.exists {
			r.drop()
		}
		return nil, 0, err
	}
	r.exists = true
	return w.c, e.nid, nil
}

func (s *Service) projectOutside(ctx context.Context, r *room, pdu *event.PDU, user id.User, membership string, stripped []byte, nid, head int64) error {
	part := partition.Of(string(user))
	var seq int64
	err := s.shards.For(part).QueryRow(ctx, sqlProjectOutside, int32(part), string(user), string(r.id), int32(r.p.part), r.nid,
		pdu.Rules.Version, membership, nid, string(pdu.ID), string(pdu.Sender), head, stripped).Scan(&seq)
	if err != nil {
		return fmt.Errorf("write membership index: %w", err)
	}
	if err := s.bus.PublishUsers(part, &logv1.UserSeq{UserId: string(user), Seq: seq}); err != nil {
		s.log.Debug("publish users", "err", err, "part", part)
	}
	return nil
}

// outsideRow is what we know of a user's membership in a room that we are not in.
type outsideRow struct {
	membership string
	eventID    id.Event
	sender     id.User
	version    string
	stripped   []byte
}

func (s *Service) outsideRow(ctx context.Context, roomID id.Room, user id.User) (*outsideRow, error) {
	part := partition.Of(string(user))
	row := new(outsideRow)
	err := s.shards.For(part).QueryRow(ctx, sqlMembership, int32(part), string(user), string(roomID)).
		Scan(&row.membership, &row.eventID, &row.sender, &row.version, &row.stripped)
	if pg.IsNoRows(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read membership: %w", err)
	}
	return row, nil
}
