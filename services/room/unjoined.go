package room

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/merr"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
	logv1 "hanse/proto/log/v1"
	roomv1 "hanse/proto/room/v1"
)

// unjoinedEvent is a membership event of a local user in a room that no local user is in.
type unjoinedEvent struct {
	*event.PDU
	// stripped is the state that the user is shown; via is the server through which the user knocked.
	stripped []byte
	via      id.Server
	// unlessJoined says that nothing is done if a local user is in the room: the event comes by federation then.
	unlessJoined bool
}

// storeUnjoined stores the event in the user's row. Nobody can tell whether the event tells the truth about the room, above all
// about its version: the room has no row before a join has brought the create event.
func (s *Service) storeUnjoined(ctx context.Context, e unjoinedEvent) error {
	r, err := s.lockRoom(ctx, e.RoomID)
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
	if known && r.rules.Version != e.Rules.Version {
		return merr.InvalidParam("The room has another version")
	}
	if e.unlessJoined && inside {
		return nil
	}
	user := id.User(*e.StateKey)
	row, err := s.unjoinedRow(ctx, e.RoomID, user)
	if err != nil {
		return err
	}
	if kept, err := s.keepBeside(ctx, row, e); err != nil || kept {
		return err
	}
	invited := row != nil && row.membership == "invite"
	if !invited { // what is kept is left from another time
		if err := s.forgetBeside(ctx, e.RoomID, user, ""); err != nil {
			return err
		}
	}
	if err := s.projectUnjoined(ctx, r, e, nid, head); err != nil || !invited || e.Membership() == "invite" {
		return err
	}
	return s.showNext(ctx, r, user, nid, head)
}

// proven says whether a join has proven what the room is. Rows of rooms without events at their end were written upon
// mere invites by earlier releases, or for a join that was never finished.
func (r *room) proven() bool { return r.exists && len(r.head.extremities) > 0 }

func (s *Service) projectUnjoined(ctx context.Context, r *room, e unjoinedEvent, nid, head int64) error {
	user := *e.StateKey
	part := partition.Of(user)
	var seq int64
	var push bool
	err := s.shards.For(part).QueryRow(ctx, sqlProjectUnjoined, int32(part), user, string(r.id), int32(r.p.part), nid,
		e.Rules.Version, e.Membership(), string(e.ID), string(e.Sender), head, e.stripped, e.JSON, string(e.via)).Scan(&seq, &push)
	if err != nil {
		return fmt.Errorf("write membership index: %w", err)
	}
	if err := s.bus.PublishUsers(part, &logv1.UserSeq{UserId: user, Seq: seq}); err != nil {
		s.log.Debug("publish users", "err", err, "part", part)
	}
	if !push {
		return nil
	}
	if err := s.bus.WakePush(part, []id.User{id.User(user)}); err != nil { // it looks by itself, too
		s.log.Debug("wake push", "err", err, "part", part)
	}
	return nil
}

// unjoinedRow is what we know of a user's membership in a room that no local user is in.
type unjoinedRow struct {
	membership string
	eventNID   int64 // 0: the event is in the row
	eventID    id.Event
	sender     id.User
	version    string
	stripped   []byte
	event      []byte
	via        id.Server
}

// shownBy are the servers of those who sent the state that the user was shown, and the one that the user knocked through.
// What was shown is what somebody told us: these servers may be in the room, or not.
func (o *unjoinedRow) shownBy() []id.Server {
	servers := []id.Server{o.via}
	for _, sender := range gjson.GetBytes(o.stripped, "#.sender").Array() {
		if user, err := id.ParseUser(sender.Str); err == nil && !slices.Contains(servers, user.Server()) {
			servers = append(servers, user.Server())
		}
	}
	return servers
}

func (s *Service) unjoinedRow(ctx context.Context, roomID id.Room, user id.User) (*unjoinedRow, error) {
	part := partition.Of(string(user))
	row := new(unjoinedRow)
	err := s.shards.For(part).QueryRow(ctx, sqlMembership, int32(part), string(user), string(roomID)).
		Scan(&row.membership, &row.eventNID, &row.eventID, &row.sender, &row.version, &row.stripped, &row.event, &row.via)
	if pg.IsNoRows(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read membership: %w", err)
	}
	return row, nil
}

// last returns the event of the row; nil if there is none any more.
func (s *Service) last(ctx context.Context, roomID id.Room, row *unjoinedRow) (*event.PDU, error) {
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

// errUnjoined is what others are told of events of a room that no local user is in.
var errUnjoined = errors.New("this server is not in the room")

// receiveUnjoined takes in what others have done to memberships of local users in a room that no local user is in.
func (s *Service) receiveUnjoined(ctx context.Context, roomID id.Room, raw [][]byte) (*roomv1.ReceiveResponse, error) {
	resp := &roomv1.ReceiveResponse{Results: make([]*roomv1.PduResult, len(raw))}
	for i, b := range raw {
		result := new(roomv1.PduResult)
		pdu, known, err := s.endingOf(ctx, roomID, b)
		if err == nil && !known {
			err = s.storeUnjoined(ctx, unjoinedEvent{PDU: pdu, unlessJoined: true})
		}
		if pdu != nil {
			result.EventId = string(pdu.ID)
		}
		if m, ok := merr.As(err); ok && m.Status < 500 || errors.Is(err, errUnjoined) {
			result.Error = err.Error()
		} else if err != nil {
			return nil, again(err)
		}
		resp.Results[i] = result
	}
	return resp, nil
}

// endingOf parses an event by which somebody has withdrawn an invite of a local user, or denied a knock; known says
// that it is the user's membership already. Any other event is errUnjoined.
func (s *Service) endingOf(ctx context.Context, roomID id.Room, raw []byte) (pdu *event.PDU, known bool, err error) {
	user, err := id.ParseUser(gjson.GetBytes(raw, "state_key").Str)
	if err != nil || !s.localUser(user) {
		return nil, false, errUnjoined
	}
	row, err := s.unjoinedRow(ctx, roomID, user)
	if err != nil {
		return nil, false, err
	}
	if row == nil {
		return nil, false, errUnjoined
	}
	rules, ok := roomversion.Get(row.version)
	if !ok {
		return nil, false, errUnjoined
	}
	pdu, err = parseEvent(raw, rules, roomID)
	if err == nil {
		if known = pdu.ID == row.eventID; known || row.endsWith(pdu) {
			return pdu, known, nil
		}
	}
	if row.membership == "invite" {
		if ended, err := s.endBeside(ctx, roomID, user, raw); err != nil || ended != nil {
			return ended, true, err
		}
	}
	if err != nil {
		return nil, false, err
	}
	return pdu, false, errUnjoined
}

// endsInvite says whether an event is one by which others end an invite.
func endsInvite(pdu *event.PDU) bool {
	is := pdu.Membership()
	return pdu.Type == typeMember && pdu.StateKey != nil && (is == "leave" || is == "ban") && string(pdu.Sender) != *pdu.StateKey
}

// endsWith says whether an event ends an invite or a knock. We do not know the room's state, so nobody can say whether the
// sender had the power to do that. But who sends it knows the invite or knock, which the event must name, and is of a server
// that we have heard of the room from.
func (o *unjoinedRow) endsWith(pdu *event.PDU) bool {
	from := pdu.Sender.Server()
	return (o.membership == "invite" || o.membership == "knock") && endsInvite(pdu) &&
		slices.Contains(pdu.AuthEvents, o.eventID) && (from == o.sender.Server() || slices.Contains(o.shownBy(), from))
}
