package room

import (
	"context"
	"errors"
	"fmt"

	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	roomv1 "hanse/proto/room/v1"
)

// errElsewhere says that another server has to help: we are not in the room, or no local user can let the user in.
var errElsewhere = errors.New("the room must be joined through another server")

// authorisedVia is the member of a join's content that names who vouches for it (client-server API, "Restricted rooms").
const authorisedVia = "join_authorised_via_users_server"

// memberIntent builds the intent of a membership event; content are further members of its content.
func memberIntent(sender, target id.User, membership string, content []byte, why cause) (intent, error) {
	o := canonjson.Object{}
	if len(content) > 0 {
		b, err := canonjson.CanonicalLoose(content)
		if err == nil {
			o, err = canonjson.ParseObject(b)
		}
		if err != nil {
			return intent{}, merr.BadJSON("The content is not canonical JSON: " + err.Error())
		}
	}
	o = o.Without("membership", authorisedVia).With("membership", canonjson.AppendString(nil, membership))
	key := string(target)
	return intent{typ: typeMember, stateKey: &key, sender: sender, content: o.Bytes(), cause: why}, nil
}

// sendMembership takes membership events that came as plain state events the way that their membership asks for.
func (s *Service) sendMembership(ctx context.Context, roomID id.Room, in intent) (*roomv1.SendResponse, error) {
	target, err := id.ParseUser(*in.stateKey)
	if err != nil {
		return nil, merr.InvalidParam(err.Error())
	}
	switch membership := gjson.GetBytes(in.content, "membership").Str; {
	case membership == "join" && target == in.sender:
		if in, err = unvouched(in); err != nil {
			return nil, err
		}
		return s.join(ctx, roomID, in, nil)
	case membership == "invite":
		return s.invite(ctx, roomID, in, target)
	case membership == "leave" && target == in.sender:
		return s.leave(ctx, roomID, in)
	}
	return s.sendAll(ctx, roomID, []intent{in})
}

// unvouched takes out of a join who vouches for it: that a client sends, as it changes what the user is called, and may not
// be so any more.
func unvouched(in intent) (intent, error) {
	content, err := canonjson.CanonicalLoose(in.content)
	if err != nil {
		return in, merr.BadJSON("The content is not canonical JSON: " + err.Error())
	}
	o, err := canonjson.ParseObject(content)
	if err != nil {
		return in, merr.BadJSON(err.Error())
	}
	in.content = o.Without(authorisedVia).Bytes()
	return in, nil
}

// Join implements roomv1.RoomServer.
func (s *Service) Join(ctx context.Context, req *roomv1.JoinRequest) (*roomv1.SendResponse, error) {
	roomID, in, err := s.ownMembership(req, "join")
	if err != nil {
		return nil, err
	}
	return s.join(ctx, roomID, in, req.Via)
}

// ownMembership is the intent of a user's request about their own membership.
func (s *Service) ownMembership(req interface {
	GetRoomId() string
	GetUserId() string
	GetContent() []byte
	GetCause() *roomv1.Cause
}, membership string) (id.Room, intent, error) {
	roomID, user, why, err := s.memberRequest(req.GetRoomId(), req.GetUserId(), req.GetCause())
	if err != nil {
		return "", intent{}, err
	}
	in, err := memberIntent(user, user, membership, req.GetContent(), why)
	return roomID, in, err
}

func (s *Service) memberRequest(roomText, userText string, c *roomv1.Cause) (id.Room, id.User, cause, error) {
	roomID, err := parseRoom(roomText)
	if err != nil {
		return "", "", cause{}, err
	}
	user, err := s.localSender(userText)
	if err != nil {
		return "", "", cause{}, err
	}
	why, err := causeOf(c)
	return roomID, user, why, err
}

func (s *Service) join(ctx context.Context, roomID id.Room, in intent, via []string) (*roomv1.SendResponse, error) {
	resp, err := s.sendHere(ctx, roomID, in, (*writer).joinable)
	if elsewhere(err) {
		return s.joinElsewhere(ctx, roomID, in, via, err)
	}
	return resp, err
}

// sendHere sends a user's own membership event, which prepare completes, to a room that a local user is in. Where
// nobody is, or another server has to help, the error is one that elsewhere says yes to.
func (s *Service) sendHere(ctx context.Context, roomID id.Room, in intent, prepare func(*writer, context.Context, intent) (intent, error)) (*roomv1.SendResponse, error) {
	return s.write(ctx, roomID, []intent{in}, func(ctx context.Context, w *writer) ([]id.Event, error) {
		if w.h.joinedLocal == 0 {
			return nil, errElsewhere
		}
		in, err := prepare(w, ctx, in)
		if err != nil {
			return nil, err
		}
		eventID, err := w.send(ctx, in)
		return []id.Event{eventID}, err
	})
}

func elsewhere(err error) bool {
	return errors.Is(err, errElsewhere) || merr.HasCode(err, merr.CodeNotFound)
}

// asItIs prepares nothing.
func (w *writer) asItIs(_ context.Context, in intent) (intent, error) { return in, nil }

// joinable prepares a join: into a restricted room a local user with the power to invite vouches for the user
// (client-server API, "Restricted rooms"; room version 8).
func (w *writer) joinable(ctx context.Context, in intent) (intent, error) {
	user := id.User(*in.stateKey)
	restricted, err := w.needsAuthoriser(ctx, user)
	if err != nil || !restricted {
		return in, err
	}
	allowed, complete, err := w.allowedBy(ctx, user)
	if err != nil {
		return in, err
	}
	if !allowed {
		if !complete {
			return in, fmt.Errorf("%w: %w", errElsewhere, merr.UnableToAuthorizeJoin("This server is not in all rooms that the join rules name"))
		}
		return in, merr.Forbidden("You do not belong to any of the required rooms/spaces to join this room.")
	}
	via, err := w.authoriser(ctx)
	if err != nil {
		return in, err
	}
	if via == "" {
		return in, fmt.Errorf("%w: %w", errElsewhere, merr.UnableToGrantJoin("No user of this server has the power to invite"))
	}
	o, err := canonjson.ParseObject(in.content)
	if err != nil {
		return in, merr.BadJSON(err.Error())
	}
	in.content = o.With(authorisedVia, canonjson.AppendString(nil, string(via))).Bytes()
	return in, nil
}

// needsAuthoriser says whether the user can join only by the conditions of a restricted room.
func (w *writer) needsAuthoriser(ctx context.Context, user id.User) (bool, error) {
	if !w.r.rules.RestrictedJoin {
		return false, nil
	}
	rules, err := w.joinRules(ctx)
	if err != nil || rules == nil {
		return false, err
	}
	switch gjson.GetBytes(rules.Content, "join_rule").Str {
	case "restricted":
	case "knock_restricted":
		if !w.r.rules.KnockRestricted {
			return false, nil
		}
	default:
		return false, nil
	}
	now, _, err := w.s.membershipIn(ctx, w.r.p, w.h.state, user)
	return now != "join" && now != "invite", err
}

func (w *writer) joinRules(ctx context.Context) (*roomdb.Event, error) {
	nid, ok := w.h.state.Get(state.Key{Type: typeJoinRules})
	if !ok {
		return nil, nil
	}
	return w.s.event(ctx, w.r.p, nid)
}

// allowedBy says whether the user is in one of the rooms that the join rules name; complete is false if we are not in
// all of those that we would have to look at.
func (w *writer) allowedBy(ctx context.Context, user id.User) (allowed, complete bool, err error) {
	rules, err := w.joinRules(ctx)
	if err != nil || rules == nil {
		return false, true, err
	}
	complete = true
	for _, condition := range gjson.GetBytes(rules.Content, "allow").Array() {
		if condition.Get("type").Str != "m.room_membership" {
			continue
		}
		other := id.Room(condition.Get("room_id").Str)
		known, joined, err := w.s.joinedIn(ctx, other, user)
		if err != nil {
			return false, false, err
		}
		if joined {
			return true, true, nil
		}
		complete = complete && known
	}
	return false, complete, nil
}

// joinedIn looks a user up in another room, by what is committed. known is false if we are not in that room.
func (s *Service) joinedIn(ctx context.Context, other id.Room, user id.User) (known, joined bool, err error) {
	row, err := s.db.Room(ctx, other)
	if errors.Is(err, roomdb.ErrNotFound) {
		return false, false, nil
	}
	if err != nil || row.JoinedLocal == 0 {
		return false, false, err
	}
	m, err := s.db.State(ctx, row.Part, row.SID)
	if err != nil {
		return false, false, err
	}
	nid, ok := m.Get(state.Key{Type: typeMember, StateKey: string(user)})
	if !ok {
		return true, false, nil
	}
	found, err := s.db.Events(ctx, row.Part, []int64{nid})
	if err != nil {
		return false, false, err
	}
	e := found[nid]
	return true, e != nil && e.Membership() == "join", nil
}

// authoriser finds a local member with the power to invite, "" if there is none. Those whom the power levels name are
// asked first.
func (w *writer) authoriser(ctx context.Context) (id.User, error) {
	found, err := w.s.authEvents(ctx, w.r.p, w.h.state, []event.Tuple{{Type: typePowerLevels}})
	if err != nil {
		return "", err
	}
	levels := auth.PowerLevelsOf(found.lookup)
	required, err := levels.Invite()
	if err != nil {
		return "", nil // malformed levels grant nothing
	}
	able := func(user id.User) (bool, error) {
		if !w.s.localUser(user) || auth.PowerOf(user, found.lookup) < required {
			return false, nil
		}
		now, _, err := w.s.membershipIn(ctx, w.r.p, w.h.state, user)
		return now == "join", err
	}
	candidates := []id.User{}
	if create := found.lookup.StateEvent(typeCreate, ""); create != nil {
		candidates = append(auth.Creators(create), create.Sender)
	}
	for user := range levels.Users {
		candidates = append(candidates, user)
	}
	for _, user := range candidates {
		if ok, err := able(user); ok || err != nil {
			return user, err
		}
	}
	if everybody, err := levels.User(""); err != nil || everybody < required {
		return "", nil
	}
	for key := range w.h.state.Type(typeMember) {
		if ok, err := able(id.User(key.StateKey)); ok || err != nil {
			return id.User(key.StateKey), err
		}
	}
	return "", nil
}

// Invite implements roomv1.RoomServer.
func (s *Service) Invite(ctx context.Context, req *roomv1.InviteRequest) (*roomv1.SendResponse, error) {
	roomID, sender, why, err := s.memberRequest(req.RoomId, req.Sender, req.Cause)
	if err != nil {
		return nil, err
	}
	target, err := id.ParseUser(req.UserId)
	if err != nil {
		return nil, merr.InvalidParam(err.Error())
	}
	in, err := memberIntent(sender, target, "invite", req.Content, why)
	if err != nil {
		return nil, err
	}
	return s.invite(ctx, roomID, in, target)
}

func (s *Service) invite(ctx context.Context, roomID id.Room, in intent, target id.User) (*roomv1.SendResponse, error) {
	if s.localUser(target) {
		return s.sendAll(ctx, roomID, []intent{in})
	}
	return s.inviteElsewhere(ctx, roomID, in, target)
}

// Leave implements roomv1.RoomServer.
func (s *Service) Leave(ctx context.Context, req *roomv1.LeaveRequest) (*roomv1.SendResponse, error) {
	roomID, in, err := s.ownMembership(req, "leave")
	if err != nil {
		return nil, err
	}
	return s.leave(ctx, roomID, in)
}

func (s *Service) leave(ctx context.Context, roomID id.Room, in intent) (*roomv1.SendResponse, error) {
	resp, err := s.sendHere(ctx, roomID, in, (*writer).asItIs)
	if elsewhere(err) {
		return s.leaveElsewhere(ctx, roomID, in)
	}
	return resp, err
}

// Knock implements roomv1.RoomServer.
func (s *Service) Knock(ctx context.Context, req *roomv1.JoinRequest) (*roomv1.SendResponse, error) {
	roomID, in, err := s.ownMembership(req, "knock")
	if err != nil {
		return nil, err
	}
	resp, err := s.sendHere(ctx, roomID, in, (*writer).asItIs)
	if elsewhere(err) {
		return s.knockElsewhere(ctx, roomID, in, req.Via)
	}
	return resp, err
}
