package access

import (
	"context"
	"errors"

	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	"hanse/pkg/userdb"
	"hanse/pkg/view"
	"hanse/services/client/core"
)

// Access knows what users may do in rooms.
type Access struct{ *core.Core }

// New makes an Access.
func New(c *core.Core) *Access { return &Access{c} }

// View is what a user may read of a room (client-server API, "Room history visibility").
type View struct {
	Room   *roomdb.Room
	Reader view.Reader
	// Membership is what the user is to the room now, "" for nothing.
	Membership string
	// Joined is the place of the user's present join, 0 if there is none.
	Joined int64
	// Left is the event by which the user left, for users who left.
	Left *roomdb.Event
	// Ignored is set by ReadTimeline.
	Ignored view.Ignored
}

// ErrNotInRoom is what users hear who may not read a room, whether it exists or not.
func ErrNotInRoom() error { return merr.Forbidden("You aren't a member of the room.") }

// Read returns what a user may read of a room: members all, those who left what was there until then, everybody what is
// open to the world. Others get 403 M_FORBIDDEN.
func (c *Access) Read(ctx context.Context, user id.User, roomID id.Room) (*View, error) {
	m, err := c.Users.Membership(ctx, user, roomID)
	if err != nil && !errors.Is(err, userdb.ErrNotFound) {
		return nil, err
	}
	room, err := c.Rooms.Room(ctx, roomID)
	if errors.Is(err, roomdb.ErrNotFound) {
		return nil, ErrNotInRoom()
	}
	if err != nil {
		return nil, err
	}
	a := &View{Room: room, Reader: view.Reader{User: user}, Membership: m.Membership}
	switch {
	case m.Membership == core.Join:
		a.Reader.Joined, a.Joined = true, m.JoinPos
		return a, nil
	case (m.Membership == core.Leave || m.Membership == core.Ban) && !m.Forgotten:
		if err := c.wasMember(ctx, a, m.EventNID); err != nil {
			return nil, err
		}
	}
	world, err := c.worldReadable(ctx, room)
	switch {
	case err != nil:
		return nil, err
	case world:
		a.Left = nil // who was a member sees no less than a stranger
	case a.Left == nil:
		return nil, ErrNotInRoom()
	}
	return a, nil
}

// ReadTimeline is Read for what shows events, which leave out what ignored users sent (client-server API, "Ignoring Users").
func (c *Access) ReadTimeline(ctx context.Context, user id.User, roomID id.Room) (*View, error) {
	a, err := c.Read(ctx, user, roomID)
	if err != nil {
		return nil, err
	}
	ignored, err := c.Users.AccountData(ctx, user, "", view.IgnoredUsers)
	if err != nil && !errors.Is(err, userdb.ErrNotFound) {
		return nil, err
	}
	a.Ignored = view.ParseIgnored(ignored)
	return a, nil
}

// Seen returns the events that the user may see and wants to, in their order.
func (c *Access) Seen(ctx context.Context, a *View, events []*roomdb.Event) ([]*roomdb.Event, error) {
	return view.Visible(ctx, c.Rooms, a.Reader, a.Ignored.Heed(events))
}

// ReadWhole is Read for what cannot be said without the room's members: it waits for them if we joined without.
func (c *Access) ReadWhole(ctx context.Context, user id.User, roomID id.Room) (*View, error) {
	a, err := c.Read(ctx, user, roomID)
	if err != nil {
		return nil, err
	}
	a.Room, err = c.Whole(ctx, a.Room)
	return a, err
}

// Whole waits for the members of a room that we joined without them.
func (c *Access) Whole(ctx context.Context, room *roomdb.Room) (*roomdb.Room, error) {
	whole, err := c.Rooms.AwaitWhole(ctx, room)
	if errors.Is(err, roomdb.ErrPartialState) {
		return nil, merr.Unavailable("The members of the room are still being fetched").WithCause(err)
	}
	return whole, err
}

// wasMember finds out until when somebody who is out of the room was in it.
func (c *Access) wasMember(ctx context.Context, a *View, nid int64) error {
	const steps = 16 // leave, ban, unban, invite, leave, ... before the last join
	for range steps {
		events, err := c.Rooms.Events(ctx, a.Room.Part, []int64{nid})
		if err != nil {
			return err
		}
		e := events[nid]
		if e == nil || e.SID == 0 || !e.Visible() {
			return nil // we were not in the room
		}
		m, err := c.Rooms.State(ctx, e.Part, e.SID)
		if err != nil {
			return err
		}
		before, err := c.Rooms.StateEvent(ctx, e.Part, m, core.TypeMember, string(a.Reader.User))
		if err != nil || before == nil {
			return err
		}
		if before.Membership() == core.Join {
			a.Left, a.Reader.JoinedUntil = e, e.Place()
			return nil
		}
		nid = before.NID
	}
	return nil
}

func (c *Access) worldReadable(ctx context.Context, room *roomdb.Room) (bool, error) {
	if room.JoinedLocal == 0 {
		return false, nil // what we hold may be old
	}
	m, err := c.Rooms.State(ctx, room.Part, room.SID)
	if err != nil {
		return false, err
	}
	e, err := c.Rooms.StateEvent(ctx, room.Part, m, core.TypeVisibility, "")
	if err != nil || e == nil {
		return false, err
	}
	return gjson.GetBytes(e.Content, "history_visibility").Str == "world_readable", nil
}

// Joined returns a room for one of its members: 403 for others.
func (c *Access) Joined(ctx context.Context, user id.User, roomID id.Room) (*roomdb.Room, error) {
	if err := c.MustBeJoined(ctx, user, roomID); err != nil {
		return nil, err
	}
	room, err := c.Rooms.Room(ctx, roomID)
	if errors.Is(err, roomdb.ErrNotFound) {
		return nil, ErrNotInRoom()
	}
	return room, err
}

// MustBeJoined refuses who is not in a room: 403.
func (c *Access) MustBeJoined(ctx context.Context, user id.User, roomID id.Room) error {
	m, err := c.Users.Membership(ctx, user, roomID)
	if errors.Is(err, userdb.ErrNotFound) || (err == nil && m.Membership != core.Join) {
		return ErrNotInRoom()
	}
	return err
}

// State is the room's state as the user may see it: the current one, or that at which they left.
func (c *Access) State(ctx context.Context, a *View) (state.Map, error) {
	if a.Left == nil {
		return c.Rooms.State(ctx, a.Room.Part, a.Room.SID)
	}
	m, err := c.Rooms.State(ctx, a.Room.Part, a.Left.SID)
	if err != nil {
		return m, err
	}
	return m.Set(state.Key(a.Left.Tuple()), a.Left.NID), nil
}

// Powers returns what decides who may do what in a room: its create event and power levels.
func (c *Access) Powers(ctx context.Context, room *roomdb.Room) (auth.Events, error) {
	m, err := c.Rooms.State(ctx, room.Part, room.SID)
	if err != nil {
		return nil, err
	}
	var found auth.Events
	for _, typ := range []string{core.TypeCreate, core.TypePowerLevels} {
		e, err := c.Rooms.StateEvent(ctx, room.Part, m, typ, "")
		if err != nil {
			return nil, err
		}
		if e != nil {
			found = append(found, e.PDU)
		}
	}
	return found, nil
}

// MaySet says whether the power of a user is enough for a state event.
func MaySet(user id.User, typ string, st auth.Lookup) bool {
	required, err := auth.PowerLevelsOf(st).Required(typ, true)
	return err == nil && auth.PowerOf(user, st) >= required
}
