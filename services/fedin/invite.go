package fedin

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/tidwall/gjson"

	"hanse/pkg/httpx"
	"hanse/pkg/keyring"
	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/invitefilter"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	"hanse/pkg/roomowner"
	"hanse/pkg/userdb"
	roomv1 "hanse/proto/room/v1"
)

// maxInviteState and maxInviteBytes bound the state that comes with an invite, or with the answer to a knock, in events and
// bytes.
const (
	maxInviteState = 100
	maxInviteBytes = 128 << 10
)

// badSignature says why a signature does not count.
func badSignature(err error) error {
	if errors.Is(err, signing.ErrSignature) || errors.Is(err, keyring.ErrNoKey) {
		return merr.InvalidParam("The event's signatures do not verify").WithCause(err)
	}
	return err
}

// invitation is an invite as it comes in.
type invitation struct {
	Version string            `json:"room_version"`
	Event   json.RawMessage   `json:"event"`
	State   []json.RawMessage `json:"invite_room_state"`
}

// invite answers PUT invite, version 2 (server-server API, "Inviting to a room").
func (f *Fedin) invite(w http.ResponseWriter, q *request) error {
	var in invitation
	if err := q.decode(&in); err != nil {
		return err
	}
	if in.Version == "" || len(in.Event) == 0 {
		return merr.MissingParam("room_version, event")
	}
	signed, err := f.takeInvite(q, in)
	if err != nil {
		return err
	}
	return httpx.OK(w, map[string]json.RawMessage{"event": signed})
}

// inviteV1 answers PUT invite, version 1, which is for rooms of versions 1 and 2 only: which of them, the create event
// says if it is shown.
func (f *Fedin) inviteV1(w http.ResponseWriter, q *request) error {
	in := invitation{Version: "1", Event: q.body}
	var body struct {
		Unsigned struct {
			State []json.RawMessage `json:"invite_room_state"`
		} `json:"unsigned"`
	}
	if err := q.decode(&body); err != nil {
		return err
	}
	in.State = body.Unsigned.State
	for _, shown := range in.State {
		var e struct {
			Type    string `json:"type"`
			Content struct {
				Version string `json:"room_version"`
			} `json:"content"`
		}
		if canonjson.Decode(shown, &e) == nil && e.Type == "m.room.create" && e.Content.Version == "2" {
			in.Version = "2"
		}
	}
	signed, err := f.takeInvite(q, in)
	if err != nil {
		return err
	}
	return httpx.OK(w, []any{http.StatusOK, map[string]json.RawMessage{"event": signed}})
}

// takeInvite checks an invite and has it signed and stored. It returns the signed event.
func (f *Fedin) takeInvite(q *request, in invitation) (json.RawMessage, error) {
	ctx, cancel := httpx.DetachedContext(q.Request, membershipTime)
	defer cancel()
	if err := f.allow(ctx, "invite_from", string(q.origin)); err != nil {
		return nil, err
	}
	rules, ok := roomversion.Get(in.Version)
	if !ok {
		return nil, merr.IncompatibleRoomVersion(in.Version)
	}
	roomID, err := id.ParseRoom(q.param("roomId"))
	if err != nil {
		return nil, merr.InvalidParam(err.Error())
	}
	if err := f.mayInviteTo(ctx, roomID, q.origin); err != nil {
		return nil, err
	}
	pdu, err := event.ParseIn(in.Event, rules, roomID)
	if errors.Is(err, event.ErrTooLarge) {
		return nil, merr.TooLarge("The event is too large").WithCause(err)
	}
	if err != nil {
		return nil, merr.InvalidParam(err.Error())
	}
	if err := f.checkInvite(ctx, pdu, q.origin); err != nil {
		return nil, err
	}
	state, err := f.inviteState(ctx, in.State, pdu)
	if err != nil {
		return nil, err
	}
	var resp *roomv1.ReceiveInviteResponse
	err = roomowner.Call(ctx, f.router, roomID, func(ctx context.Context, c roomv1.RoomClient) (err error) {
		resp, err = c.ReceiveInvite(ctx, &roomv1.ReceiveInviteRequest{RoomId: string(roomID), RoomVersion: in.Version,
			Event: pdu.JSON, InviteRoomState: state, Origin: string(q.origin)})
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp.Event, nil
}

// mayInviteTo checks the access control list, if we are in the room.
func (f *Fedin) mayInviteTo(ctx context.Context, roomID id.Room, origin id.Server) error {
	room, err := f.rooms.Room(ctx, roomID)
	if errors.Is(err, roomdb.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return f.admitted(ctx, room, origin)
}

// checkInvite makes sure that we sign an invite and nothing else.
func (f *Fedin) checkInvite(ctx context.Context, pdu *event.PDU, origin id.Server) error {
	switch {
	case pdu.Type != "m.room.member" || pdu.StateKey == nil || pdu.Membership() != "invite":
		return merr.InvalidParam("The event is not an invite")
	case pdu.Sender.Server() != origin:
		return merr.InvalidParam("The sender is not of the requesting server")
	}
	target, err := id.ParseUser(*pdu.StateKey)
	if err != nil || !f.isLocal(target) {
		return merr.InvalidParam("The invited user is not of this server")
	}
	if err := f.keys.VerifyEvent(ctx, pdu); err != nil {
		return badSignature(err)
	}
	if err := f.takesInvites(ctx, target, pdu.Sender); err != nil {
		return err
	}
	return f.mayWait(ctx, target, pdu.RoomID)
}

// allow takes one action from a budget.
func (f *Fedin) allow(ctx context.Context, kind, key string) error {
	if f.limits == nil {
		return nil
	}
	return f.limits.Allow(ctx, kind, key)
}

// mayWait bounds how often a local user is invited, and the invites that wait for an answer: a first sync brings them
// all.
func (f *Fedin) mayWait(ctx context.Context, user id.User, room id.Room) error {
	if err := f.allow(ctx, "invite_user", string(user)); err != nil {
		return err
	}
	full, err := f.users.InvitesFull(ctx, user, room)
	if err == nil && full {
		return merr.LimitExceeded(userdb.InvitesRetryMS)
	}
	return err
}

// takesInvites says whether a local user exists and wants to be invited by another one (client-server API, "Invite permission").
func (f *Fedin) takesInvites(ctx context.Context, user, inviter id.User) error {
	account, err := f.users.Account(ctx, user)
	if errors.Is(err, userdb.ErrNotFound) && f.queries.UserMade(ctx, user) {
		account, err = f.users.Account(ctx, user)
	}
	if errors.Is(err, userdb.ErrNotFound) || err == nil && account.Deactivated {
		return merr.Forbidden("The invited user does not exist")
	}
	if err != nil {
		return err
	}
	action, err := f.users.InviteAction(ctx, user, inviter)
	if err == nil && action == invitefilter.Block {
		return merr.InviteBlocked()
	}
	return err
}

// inviteState checks the state that comes with an invite (server-server API, PUT /v2/invite): it is shown to the user, and
// proves nothing. From room version 12 on the create event must be among it, and what has the form of an event must be one
// of the room, with good signatures. Some servers send stripped state instead of events; Synapse takes that too.
func (f *Fedin) inviteState(ctx context.Context, raw []json.RawMessage, invite *event.PDU) ([][]byte, error) {
	if len(raw) > maxInviteState {
		return nil, merr.InvalidParam("Too much invite_room_state")
	}
	size := 0
	for _, b := range raw {
		size += len(b)
	}
	if size > maxInviteBytes {
		return nil, merr.TooLarge("invite_room_state is too large")
	}
	state, err := looseState(raw)
	if err != nil || !invite.Rules.RoomIDIsCreateHash {
		return state, err
	}
	var pdus []*event.PDU
	created := false
	for _, b := range state {
		created = created || gjson.GetBytes(b, "type").Str == "m.room.create" && gjson.GetBytes(b, "state_key").Str == ""
		if !gjson.GetBytes(b, "signatures").Exists() {
			continue
		}
		pdu, err := event.ParseIn(b, invite.Rules, invite.RoomID)
		if err != nil {
			return nil, merr.InvalidParam("invite_room_state is not state of the room").WithCause(err)
		}
		pdus = append(pdus, pdu)
	}
	if !created {
		return nil, merr.InvalidParam("invite_room_state has no m.room.create")
	}
	problems, err := f.keys.VerifyEvents(ctx, pdus)
	if err != nil {
		return nil, err
	}
	for _, problem := range problems {
		// Without the key nobody can say; stripped state is no better.
		if problem != nil && !errors.Is(problem, keyring.ErrNoKey) {
			return nil, badSignature(problem)
		}
	}
	return state, nil
}

func looseState(raw []json.RawMessage) ([][]byte, error) {
	var out [][]byte
	for _, b := range raw {
		obj, err := canonjson.CanonicalLoose(b)
		if err != nil || len(obj) > event.MaxBytes || obj[0] != '{' {
			return nil, merr.InvalidParam("invite_room_state is malformed").WithCause(err)
		}
		state := gjson.ParseBytes(obj)
		if state.Get("type").Type == gjson.String && state.Get("sender").Type == gjson.String &&
			state.Get("state_key").Type == gjson.String && state.Get("content").IsObject() {
			out = append(out, obj)
		}
	}
	return out, nil
}
