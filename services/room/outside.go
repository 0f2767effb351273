package room

import (
	"context"
	"fmt"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/merr"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
	logv1 "hanse/proto/log/v1"
)

// outside stores a membership event of one of our users in a room that we are not in. Nobody can tell whether what such
// an event says of the room is true, its version above all. So it stays in the user's row: the room has no row before a
// join has brought the create event. If unlessInside is set and we are in the room, nothing is done: the event comes by
// federation.
func (s *Service) outside(ctx context.Context, pdu *event.PDU, user id.User, membership string, stripped []byte, unlessInside bool) error {
	r, err := s.lockRoom(ctx, pdu.RoomID)
	if err != nil {
		return err
	}
	var nid int64
	known := r.proven()
	if known {
		nid = r.nid
	}
	inside, head := r.head.joinedLocal > 0, r.p.published.Load()
	r.unlock()
	if known && r.rules.Version != pdu.Rules.Version {
		return merr.InvalidParam("The room has another version")
	}
	if unlessInside && inside {
		return nil
	}
	return s.projectOutside(ctx, r, pdu, user, membership, stripped, nid, head)
}

// proven says whether a join has proven what the room is. Rows of rooms without events at their end were written upon
// mere invites by earlier releases, or for a join that was never finished.
func (r *room) proven() bool { return r.exists && len(r.head.tips) > 0 }

func (s *Service) projectOutside(ctx context.Context, r *room, pdu *event.PDU, user id.User, membership string, stripped []byte, nid, head int64) error {
	part := partition.Of(string(user))
	var seq int64
	err := s.shards.For(part).QueryRow(ctx, sqlProjectOutside, int32(part), string(user), string(r.id), int32(r.p.part), nid,
		pdu.Rules.Version, membership, string(pdu.ID), string(pdu.Sender), head, stripped, pdu.JSON).Scan(&seq)
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
	eventNID   int64 // 0: the event is in the row
	eventID    id.Event
	sender     id.User
	version    string
	stripped   []byte
	event      []byte
}

func (s *Service) outsideRow(ctx context.Context, roomID id.Room, user id.User) (*outsideRow, error) {
	part := partition.Of(string(user))
	row := new(outsideRow)
	err := s.shards.For(part).QueryRow(ctx, sqlMembership, int32(part), string(user), string(roomID)).
		Scan(&row.membership, &row.eventNID, &row.eventID, &row.sender, &row.version, &row.stripped, &row.event)
	if pg.IsNoRows(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read membership: %w", err)
	}
	return row, nil
}

// last returns the event of the row; nil if there is none any more.
func (s *Service) last(ctx context.Context, roomID id.Room, row *outsideRow) (*event.PDU, error) {
	if row.eventNID == 0 {
		rules, ok := roomversion.Get(row.version)
		if !ok || len(row.event) == 0 {
			return nil, nil
		}
		return event.ParseTrusted(row.event, row.eventID, rules)
	}
	r, err := s.lockRoom(ctx, roomID)
	if err != nil {
		return nil, err
	}
	defer r.unlock()
	if !r.exists {
		return nil, nil
	}
	e, err := r.eventByID(ctx, row.eventID)
	if e == nil || err != nil {
		return nil, err
	}
	return e.PDU, nil
}
