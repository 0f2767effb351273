package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/merr"
	"hanse/pkg/partition"
	"hanse/pkg/roomdir"
	"hanse/pkg/roomowner"
	roomv1 "hanse/proto/room/v1"
	"hanse/services/client/core"
)

const (
	// createTime bounds the making of a room, invites at other servers included.
	createTime = 2 * time.Minute
	// maxInitialState and maxInvites bound one request; maxBatchInvites is how many invites are part of the first write.
	maxInitialState = 150
	maxInvites      = 200
	maxBatchInvites = 60
	// maxCreateBody bounds the request in bytes.
	maxCreateBody = 1 << 20

	presetPrivate = "private_chat"
	presetTrusted = "trusted_private_chat"
	presetPublic  = "public_chat"
)

// createRequest is the body of POST /createRoom.
type createRequest struct {
	CreationContent map[string]json.RawMessage `json:"creation_content"`
	InitialState    []initialEvent             `json:"initial_state"`
	Invite          []string                   `json:"invite"`
	Invite3PID      []json.RawMessage          `json:"invite_3pid"`
	IsDirect        bool                       `json:"is_direct"`
	Name            *string                    `json:"name"`
	PowerLevels     map[string]json.RawMessage `json:"power_level_content_override"`
	Preset          string                     `json:"preset"`
	AliasName       *string                    `json:"room_alias_name"`
	RoomVersion     *string                    `json:"room_version"`
	Topic           *string                    `json:"topic"`
	Visibility      string                     `json:"visibility"`
}

type initialEvent struct {
	Type     string          `json:"type"`
	StateKey string          `json:"state_key"`
	Content  json.RawMessage `json:"content"`
}

// createRoom answers POST /createRoom (client-server API, "Creation").
func (c *Rooms) createRoom(w http.ResponseWriter, r *http.Request) error {
	var q createRequest
	if err := httpx.Decode(r, &q); err != nil {
		return err
	}
	invitees, err := q.check()
	if err != nil {
		return err
	}
	version := c.version
	if q.RoomVersion != nil {
		version = *q.RoomVersion
	}
	rules, err := supported(version)
	if err != nil {
		return err
	}
	if err := c.Limit(r, "create_room"); err != nil {
		return err
	}
	ctx, cancel := httpx.DetachedContext(r, createTime)
	defer cancel()
	creator := core.Me(r).User
	for _, u := range invitees {
		if err := c.limitInvitee(r, u); err != nil {
			return err
		}
		if err := c.mayInvite(ctx, creator, u); err != nil {
			return err
		}
	}
	p := &plan{rules: rules, creator: creator, invitees: invitees, isLocal: c.IsLocal}
	if p.profiles, err = c.profilesOf(ctx, append(slices.Clone(invitees), creator)); err != nil {
		return err
	}
	if q.AliasName != nil && *q.AliasName != "" {
		if p.alias, err = c.reserveAlias(ctx, r, *q.AliasName); err != nil {
			return err
		}
	}
	room, err := c.make(ctx, &q, p)
	if err != nil {
		if p.alias != "" {
			err = errors.Join(err, c.dir.Release(ctx, p.alias, creator))
		}
		return err
	}
	return httpx.OK(w, map[string]id.Room{"room_id": room})
}

// supported returns the rules of a version: 400 M_UNSUPPORTED_ROOM_VERSION.
func supported(version string) (*roomversion.Rules, error) {
	rules, ok := roomversion.Get(version)
	if !ok {
		return nil, merr.UnsupportedRoomVersion(version)
	}
	return rules, nil
}

// check checks what needs nothing but the request, and returns whom to invite.
func (q *createRequest) check() ([]id.User, error) {
	switch q.Visibility {
	case "":
		q.Visibility = "private"
	case "public", "private":
	default:
		return nil, merr.InvalidParam("visibility must be public or private")
	}
	switch q.Preset {
	case "":
		if q.Preset = presetPrivate; q.Visibility == "public" {
			q.Preset = presetPublic
		}
	case presetPrivate, presetTrusted, presetPublic:
	default:
		return nil, merr.InvalidParam("preset is not one of the presets")
	}
	switch {
	case len(q.Invite3PID) > 0:
		return nil, errNoThirdParty()
	case len(q.InitialState) > maxInitialState:
		return nil, merr.InvalidParam("Too many events in initial_state")
	case len(q.Invite) > maxInvites:
		return nil, merr.InvalidParam("Too many users to invite")
	}
	for _, e := range q.InitialState {
		if e.Type == "" {
			return nil, merr.BadJSON("An event in initial_state has no type")
		}
		if len(e.Content) == 0 || e.Content[0] != '{' {
			return nil, merr.BadJSON("The content of an event in initial_state is not an object")
		}
	}
	return userList(q.Invite)
}

// userList parses user ids, each once.
func userList(in []string) ([]id.User, error) {
	var users []id.User
	for _, text := range in {
		u, err := id.ParseUser(text)
		if err != nil {
			return nil, merr.InvalidParam(err.Error())
		}
		if !slices.Contains(users, u) {
			users = append(users, u)
		}
	}
	return users, nil
}

// profilesOf returns what goes into the member events of users: the local profiles.
func (c *Rooms) profilesOf(ctx context.Context, users []id.User) (map[id.User]map[string]json.RawMessage, error) {
	ours := slices.DeleteFunc(slices.Clone(users), func(u id.User) bool { return !c.IsLocal(u) })
	found, err := c.Users.Profiles(ctx, ours)
	if err != nil {
		return nil, err
	}
	out := make(map[id.User]map[string]json.RawMessage, len(users))
	for _, u := range users {
		content := make(map[string]json.RawMessage)
		if p, ok := found[u]; ok {
			core.SetText(content, "displayname", p.Displayname)
			core.SetText(content, "avatar_url", p.AvatarURL)
		}
		out[u] = content
	}
	return out, nil
}

// reserveAlias takes an alias for a room that does not exist yet: 400 M_ROOM_IN_USE if there is one.
func (c *Rooms) reserveAlias(ctx context.Context, r *http.Request, name string) (id.Alias, error) {
	creator := core.Me(r).User
	alias, err := id.ParseAlias(string(id.NewAlias(name, creator.Server())))
	if err != nil || alias.Localpart() != name {
		return "", merr.InvalidParam("Room alias invalid")
	}
	if err := c.directory.MayCreate(r, alias); err != nil {
		return "", err
	}
	err = c.dir.Reserve(ctx, alias, creator)
	if errors.Is(err, roomdir.ErrTaken) {
		return "", merr.RoomInUse()
	}
	return alias, err
}

// make makes the room with one write, and then what lies elsewhere: the alias, and invites of other servers' users.
func (c *Rooms) make(ctx context.Context, q *createRequest, p *plan) (id.Room, error) {
	req, err := p.request(q)
	if err != nil {
		return "", err
	}
	room, err := c.found(ctx, req)
	if err != nil {
		if merr.HasCode(err, merr.CodeForbidden) && (len(q.InitialState) > 0 || q.PowerLevels != nil) {
			e, _ := merr.As(err)
			return "", merr.InvalidRoomState(e.Msg).WithCause(err)
		}
		return "", err
	}
	if p.alias != "" {
		if err := c.dir.Point(ctx, roomdir.Alias{Alias: p.alias, Room: room, Creator: p.creator}); err != nil {
			return "", err
		}
	}
	c.inviteRest(ctx, room, p)
	return room, nil
}

// found has a room worker make a room.
func (c *Rooms) found(ctx context.Context, req *roomv1.CreateRequest) (id.Room, error) {
	var resp *roomv1.CreateResponse
	req.OriginServerTs = time.Now().UnixMilli() // once for all tries: they make one room
	// Any worker takes the request; that of a random partition spreads them.
	err := roomowner.CallPart(ctx, c.Router, partition.Of(req.Cause.Key), func(ctx context.Context, rc roomv1.RoomClient) (err error) {
		resp, err = rc.Create(ctx, req)
		return err
	})
	if err != nil {
		return "", err
	}
	return id.ParseRoom(resp.RoomId)
}

// inviteRest invites those whom the first write did not. The room is there whatever comes of it: as the client could
// not tell which of the invites failed, it is told of none, and sees them missing in the room.
func (c *Rooms) inviteRest(ctx context.Context, room id.Room, p *plan) {
	var g errgroup.Group
	g.SetLimit(core.RoomsAtOnce)
	for _, u := range p.later {
		g.Go(func() error {
			if err := c.invite(ctx, room, p.creator, u, p.inviteContent(u)); err != nil {
				c.Log.InfoContext(ctx, "invite to a new room", "room", room, "user", u, "err", err)
			}
			return nil
		})
	}
	_ = g.Wait() // no function returns an error
}
