package room

import (
	"context"
	"slices"

	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/merr"
	roomv1 "hanse/proto/room/v1"
)

// MakeMembership implements roomv1.RoomServer: a template for a membership event of a user of another server
// (server-server API, "Joining Rooms", "Leaving Rooms", "Knocking upon a room").
func (s *Service) MakeMembership(ctx context.Context, req *roomv1.MakeMembershipRequest) (*roomv1.MakeMembershipResponse, error) {
	roomID, err := parseRoom(req.RoomId)
	if err != nil {
		return nil, err
	}
	user, err := id.ParseUser(req.UserId)
	if err != nil {
		return nil, merr.InvalidParam(err.Error())
	}
	if user.Server() != id.Server(req.Origin) {
		return nil, merr.Forbidden("The user is not of the requesting server")
	}
	r, err := s.joinedRoom(ctx, roomID)
	if err != nil {
		return nil, err
	}
	defer r.unlock()
	if r.head.joinedLocal == 0 {
		return nil, merr.NotFound("This server is not in the room")
	}
	if r.head.partial() && req.Membership != "leave" {
		return nil, merr.UnableDueToPartialState()
	}
	// Without a list of versions the server is one that knows version 1 only (GET /make_join, "ver").
	if req.Membership != "leave" && !slices.Contains(req.SupportedVersions, r.rules.Version) && (len(req.SupportedVersions) > 0 || r.rules.Version != "1") {
		return nil, merr.IncompatibleRoomVersion(r.rules.Version)
	}
	if req.Membership == "knock" && !r.rules.Knocking {
		return nil, merr.Forbidden("The room version does not know knocking")
	}
	in, err := memberIntent(user, user, req.Membership, nil, cause{})
	if err != nil {
		return nil, err
	}
	w := s.newWriter(ctx, r)
	if req.Membership == "join" {
		if in, err = w.joinable(ctx, in); err != nil {
			return nil, cannotLetIn(err)
		}
	}
	template, err := w.template(ctx, in)
	if err != nil {
		return nil, err
	}
	return &roomv1.MakeMembershipResponse{RoomVersion: r.rules.Version, Event: template}, nil
}

// cannotLetIn says why a restricted join is not possible through us.
func cannotLetIn(err error) error {
	if m, ok := merr.As(err); ok {
		return m
	}
	return err
}

// template builds the event, checks that it would be allowed, and takes away what its sender's server puts in.
func (w *writer) template(ctx context.Context, in intent) ([]byte, error) {
	on, err := w.base(ctx)
	if err != nil {
		return nil, err
	}
	d, found, err := w.fillDraft(ctx, in, on)
	if err != nil {
		return nil, err
	}
	home, err := w.r.homeServer(ctx)
	if err != nil {
		return nil, err
	}
	key, err := w.s.servers.SigningKey(ctx, home)
	if err != nil {
		return nil, err
	}
	pdu, err := event.Build(*d, w.r.rules, home, key)
	if err != nil {
		return nil, badEvent(err)
	}
	if err := auth.Check(pdu, found.lookup, auth.Options{Unsigned: true}); err != nil {
		return nil, forbidden(err)
	}
	o, err := canonjson.ParseObject(pdu.JSON)
	if err != nil {
		return nil, err
	}
	origin := canonjson.AppendString(nil, string(home))
	return o.Without("hashes", "signatures", "event_id").With("origin", origin).Bytes(), nil
}

// SendMembership implements roomv1.RoomServer. The event's signatures were verified by the caller.
func (s *Service) SendMembership(ctx context.Context, req *roomv1.SendMembershipRequest) (*roomv1.SendMembershipResponse, error) {
	roomID, err := parseRoom(req.RoomId)
	if err != nil {
		return nil, err
	}
	in, err := s.intake(ctx, roomID, id.Server(req.Origin))
	if err != nil {
		return nil, err
	}
	if in.partial && req.Membership != "leave" {
		return nil, merr.UnableDueToPartialState()
	}
	pdu, err := parseEvent(req.Event, in.rules, roomID)
	if err != nil {
		return nil, err
	}
	if err := checkMembershipEvent(pdu, req.Membership, id.Server(req.Origin)); err != nil {
		return nil, err
	}
	if pdu, err = s.cosignJoin(ctx, pdu, roomID); err != nil {
		return nil, err
	}
	leave, err := in.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	in.relay = true
	v, err := in.take(ctx, pdu)
	if err != nil {
		return nil, again(unfit(ctx, err))
	}
	if v.flags != 0 {
		return nil, forbidden(v.refusal)
	}
	if v.change != nil {
		if err := v.change.wait(ctx); err != nil {
			return nil, again(err)
		}
	}
	return s.membershipAnswer(ctx, roomID, pdu)
}

// parseEvent parses an event of a room in another server's request.
func parseEvent(raw []byte, rules *roomversion.Rules, roomID id.Room) (*event.PDU, error) {
	pdu, err := event.ParseIn(raw, rules, roomID)
	if err != nil {
		return nil, badEvent(err)
	}
	return pdu, nil
}

// unfit tells who sent an event that it cannot be judged: what it names is not to be had. That is no failure of ours.
func unfit(ctx context.Context, err error) error {
	if _, matrix := merr.As(err); matrix || retry(err) || ctx.Err() != nil {
		return err
	}
	return merr.InvalidParam("The event cannot be judged, as what it names is not to be had").WithCause(err)
}

func checkMembershipEvent(pdu *event.PDU, membership string, origin id.Server) error {
	switch {
	case pdu.Type != typeMember || pdu.StateKey == nil || pdu.Membership() != membership:
		return merr.InvalidParam("The event is not a " + membership + " event")
	case *pdu.StateKey != string(pdu.Sender):
		return merr.InvalidParam("The state key is not the sender")
	case pdu.Sender.Server() != origin:
		return merr.InvalidParam("The sender is not of the requesting server")
	}
	return nil
}

// cosignJoin signs a restricted join that a local user vouches for, after looking at the conditions again.
func (s *Service) cosignJoin(ctx context.Context, pdu *event.PDU, roomID id.Room) (*event.PDU, error) {
	via := id.User(gjson.GetBytes(pdu.Content, authorisedVia).Str)
	if pdu.Membership() != "join" || via == "" || !s.localUser(via) || !pdu.Rules.RestrictedJoin {
		return pdu, nil
	}
	r, err := s.joinedRoom(ctx, roomID)
	if err != nil {
		return nil, err
	}
	defer r.unlock()
	w := s.newWriter(ctx, r)
	needed, err := w.needsAuthoriser(ctx, pdu.Sender)
	if err != nil {
		return nil, err
	}
	if needed {
		allowed, _, err := w.allowedBy(ctx, pdu.Sender)
		if err != nil {
			return nil, err
		}
		if !allowed {
			return nil, merr.Forbidden("You do not belong to any of the required rooms/spaces to join this room.")
		}
	}
	return s.cosign(ctx, pdu, pdu.Sender.Server())
}

// membershipAnswer reads back what was stored: also if the event had been here before.
func (s *Service) membershipAnswer(ctx context.Context, roomID id.Room, pdu *event.PDU) (*roomv1.SendMembershipResponse, error) {
	r, err := s.joinedRoom(ctx, roomID)
	if err != nil {
		return nil, err
	}
	defer r.unlock()
	e, err := r.eventByID(ctx, pdu.ID)
	if err != nil {
		return nil, err
	}
	if e == nil || e.Flags != 0 {
		return nil, merr.Forbidden("The event was not accepted")
	}
	return &roomv1.SendMembershipResponse{Event: e.JSON, EventId: string(e.ID), Part: r.p.part, Sid: e.SID, RoomVersion: r.rules.Version}, nil
}

// ReceiveInvite implements roomv1.RoomServer: an invite of a local user (server-server API, "Inviting to a room").
// In a room that we are in it comes to us as an event, too; in others it is all that we know of the room.
func (s *Service) ReceiveInvite(ctx context.Context, req *roomv1.ReceiveInviteRequest) (*roomv1.ReceiveInviteResponse, error) {
	roomID, err := parseRoom(req.RoomId)
	if err != nil {
		return nil, err
	}
	rules, ok := roomversion.Get(req.RoomVersion)
	if !ok {
		return nil, merr.IncompatibleRoomVersion(req.RoomVersion)
	}
	pdu, err := parseEvent(req.Event, rules, roomID)
	if err != nil {
		return nil, err
	}
	if pdu.Type != typeMember || pdu.StateKey == nil || pdu.Membership() != "invite" {
		return nil, merr.InvalidParam("The event is not an invite to this room")
	}
	target, err := id.ParseUser(*pdu.StateKey)
	if err != nil || !s.localUser(target) {
		return nil, merr.InvalidParam("The invited user is not ours")
	}
	if pdu.Sender.Server() != id.Server(req.Origin) {
		return nil, merr.Forbidden("The sender is not of the requesting server")
	}
	key, err := s.servers.SigningKey(ctx, target.Server())
	if err != nil {
		return nil, err
	}
	if pdu, err = event.Sign(pdu, target.Server(), key); err != nil {
		return nil, err
	}
	stripped, err := strippedState(req.InviteRoomState, pdu)
	if err != nil {
		return nil, err
	}
	if err := s.storeUnjoined(ctx, unjoinedEvent{PDU: pdu, stripped: stripped, unlessJoined: true}); err != nil {
		return nil, again(err)
	}
	return &roomv1.ReceiveInviteResponse{Event: pdu.JSON}, nil
}

// maxStrippedEvents and maxStrippedBytes bound the state that a user is shown who is invited or knocks.
const (
	maxStrippedEvents = 100
	maxStrippedBytes  = 128 << 10
)

// strippedState builds what the client of an invited user is shown: the state that came with the invite, reduced to
// stripped state events, and the invite itself. The same goes for what a knock was answered with. No more is kept than
// maxStrippedEvents and maxStrippedBytes: what is beyond is left out.
func strippedState(raw [][]byte, invite *event.PDU) ([]byte, error) {
	out, n := []byte{'['}, 0
	for _, b := range raw {
		o, err := canonjson.ParseObject(b)
		if err != nil {
			return nil, merr.BadJSON("invite_room_state is malformed")
		}
		if _, ok := o.Get("state_key"); !ok {
			continue
		}
		shown := o.Only("type", "state_key", "content", "sender").Bytes()
		if len(out)+len(shown) > maxStrippedBytes {
			continue
		}
		if n++; n > maxStrippedEvents {
			break
		}
		out = append(append(out, shown...), ',')
	}
	out = invite.Stripped(out)
	return append(out, ']'), nil
}
