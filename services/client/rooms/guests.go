package rooms

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/tidwall/gjson"
	"golang.org/x/sync/errgroup"

	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	"hanse/pkg/roomowner"
	"hanse/pkg/userdb"
	roomv1 "hanse/proto/room/v1"
	"hanse/services/client/access"
	"hanse/services/client/core"
	"hanse/services/client/directory"
)

// guestStep is how many members are looked at at a time when guests are removed.
const guestStep = 1000

// admitsGuests says whether a room that we are in lets guests join (client-server API, "Guest Access", "Server behaviour");
// known is false for other rooms.
func (c *Rooms) admitsGuests(ctx context.Context, roomID id.Room) (admits, known bool, err error) {
	room, err := c.Rooms.Room(ctx, roomID)
	if errors.Is(err, roomdb.ErrNotFound) || err == nil && room.JoinedLocal == 0 {
		return false, false, nil
	}
	if err != nil {
		return false, false, err
	}
	content, err := c.stateContent(ctx, roomID, core.TypeGuestAccess)
	return gjson.GetBytes(content, "guest_access").Str == "can_join", true, err
}

// guestsMayBe refuses guests, unless the room is one of ours that admits them.
func (c *Rooms) guestsMayBe(r *http.Request, roomID id.Room) error {
	if !core.Me(r).Guest {
		return nil
	}
	admits, _, err := c.admitsGuests(r.Context(), roomID)
	if err == nil && !admits {
		err = merr.GuestAccessForbidden()
	}
	return err
}

// guestsMayJoin refuses guests, unless the room admits them. Of a room that only others are in they are asked.
func (c *Rooms) guestsMayJoin(r *http.Request, t directory.Target) error {
	if !core.Me(r).Guest {
		return nil
	}
	admits, known, err := c.admitsGuests(r.Context(), t.Room)
	if err != nil {
		return err
	}
	if !known {
		if admits, err = c.directory.AdmitsGuests(r.Context(), c.Server(r), core.Me(r).User, t); err != nil {
			return err
		}
	}
	if !admits {
		return merr.GuestAccessForbidden()
	}
	return nil
}

// stillWelcome takes a guest out of a room again that does not admit guests after all: what other servers said of it was not
// so, or is not so any more.
func (c *Rooms) stillWelcome(ctx context.Context, user id.User, roomID id.Room) error {
	admits, known, err := c.admitsGuests(ctx, roomID)
	if err != nil || admits && known {
		return err
	}
	if err := c.leaveFor(ctx, user, roomID, access.NewCause(user)); err != nil {
		return err
	}
	return merr.GuestAccessForbidden()
}

func (c *Rooms) leaveFor(ctx context.Context, user id.User, roomID id.Room, cause *roomv1.Cause) error {
	return roomowner.Call(ctx, c.Router, roomID, func(ctx context.Context, rc roomv1.RoomClient) error {
		_, err := rc.Leave(ctx, &roomv1.LeaveRequest{RoomId: string(roomID), UserId: string(user), Content: []byte(`{}`), Cause: cause})
		return err
	})
}

// removeGuests makes our guests leave a room that does not admit them any more.
func (c *Rooms) removeGuests(ctx context.Context, t userdb.Task) error {
	roomID := id.Room(t.User)
	admits, known, err := c.admitsGuests(ctx, roomID)
	if err != nil || admits || !known {
		return err
	}
	room, err := c.Rooms.Room(ctx, roomID)
	if err != nil {
		return err
	}
	m, err := c.Rooms.State(ctx, room.Part, room.SID)
	if err != nil {
		return err
	}
	members := make(map[int64]id.User)
	var nids []int64
	for key, nid := range m.Type(core.TypeMember) {
		if user := id.User(key.StateKey); c.IsLocal(user) {
			members[nid], nids = user, append(nids, nid)
		}
	}
	for some := range slices.Chunk(nids, guestStep) {
		is, err := c.Rooms.Memberships(ctx, room.Key(), some)
		if err != nil {
			return err
		}
		var users []id.User
		for _, nid := range some {
			if is[nid] == core.Join || is[nid] == core.Invite {
				users = append(users, members[nid])
			}
		}
		if err := c.removeThose(ctx, roomID, users, t); err != nil {
			return err
		}
	}
	return nil
}

// removeThose makes those of the users leave who are guests.
func (c *Rooms) removeThose(ctx context.Context, roomID id.Room, users []id.User, t userdb.Task) error {
	guests, err := c.Users.Guests(ctx, users)
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(core.RoomsAtOnce)
	for _, user := range guests {
		g.Go(func() error {
			cause := &roomv1.Cause{UserId: string(user), Key: fmt.Sprintf("guests/%d", t.Version)}
			return core.PassOver(c.leaveFor(ctx, user, roomID, cause))
		})
	}
	return g.Wait()
}
