package room

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/pg"
	"hanse/pkg/state"
	roomv1 "hanse/proto/room/v1"
)

// inviteStateTypes is the state that an invited user is shown before the join (client-server API, "Stripped state"), m.room.create
// first.
var inviteStateTypes = []string{typeCreate, typeJoinRules, "m.room.canonical_alias", "m.room.avatar", "m.room.encryption",
	"m.room.name", "m.room.topic"}

// maxShown bounds the state that goes with an invite, in bytes: other servers bound it, too. The create event always goes.
const maxShown = 100 << 10

// maxKnockState bounds the state that answers a knock, as that of an invite.
const maxKnockState = 100

// inviteElsewhere invites a user of another server: that server signs the invite before it becomes part of the room.
// The room goes on meanwhile; the invite then stands where it was built.
func (s *Service) inviteElsewhere(ctx context.Context, roomID id.Room, in intent, target id.User) (*roomv1.SendResponse, error) {
	pdu, shown, known, err := s.buildInvite(ctx, roomID, in)
	if err != nil || known != nil {
		return known, err
	}
	raw, err := s.askInvite(forUser(ctx), pdu, target.Server(), shown)
	if err != nil {
		return nil, inviteError(err)
	}
	signed, err := event.ParseIn(raw, pdu.Rules, roomID)
	if err != nil || signed.ID != pdu.ID {
		return nil, merr.BadGateway("The invited user's server answered with another event")
	}
	if err := s.keys.VerifyEventBy(ctx, signed, target.Server()); err != nil {
		return nil, merr.BadGateway("The invited user's server did not sign the invite").WithCause(err)
	}
	return s.attachOwn(ctx, signed, in)
}

// inviteError is what the client hears of an invite that the other server did not take. If that server calls the request malformed,
// perhaps for the state that goes with it (MSC4311), the client can do nothing about it (server-server API, PUT /v2/invite, 400).
func inviteError(err error) error {
	var answer *fedError
	switch {
	case !errors.As(err, &answer):
		return elsewhereError(err, "")
	case answer.status >= http.StatusInternalServerError:
		return merr.BadGateway("The invited user's server failed").WithCause(err)
	case answer.status == http.StatusBadRequest && (answer.code() == merr.CodeMissingParam || answer.code() == merr.CodeInvalidParam):
		return merr.BadGateway("The invited user's server did not understand the invite").WithCause(err)
	}
	return elsewhereError(err, "")
}

// signedInvite is an invite that the invited user's server has signed.
type signedInvite struct {
	Event json.RawMessage `json:"event"`
}

// askInvite has the invited user's server sign an invite (server-server API, "Inviting to a room"). A server that does
// not know version 2 of the endpoint is asked by version 1, which is for rooms of versions 1 and 2 only.
func (s *Service) askInvite(ctx context.Context, pdu *event.PDU, dest id.Server, shown []json.RawMessage) (json.RawMessage, error) {
	q := request{origin: pdu.Sender.Server(), dest: dest, method: http.MethodPut, timeout: longTimeout,
		uri: fedPath("v2", "invite", string(pdu.RoomID), string(pdu.ID)), body: map[string]any{
			"room_version": pdu.Rules.Version, "event": json.RawMessage(pdu.JSON), "invite_room_state": shown}}
	var answer signedInvite
	err := s.ask(ctx, q, &answer)
	var refused *fedError
	if err == nil || !errors.As(err, &refused) || refused.status != http.StatusBadRequest && refused.status != http.StatusNotFound {
		return answer.Event, err
	}
	if v := pdu.Rules.Version; v != "1" && v != "2" {
		return nil, err
	}
	if q.body, err = inviteV1(pdu, shown); err != nil {
		return nil, err
	}
	q.uri = fedPath("v1", "invite", string(pdu.RoomID), string(pdu.ID))
	var both []json.RawMessage // the number 200 and the answer
	if err := s.ask(ctx, q, &both); err != nil {
		if code := refused.code(); code != "" && code != merr.CodeUnrecognized {
			return nil, refused // it knows version 2, and meant the invite
		}
		return nil, err
	}
	if len(both) != 2 {
		return nil, merr.BadGateway("The invited user's server answered with something else")
	}
	err = canonjson.Decode(both[1], &answer)
	return answer.Event, err
}

// inviteV1 is an invite as version 1 of the endpoint takes it: the state lies in unsigned.
func inviteV1(pdu *event.PDU, shown []json.RawMessage) ([]byte, error) {
	unsigned, err := json.Marshal(map[string]any{"invite_room_state": shown})
	if err != nil {
		return nil, err
	}
	body := append(pdu.JSON[:len(pdu.JSON)-1:len(pdu.JSON)-1], `,"unsigned":`...) // it has none of its own
	return append(append(body, unsigned...), '}'), nil
}

// buildInvite builds the invite on the room as it is now. known is the answer if there is nothing to send.
func (s *Service) buildInvite(ctx context.Context, roomID id.Room, in intent) (pdu *event.PDU, shown []json.RawMessage, known *roomv1.SendResponse, err error) {
	r, err := s.joinedRoom(ctx, roomID)
	if err != nil {
		return nil, nil, nil, err
	}
	defer r.unlock()
	if d := r.causes.by[in.cause.base]; d != nil && in.cause.base != "" {
		known, err = d.answer(ctx, r)
		return nil, nil, known, err
	}
	w := s.newWriter(ctx, r)
	same, err := w.unchanged(ctx, in)
	if err != nil {
		return nil, nil, nil, err
	}
	if same != "" {
		return nil, nil, &roomv1.SendResponse{EventIds: []string{string(same)}, Part: r.p.part, Pos: r.lastPos.Load()}, nil
	}
	on, err := w.base(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	if pdu, _, err = w.build(ctx, in, on); err != nil {
		return nil, nil, nil, err
	}
	shown, err = w.shownState(ctx, in.sender)
	return pdu, shown, nil, err
}

// shownState is the state that goes with an invite, as full events: what the room is, and who invites (MSC4319).
func (w *writer) shownState(ctx context.Context, inviter id.User) ([]json.RawMessage, error) {
	keys := []state.Key{{Type: typeCreate}, {Type: typeMember, StateKey: string(inviter)}}
	for _, typ := range inviteStateTypes[1:] {
		keys = append(keys, state.Key{Type: typ})
	}
	var shown []json.RawMessage
	size := 0
	for _, key := range keys {
		nid, ok := w.h.state.Get(key)
		if !ok {
			continue
		}
		e, err := w.s.event(ctx, w.r.p, nid)
		if err != nil {
			return nil, err
		}
		if key.Type != typeCreate && size+len(e.JSON) > maxShown {
			continue
		}
		size += len(e.JSON)
		shown = append(shown, json.RawMessage(e.JSON))
	}
	return shown, nil
}

// attachOwn adds a local event that was built a while ago.
func (s *Service) attachOwn(ctx context.Context, pdu *event.PDU, in intent) (*roomv1.SendResponse, error) {
	r, err := s.joinedRoom(ctx, pdu.RoomID)
	if err != nil {
		return nil, err
	}
	w := s.newWriter(ctx, r)
	e, err := w.receive(ctx, pdu, arrival{relay: true, why: in.cause})
	if err == nil && e != nil {
		if e.flags != 0 {
			err = forbidden(e.refusal)
		} else {
			err = w.put()
		}
	}
	if err == nil && e != nil && in.cause.base != "" {
		r.causes.add(in.cause.base, &done{change: w.c, ids: []id.Event{pdu.ID}})
	}
	r.unlock()
	if err != nil {
		return nil, again(err)
	}
	resp := &roomv1.SendResponse{EventIds: []string{string(pdu.ID)}, Part: r.p.part, Pos: r.lastPos.Load()}
	if e == nil {
		return resp, nil // it came back to us by federation already
	}
	if err := w.c.wait(ctx); err != nil {
		if pg.IsUnique(err, "event_cause") {
			return s.repeated(ctx, pdu.RoomID, []intent{in})
		}
		return nil, again(err)
	}
	resp.Pos = w.c.last
	return resp, nil
}

// leaveElsewhere rejects an invite, or takes a knock back, in a room that no local user is in. If no server of the room helps,
// the user is rid of it all the same, as with Synapse.
func (s *Service) leaveElsewhere(ctx context.Context, roomID id.Room, in intent) (*roomv1.SendResponse, error) {
	row, err := s.unjoinedRow(ctx, roomID, in.sender)
	if err != nil {
		return nil, err
	}
	if row == nil {
		return nil, merr.NotFound("Not a known room")
	}
	if row.membership == "leave" || row.membership == "ban" {
		return nil, merr.Forbidden("The user is not in the room")
	}
	servers, err := s.helpers(ctx, roomID, in.sender, nil)
	if err != nil {
		return nil, err
	}
	for ctx, server := range inTurn(ctx, servers) {
		pdu, err := s.leaveVia(ctx, roomID, in, server)
		if err == nil {
			return s.unjoinedAnswer(ctx, pdu, nil, "")
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		s.log.Info("leave through another server", "room", roomID, "server", server, "err", err)
	}
	pdu, err := s.leaveAlone(ctx, roomID, in, row)
	if err != nil {
		return nil, err
	}
	return s.unjoinedAnswer(ctx, pdu, nil, "")
}

func (s *Service) leaveVia(ctx context.Context, roomID id.Room, in intent, server id.Server) (*event.PDU, error) {
	pdu, err := s.prepare(ctx, roomID, in, "leave", server)
	if err != nil {
		return nil, err
	}
	return pdu, s.ask(ctx, request{origin: in.sender.Server(), dest: server, method: http.MethodPut,
		uri: fedPath("v2", "send_leave", string(roomID), string(pdu.ID)), body: pdu.JSON}, nil)
}

// leaveAlone makes a leave event that nobody but us will ever see, upon the invite.
func (s *Service) leaveAlone(ctx context.Context, roomID id.Room, in intent, row *unjoinedRow) (*event.PDU, error) {
	last, err := s.last(ctx, roomID, row)
	if err != nil {
		return nil, err
	}
	if last == nil {
		return nil, merr.NotFound("Not a known room")
	}
	d := event.Draft{RoomID: roomID, Type: typeMember, StateKey: in.stateKey, Sender: in.sender, Content: in.content,
		Depth: min(last.Depth+1, maxDepth), OriginServerTS: last.OriginServerTS + 1}
	if err := errors.Join(refer(&d.PrevEvents, &d.PrevHashes, last), refer(&d.AuthEvents, &d.AuthHashes, last)); err != nil {
		return nil, err
	}
	key, err := s.servers.SigningKey(ctx, in.sender.Server())
	if err != nil {
		return nil, err
	}
	pdu, err := event.Build(d, last.Rules, in.sender.Server(), key)
	if err != nil {
		return nil, badEvent(err)
	}
	return pdu, nil
}

// knockElsewhere knocks through servers that are in the room (server-server API, "Knocking upon a room").
func (s *Service) knockElsewhere(ctx context.Context, roomID id.Room, in intent, via []string) (*roomv1.SendResponse, error) {
	servers, err := s.helpers(ctx, roomID, in.sender, via)
	if err != nil {
		return nil, err
	}
	var failed error
	for ctx, server := range inTurn(ctx, servers) {
		pdu, stripped, err := s.knockVia(ctx, roomID, in, server)
		if err == nil {
			return s.unjoinedAnswer(ctx, pdu, stripped, server)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		s.log.Info("knock through another server", "room", roomID, "server", server, "err", err)
		failed = worse(failed, err)
	}
	return nil, elsewhereError(failed, "No known servers")
}

func (s *Service) knockVia(ctx context.Context, roomID id.Room, in intent, server id.Server) (*event.PDU, []byte, error) {
	pdu, err := s.prepare(ctx, roomID, in, "knock", server)
	if err != nil {
		return nil, nil, err
	}
	var answer struct {
		State rawPDUs `json:"knock_room_state"`
	}
	err = s.ask(ctx, request{origin: in.sender.Server(), dest: server, method: http.MethodPut,
		uri: fedPath("v1", "send_knock", string(roomID), string(pdu.ID)), body: pdu.JSON}, &answer)
	if err != nil {
		return nil, nil, err
	}
	stripped, err := strippedState(s.knockState(ctx, answer.State, pdu), pdu)
	return pdu, stripped, err
}

// knockState returns what of the state that answers a knock the user is shown (server-server API, PUT /send_knock,
// MSC4311): stripped state, which proves nothing, and of what has the form of an event only what is one of the room, with
// good signatures. The knock itself has been taken, whatever came with it.
func (s *Service) knockState(ctx context.Context, raw rawPDUs, knock *event.PDU) [][]byte {
	var shown [][]byte
	var events rawPDUs
	for _, b := range raw[:min(len(raw), maxKnockState)] {
		state := gjson.ParseBytes(b)
		switch {
		case !state.Get("content").IsObject() || state.Get("type").Type != gjson.String || state.Get("state_key").Type != gjson.String ||
			state.Get("sender").Type != gjson.String:
		case state.Get("signatures").Exists():
			events = append(events, b)
		default:
			if b, err := canonjson.CanonicalLoose(b); err == nil {
				shown = append(shown, b)
			}
		}
	}
	good, err := s.parseAll(ctx, events, knock.Rules, knock.RoomID)
	if err != nil {
		s.log.Warn("state in the answer to a knock is not valid", "room", knock.RoomID, "err", err)
	}
	for _, pdu := range good {
		shown = append(shown, pdu.JSON)
	}
	return shown
}

func (s *Service) unjoinedAnswer(ctx context.Context, pdu *event.PDU, stripped []byte, via id.Server) (*roomv1.SendResponse, error) {
	if err := s.storeUnjoined(ctx, unjoinedEvent{PDU: pdu, stripped: stripped, via: via}); err != nil {
		return nil, again(err)
	}
	return &roomv1.SendResponse{EventIds: []string{string(pdu.ID)}}, nil
}
