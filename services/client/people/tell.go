package people

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomowner"
	"hanse/pkg/userdb"
	roomv1 "hanse/proto/room/v1"
	"hanse/services/client/core"
)

// tellProfile puts the present profile into the member events of the user's rooms. A room that refuses it (somebody
// was banned meanwhile) is passed over, as Synapse does.
func (c *People) tellProfile(ctx context.Context, t userdb.Task) error {
	p, err := c.Users.Profile(ctx, t.User)
	if errors.Is(err, userdb.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	rooms, err := c.Users.JoinedRooms(ctx, t.User)
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(core.RoomsAtOnce)
	for _, r := range rooms {
		g.Go(func() error { return core.PassOver(c.tellProfileTo(ctx, t, p, r)) })
	}
	return g.Wait()
}

func (c *People) tellProfileTo(ctx context.Context, t userdb.Task, p userdb.Profile, r userdb.JoinedRoom) error {
	content, err := c.memberContent(ctx, r.Room, t.User)
	if err != nil {
		return err
	}
	core.SetText(content, "displayname", p.Displayname)
	core.SetText(content, "avatar_url", p.AvatarURL)
	// The authoriser of a restricted join is not asked again: we are in the room already (room versions 8 and later).
	delete(content, "join_authorised_via_users_server")
	raw, err := json.Marshal(content)
	if err != nil {
		return err
	}
	key := string(t.User)
	return roomowner.CallPart(ctx, c.Router, r.Part, func(ctx context.Context, rc roomv1.RoomClient) error {
		_, err := rc.Send(ctx, &roomv1.SendRequest{
			RoomId: string(r.Room),
			Events: []*roomv1.EventIntent{{Type: "m.room.member", StateKey: &key, Content: raw, Sender: string(t.User)}},
			Cause:  &roomv1.Cause{UserId: string(t.User), Key: fmt.Sprintf("profile/%d", t.Version)},
		})
		return err
	})
}

// memberContent returns the content of a user's own member event in a room that they are in.
func (c *People) memberContent(ctx context.Context, roomID id.Room, user id.User) (map[string]json.RawMessage, error) {
	room, err := c.Rooms.Room(ctx, roomID)
	if err != nil {
		return nil, err
	}
	m, err := c.Rooms.State(ctx, room.Part, room.SID)
	if err != nil {
		return nil, err
	}
	ev, err := c.Rooms.StateEvent(ctx, room.Part, m, "m.room.member", string(user))
	if err != nil {
		return nil, err
	}
	content := make(map[string]json.RawMessage)
	if err := json.Unmarshal(ev.Content, &content); err != nil {
		return nil, fmt.Errorf("member event: %w", err)
	}
	if ev.Membership() != "join" {
		return nil, merr.Forbidden("not in the room any more")
	}
	return content, nil
}
