package fedin

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	"hanse/pkg/roomowner"
	roomv1 "hanse/proto/room/v1"
)

// membershipTime bounds a write of a membership event and the reading of the state that answers it.
const membershipTime = 2 * time.Minute

// make answers GET make_join, make_leave and make_knock (server-server API, "Joining Rooms", "Knocking upon a room",
// "Leaving Rooms").
func (f *Fedin) makeMembership(membership string) handler {
	return func(w http.ResponseWriter, q *request) error {
		user, err := id.ParseUser(q.param("userId"))
		if err != nil {
			return merr.InvalidParam(err.Error())
		}
		if user.Server() != q.origin {
			return merr.Forbidden("The user is not of the requesting server")
		}
		room, err := f.openRoom(q)
		if err != nil {
			return err
		}
		var resp *roomv1.MakeMembershipResponse
		err = roomowner.Call(q.Context(), f.router, room.ID, func(ctx context.Context, c roomv1.RoomClient) (err error) {
			resp, err = c.MakeMembership(ctx, &roomv1.MakeMembershipRequest{RoomId: string(room.ID), UserId: string(user),
				Membership: membership, SupportedVersions: q.URL.Query()["ver"], Origin: string(q.origin)})
			return err
		})
		if err != nil {
			return err
		}
		b := httpx.Buffer()
		b.WriteString(`{"room_version":`)
		b.Write(quoted(resp.RoomVersion))
		b.WriteString(`,"event":`)
		b.Write(resp.Event)
		b.WriteByte('}')
		return httpx.Send(w, b)
	}
}

// sendMembership takes the event of send_join, send_leave or send_knock to the room's owner.
func (f *Fedin) sendMembership(ctx context.Context, q *request, membership string) (*roomdb.Room, *roomv1.SendMembershipResponse, error) {
	room, err := f.openRoom(q)
	if err != nil {
		return nil, nil, err
	}
	pdu, err := parsePDU(q.body, room)
	if err != nil {
		return nil, nil, err
	}
	if pdu.Sender.Server() != q.origin {
		return nil, nil, merr.Forbidden("The event's sender is not of the requesting server")
	}
	if err := f.signedBy(ctx, pdu, q.origin); err != nil {
		return nil, nil, err
	}
	var resp *roomv1.SendMembershipResponse
	err = f.whenFree(ctx, func() error {
		return roomowner.Call(ctx, f.router, room.ID, func(ctx context.Context, c roomv1.RoomClient) (err error) {
			resp, err = c.SendMembership(ctx, &roomv1.SendMembershipRequest{RoomId: string(room.ID), Membership: membership,
				Event: pdu.JSON, Origin: string(q.origin)})
			return err
		})
	})
	return room, resp, err
}

// parsePDU parses an event that is the body of a request.
func parsePDU(raw []byte, room *roomdb.Room) (*event.PDU, error) {
	pdu, err := event.ParseIn(raw, room.Rules, room.ID)
	switch {
	case errors.Is(err, event.ErrTooLarge):
		return nil, merr.TooLarge("The event is too large").WithCause(err)
	case errors.Is(err, event.ErrOtherRoom):
		return nil, merr.InvalidParam("The event is of another room")
	case err != nil:
		return nil, merr.BadJSON(err.Error())
	}
	return pdu, nil
}

// signedBy verifies one server's signature of an event: where we are to add our own, that is not there yet.
func (f *Fedin) signedBy(ctx context.Context, pdu *event.PDU, server id.Server) error {
	if err := f.keys.VerifyEventBy(ctx, pdu, server); err != nil {
		return badSignature(err)
	}
	return nil
}

// sendJoin answers PUT send_join, version 2.
func (f *Fedin) sendJoin(w http.ResponseWriter, q *request) error {
	b, err := f.join(q)
	if err != nil {
		return err
	}
	return httpx.Send(w, b)
}

// sendJoinV1 answers PUT send_join, version 1: the same in an array with a status.
func (f *Fedin) sendJoinV1(w http.ResponseWriter, q *request) error {
	b, err := f.join(q)
	if err != nil {
		return err
	}
	return sendV1(w, b)
}

func sendV1(w http.ResponseWriter, b *bytes.Buffer) error {
	old := httpx.Buffer()
	old.WriteString("[200,")
	old.Write(b.Bytes())
	old.WriteByte(']')
	httpx.Recycle(b)
	return httpx.Send(w, old)
}

func (f *Fedin) join(q *request) (*bytes.Buffer, error) {
	ctx, cancel := httpx.DetachedContext(q.Request, membershipTime)
	defer cancel()
	leave, err := f.reads(ctx, q.origin)
	if err != nil {
		return nil, err
	}
	defer leave()
	room, resp, err := f.sendMembership(ctx, q, "join")
	if err != nil {
		return nil, err
	}
	return f.joinAnswer(ctx, room, resp, q)
}

// sendLeave answers PUT send_leave, version 2, sendLeaveV1 version 1.
func (f *Fedin) sendLeave(w http.ResponseWriter, q *request) error {
	if err := f.leave(q); err != nil {
		return err
	}
	return httpx.Empty(w)
}

func (f *Fedin) sendLeaveV1(w http.ResponseWriter, q *request) error {
	if err := f.leave(q); err != nil {
		return err
	}
	return httpx.Raw(w, http.StatusOK, []byte("[200,{}]"))
}

func (f *Fedin) leave(q *request) error {
	ctx, cancel := httpx.DetachedContext(q.Request, membershipTime)
	defer cancel()
	_, _, err := f.sendMembership(ctx, q, "leave")
	return err
}

// knockStateTypes is the state that somebody who knocks is shown (client-server API, "Stripped state").
var knockStateTypes = []string{"m.room.create", "m.room.join_rules", "m.room.canonical_alias", "m.room.avatar", "m.room.encryption",
	"m.room.name", "m.room.topic"}

// sendKnock answers PUT send_knock.
func (f *Fedin) sendKnock(w http.ResponseWriter, q *request) error {
	ctx, cancel := httpx.DetachedContext(q.Request, membershipTime)
	defer cancel()
	room, resp, err := f.sendMembership(ctx, q, "knock")
	if err != nil {
		return err
	}
	m, err := f.rooms.State(ctx, room.Part, resp.Sid)
	if err != nil {
		return err
	}
	var nids []int64
	for _, typ := range knockStateTypes {
		if nid, ok := m.Get(stateKey(typ, "")); ok {
			nids = append(nids, nid)
		}
	}
	shown, err := f.rooms.InOrder(ctx, room.Part, nids)
	if err != nil {
		return err
	}
	size := 0
	shown = slices.DeleteFunc(shown, func(e *roomdb.Event) bool { // what is too large is left out
		if size+len(e.JSON) > maxInviteBytes {
			return true
		}
		size += len(e.JSON)
		return false
	})
	b := httpx.Buffer()
	writeEvents(b, `{"knock_room_state":`, shown)
	b.WriteByte('}')
	return httpx.Send(w, b)
}

// exchangeInvite answers PUT exchange_third_party_invite: no local user invites by third-party identifiers.
func (f *Fedin) exchangeInvite(http.ResponseWriter, *request) error {
	return merr.Forbidden("Third-party invites are not supported")
}
