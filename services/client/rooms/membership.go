package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/tidwall/gjson"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/invitefilter"
	"hanse/pkg/merr"
	"hanse/pkg/roomowner"
	"hanse/pkg/userdb"
	roomv1 "hanse/proto/room/v1"
	"hanse/services/client/access"
	"hanse/services/client/core"
	"hanse/services/client/directory"
)

const (
	// joinTime bounds joins, invites, leaves and knocks, which may need other servers.
	joinTime = 2 * time.Minute
)

// joinRoom answers POST /rooms/{roomId}/join.
func (c *Rooms) joinRoom(w http.ResponseWriter, r *http.Request) error {
	room, err := core.PathRoom(r)
	if err != nil {
		return err
	}
	return c.enter(w, r, directory.Target{Room: room})
}

// joinAny answers POST /join/{roomIdOrAlias}.
func (c *Rooms) joinAny(w http.ResponseWriter, r *http.Request) error {
	t, err := c.directory.RoomOrAlias(r)
	if err != nil {
		return err
	}
	return c.enter(w, r, t)
}

// enter joins a room (client-server API, "Joining rooms").
func (c *Rooms) enter(w http.ResponseWriter, r *http.Request, t directory.Target) error {
	body, _, err := memberBody(r)
	if err != nil {
		return err
	}
	content, err := core.Members(body) // what else there is becomes part of the event, as with Synapse
	if err != nil {
		return err
	}
	delete(content, "third_party_signed")
	if err := c.Limit(r, "join"); err != nil {
		return err
	}
	if err := c.guestsMayJoin(r, t); err != nil {
		return err
	}
	user := core.Me(r).User
	if err := c.addProfile(r.Context(), content, user); err != nil {
		return err
	}
	req := &roomv1.JoinRequest{RoomId: string(t.Room), UserId: string(user), Via: texts(t.Servers), Cause: access.NewCause(user)}
	if signed := gjson.GetBytes(body, "third_party_signed"); signed.IsObject() {
		req.ThirdPartySigned = []byte(signed.Raw)
	}
	if req.Content, err = json.Marshal(content); err != nil {
		return err
	}
	ctx, cancel := httpx.DetachedContext(r, joinTime)
	defer cancel()
	err = roomowner.Call(ctx, c.Router, t.Room, func(ctx context.Context, rc roomv1.RoomClient) error {
		_, err := rc.Join(ctx, req)
		return err
	})
	if err != nil {
		return err
	}
	if core.Me(r).Guest {
		if err := c.stillWelcome(ctx, user, t.Room); err != nil {
			return err
		}
	}
	if err := c.carryOnJoin(ctx, user, t.Room); err != nil { // the join is made
		c.Log.WarnContext(ctx, "room settings of a user were not carried over to the new room", "room", t.Room, "user", user, "err", err)
	}
	return httpx.OK(w, map[string]id.Room{"room_id": t.Room})
}

// memberBody reads the body of a request about a membership: all of it, and the content that comes of it.
func memberBody(r *http.Request) (body []byte, content map[string]json.RawMessage, err error) {
	if body, err = httpx.JSONBody(r); err != nil {
		return nil, nil, err
	}
	var q struct {
		Reason *string `json:"reason"`
	}
	if err := httpx.Unmarshal(body, &q); err != nil {
		return nil, nil, err
	}
	content = make(map[string]json.RawMessage)
	core.SetText(content, "reason", q.Reason)
	return body, content, nil
}

// addProfile adds the profile of a local user to the content of their member event, where it does not say else.
func (c *Rooms) addProfile(ctx context.Context, content map[string]json.RawMessage, user id.User) error {
	if !c.IsLocal(user) {
		return nil
	}
	p, err := c.Users.Profile(ctx, user)
	if errors.Is(err, userdb.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	for key, v := range map[string]*string{"displayname": p.Displayname, "avatar_url": p.AvatarURL} {
		if _, ok := content[key]; !ok && v != nil {
			core.SetText(content, key, v)
		}
	}
	return nil
}

// knockRoom answers POST /knock/{roomIdOrAlias} (client-server API, "Knocking on rooms").
func (c *Rooms) knockRoom(w http.ResponseWriter, r *http.Request) error {
	t, err := c.directory.RoomOrAlias(r)
	if err != nil {
		return err
	}
	_, content, err := memberBody(r)
	if err != nil {
		return err
	}
	if err := c.Limit(r, "join"); err != nil {
		return err
	}
	user := core.Me(r).User
	if err := c.addProfile(r.Context(), content, user); err != nil {
		return err
	}
	req := &roomv1.JoinRequest{RoomId: string(t.Room), UserId: string(user), Via: texts(t.Servers), Cause: access.NewCause(user)}
	if req.Content, err = json.Marshal(content); err != nil {
		return err
	}
	ctx, cancel := httpx.DetachedContext(r, joinTime)
	defer cancel()
	err = roomowner.Call(ctx, c.Router, t.Room, func(ctx context.Context, rc roomv1.RoomClient) error {
		_, err := rc.Knock(ctx, req)
		return err
	})
	if err != nil {
		return err
	}
	return httpx.OK(w, map[string]id.Room{"room_id": t.Room})
}

// leaveRoom answers POST /rooms/{roomId}/leave: it also rejects invites and retracts knocks.
func (c *Rooms) leaveRoom(w http.ResponseWriter, r *http.Request) error {
	room, err := core.PathRoom(r)
	if err != nil {
		return err
	}
	_, content, err := memberBody(r)
	if err != nil {
		return err
	}
	user := core.Me(r).User
	m, err := c.Users.Membership(r.Context(), user, room)
	switch {
	case errors.Is(err, userdb.ErrNotFound):
		return access.ErrNotInRoom()
	case err != nil:
		return err
	case m.Membership == core.Leave: // twice is once
		return httpx.Empty(w)
	}
	req := &roomv1.LeaveRequest{RoomId: string(room), UserId: string(user), Cause: access.NewCause(user)}
	if req.Content, err = json.Marshal(content); err != nil {
		return err
	}
	ctx, cancel := httpx.DetachedContext(r, joinTime)
	defer cancel()
	err = roomowner.Call(ctx, c.Router, room, func(ctx context.Context, rc roomv1.RoomClient) error {
		_, err := rc.Leave(ctx, req)
		return err
	})
	if err != nil {
		return access.RoomGone(err)
	}
	return httpx.Empty(w)
}

// forgetRoom answers POST /rooms/{roomId}/forget, for rooms that the user is out of: 400 for others.
func (c *Rooms) forgetRoom(w http.ResponseWriter, r *http.Request) error {
	room, err := core.PathRoom(r)
	if err != nil {
		return err
	}
	user := core.Me(r).User
	err = c.Users.Forget(r.Context(), user, room)
	if errors.Is(err, userdb.ErrNotFound) {
		return merr.New(http.StatusBadRequest, merr.CodeUnknown, "User "+string(user)+" has not left room "+string(room))
	}
	if err != nil {
		return err
	}
	return httpx.Empty(w)
}

// inviteUser answers POST /rooms/{roomId}/invite.
func (c *Rooms) inviteUser(w http.ResponseWriter, r *http.Request) error {
	room, err := core.PathRoom(r)
	if err != nil {
		return err
	}
	body, content, err := memberBody(r)
	if err != nil {
		return err
	}
	if !gjson.GetBytes(body, "user_id").Exists() && gjson.GetBytes(body, "medium").Exists() {
		return errNoThirdParty()
	}
	invitee, err := bodyUser(body)
	if err != nil {
		return err
	}
	if err := c.Limit(r, "invite"); err != nil {
		return err
	}
	user := core.Me(r).User
	ctx, cancel := httpx.DetachedContext(r, joinTime)
	defer cancel()
	if err := c.access.MustBeJoined(ctx, user, room); err != nil {
		return err
	}
	if err := c.limitInvitee(r, invitee); err != nil {
		return err
	}
	if err := c.mayInvite(ctx, user, invitee); err != nil {
		return err
	}
	if err := c.invite(ctx, room, user, invitee, content); err != nil {
		return access.RoomGone(err)
	}
	return httpx.Empty(w)
}

// errNoThirdParty refuses invites by e-mail address or telephone number: there is no identity server here.
func errNoThirdParty() error {
	return merr.Forbidden("Looking up third-party identifiers is denied from this server")
}

// bodyUser reads user_id.
func bodyUser(body []byte) (id.User, error) {
	field := gjson.GetBytes(body, "user_id")
	if !field.Exists() {
		return "", merr.MissingParam("user_id")
	}
	user, err := id.ParseUser(field.Str)
	if err != nil {
		return "", merr.InvalidParam("Not a valid user ID")
	}
	return user, nil
}

// mayInvite refuses invites that a local user blocks: 403 M_INVITE_BLOCKED (client-server API, "Invite
// permission"). For users of other servers their server says so.
func (c *Rooms) mayInvite(ctx context.Context, by, invitee id.User) error {
	if !c.IsLocal(invitee) || by == invitee {
		return nil
	}
	if c.Queries.Concerns(invitee) {
		exists, err := c.Users.AccountExists(ctx, invitee)
		if err != nil {
			return err
		}
		if !exists {
			c.Queries.UserMade(ctx, invitee) // the invite goes on whatever the answer is, as for other users who do not exist
		}
	}
	action, err := c.Users.InviteAction(ctx, invitee, by)
	if err == nil && action == invitefilter.Block {
		return merr.InviteBlocked()
	}
	return err
}

// limitInvitee bounds how often a local user is invited, by whomever, and how many invites wait for an answer.
func (c *Rooms) limitInvitee(r *http.Request, invitee id.User) error {
	if !c.IsLocal(invitee) || !core.Me(r).RateLimited() || invitee == core.Me(r).User {
		return nil
	}
	if err := c.Allow(r.Context(), "invite_user", string(invitee)); err != nil {
		return err
	}
	full, err := c.Users.InvitesFull(r.Context(), invitee, "")
	if err == nil && full {
		return merr.LimitExceeded(userdb.InvitesRetryMS)
	}
	return err
}

// invite invites somebody, wherever they are.
func (c *Rooms) invite(ctx context.Context, room id.Room, by, invitee id.User, content map[string]json.RawMessage) error {
	if err := c.addProfile(ctx, content, invitee); err != nil {
		return err
	}
	raw, err := json.Marshal(content)
	if err != nil {
		return err
	}
	cause := access.NewCause(by)
	return roomowner.Call(ctx, c.Router, room, func(ctx context.Context, rc roomv1.RoomClient) error {
		_, err := rc.Invite(ctx, &roomv1.InviteRequest{RoomId: string(room), Sender: string(by), UserId: string(invitee), Content: raw, Cause: cause})
		return err
	})
}

// kickUser, banUser and unbanUser answer POST /rooms/{roomId}/kick, ban and unban.
func (c *Rooms) kickUser(w http.ResponseWriter, r *http.Request) error {
	return c.moderate(w, r, core.Leave, func(now string) error {
		switch now {
		case core.Join, core.Invite, core.Knock:
			return nil
		}
		return merr.Forbidden("The target user is not in the room")
	})
}

func (c *Rooms) banUser(w http.ResponseWriter, r *http.Request) error {
	return c.moderate(w, r, core.Ban, func(string) error { return nil })
}

func (c *Rooms) unbanUser(w http.ResponseWriter, r *http.Request) error {
	return c.moderate(w, r, core.Leave, func(now string) error {
		if now != core.Ban {
			return merr.BadState("Cannot unban user who was not banned").WithStatus(http.StatusForbidden)
		}
		return nil
	})
}

// moderate sets the membership of somebody else, if what they are now allows it.
func (c *Rooms) moderate(w http.ResponseWriter, r *http.Request, membership string, fits func(now string) error) error {
	roomID, err := core.PathRoom(r)
	if err != nil {
		return err
	}
	body, content, err := memberBody(r)
	if err != nil {
		return err
	}
	other, err := bodyUser(body)
	if err != nil {
		return err
	}
	ctx, user := r.Context(), core.Me(r).User
	room, err := c.access.Joined(ctx, user, roomID)
	if err != nil {
		return err
	}
	m, err := c.Rooms.State(ctx, room.Part, room.SID)
	if err != nil {
		return err
	}
	now, err := c.Rooms.StateEvent(ctx, room.Part, m, core.TypeMember, string(other))
	if err != nil {
		return err
	}
	is := ""
	if now != nil {
		is = now.Membership()
	}
	if err := fits(is); err != nil {
		return err
	}
	content["membership"] = canonjson.AppendString(nil, membership)
	raw, err := json.Marshal(content)
	if err != nil {
		return err
	}
	key := string(other)
	intent := &roomv1.EventIntent{Type: core.TypeMember, StateKey: &key, Content: raw, Sender: string(user)}
	if _, err := c.access.Send(ctx, roomID, intent, access.NewCause(user)); err != nil {
		return err
	}
	return httpx.Empty(w)
}

func texts[T ~string](in []T) []string {
	out := make([]string, len(in))
	for i, t := range in {
		out[i] = string(t)
	}
	return out
}
