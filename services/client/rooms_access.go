package client

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"

	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	"hanse/pkg/userdb"
	"hanse/pkg/view"
	roomv1 "hanse/proto/room/v1"
)

// Event types that this role looks at.
const (
	typeMember         = "m.room.member"
	typeCreate         = "m.room.create"
	typePowerLevels    = "m.room.power_levels"
	typeCanonicalAlias = "m.room.canonical_alias"
	typeVisibility     = "m.room.history_visibility"
	typeGuestAccess    = "m.room.guest_access"
	typeTombstone      = "m.room.tombstone"
	typeRedaction      = "m.room.redaction"
)

const (
	join   = "join"
	leave  = "leave"
	invite = "invite"
	ban    = "ban"
	knock  = "knock"
)

// access is what a user may read of a room (client-server API, "Room history visibility").
type access struct {
	room   *roomdb.Room
	reader view.Reader
	// membership is what the user is to the room now, "" for nothing.
	membership string
	// joined is the place of the user's present join, 0 if there is none.
	joined int64
	// left is the event by which the user left, for users who left.
	left *roomdb.Event
	// ignored is set by readTimeline.
	ignored view.Ignored
}

// errNotInRoom is what users hear who may not read a room, whether it exists or not.
func errNotInRoom() error { return merr.Forbidden("You aren't a member of the room.") }

// read returns what a user may read of a room: members all, those who left what was there until then, everybody what is
// open to the world. Others get 403 M_FORBIDDEN.
func (c *Client) read(ctx context.Context, user id.User, roomID id.Room) (*access, error) {
	m, err := c.users.Membership(ctx, user, roomID)
	if err != nil && !errors.Is(err, userdb.ErrNotFound) {
		return nil, err
	}
	room, err := c.rooms.Room(ctx, roomID)
	if errors.Is(err, roomdb.ErrNotFound) {
		return nil, errNotInRoom()
	}
	if err != nil {
		return nil, err
	}
	a := &access{room: room, reader: view.Reader{User: user}, membership: m.Membership}
	switch {
	case m.Membership == join:
		a.reader.Joined, a.joined = true, m.JoinPos
		return a, nil
	case (m.Membership == leave || m.Membership == ban) && !m.Forgotten:
		if err := c.wasMember(ctx, a, m.EventNID); err != nil {
			return nil, err
		}
	}
	world, err := c.worldReadable(ctx, room)
	switch {
	case err != nil:
		return nil, err
	case world:
		a.left = nil // who was a member sees no less than a stranger
	case a.left == nil:
		return nil, errNotInRoom()
	}
	return a, nil
}

// readTimeline is read for what shows events, which leave out what ignored users sent (client-server API, "Ignoring Users").
func (c *Client) readTimeline(ctx context.Context, user id.User, roomID id.Room) (*access, error) {
	a, err := c.read(ctx, user, roomID)
	if err != nil {
		return nil, err
	}
	ignored, err := c.users.AccountData(ctx, user, "", view.IgnoredUsers)
	if err != nil && !errors.Is(err, userdb.ErrNotFound) {
		return nil, err
	}
	a.ignored = view.ParseIgnored(ignored)
	return a, nil
}

// seen returns the events that the user may see and wants to, in their order.
func (c *Client) seen(ctx context.Context, a *access, events []*roomdb.Event) ([]*roomdb.Event, error) {
	return view.Visible(ctx, c.rooms, a.reader, a.ignored.Heed(events))
}

// readWhole is read for what cannot be said without the room's members: it waits for them if we joined without.
func (c *Client) readWhole(ctx context.Context, user id.User, roomID id.Room) (*access, error) {
	a, err := c.read(ctx, user, roomID)
	if err != nil {
		return nil, err
	}
	a.room, err = c.whole(ctx, a.room)
	return a, err
}

// whole waits for the members of a room that we joined without them.
func (c *Client) whole(ctx context.Context, room *roomdb.Room) (*roomdb.Room, error) {
	whole, err := c.rooms.AwaitWhole(ctx, room)
	if errors.Is(err, roomdb.ErrPartialState) {
		return nil, merr.Unavailable("The members of the room are still being fetched").WithCause(err)
	}
	return whole, err
}

// wasMember finds out until when somebody who is out of the room was in it.
func (c *Client) wasMember(ctx context.Context, a *access, nid int64) error {
	const steps = 16 // leave, ban, unban, invite, leave, ... before the last join
	for range steps {
		events, err := c.rooms.Events(ctx, a.room.Part, []int64{nid})
		if err != nil {
			return err
		}
		e := events[nid]
		if e == nil || e.SID == 0 || !e.Visible() {
			return nil // we were not in the room
		}
		m, err := c.rooms.State(ctx, e.Part, e.SID)
		if err != nil {
			return err
		}
		before, err := c.rooms.StateEvent(ctx, e.Part, m, typeMember, string(a.reader.User))
		if err != nil || before == nil {
			return err
		}
		if before.Membership() == join {
			a.left, a.reader.JoinedUntil = e, e.Place()
			return nil
		}
		nid = before.NID
	}
	return nil
}

func (c *Client) worldReadable(ctx context.Context, room *roomdb.Room) (bool, error) {
	if room.JoinedLocal == 0 {
		return false, nil // what we hold may be old
	}
	m, err := c.rooms.State(ctx, room.Part, room.SID)
	if err != nil {
		return false, err
	}
	e, err := c.rooms.StateEvent(ctx, room.Part, m, typeVisibility, "")
	if err != nil || e == nil {
		return false, err
	}
	return gjson.GetBytes(e.Content, "history_visibility").Str == "world_readable", nil
}

// joined returns a room for one of its members: 403 for others.
func (c *Client) joined(ctx context.Context, user id.User, roomID id.Room) (*roomdb.Room, error) {
	if err := c.mustBeJoined(ctx, user, roomID); err != nil {
		return nil, err
	}
	room, err := c.rooms.Room(ctx, roomID)
	if errors.Is(err, roomdb.ErrNotFound) {
		return nil, errNotInRoom()
	}
	return room, err
}

func (c *Client) mustBeJoined(ctx context.Context, user id.User, roomID id.Room) error {
	m, err := c.users.Membership(ctx, user, roomID)
	if errors.Is(err, userdb.ErrNotFound) || (err == nil && m.Membership != join) {
		return errNotInRoom()
	}
	return err
}

// state is the room's state as the user may see it: the current one, or that at which they left.
func (c *Client) state(ctx context.Context, a *access) (state.Map, error) {
	if a.left == nil {
		return c.rooms.State(ctx, a.room.Part, a.room.SID)
	}
	m, err := c.rooms.State(ctx, a.room.Part, a.left.SID)
	if err != nil {
		return m, err
	}
	return m.Set(state.Key(a.left.Tuple()), a.left.NID), nil
}

// powers returns what decides who may do what in a room: its create event and power levels.
func (c *Client) powers(ctx context.Context, room *roomdb.Room) (auth.Events, error) {
	m, err := c.rooms.State(ctx, room.Part, room.SID)
	if err != nil {
		return nil, err
	}
	var found auth.Events
	for _, typ := range []string{typeCreate, typePowerLevels} {
		e, err := c.rooms.StateEvent(ctx, room.Part, m, typ, "")
		if err != nil {
			return nil, err
		}
		if e != nil {
			found = append(found, e.PDU)
		}
	}
	return found, nil
}

// maySet says whether the power of a user is enough for a state event.
func maySet(user id.User, typ string, st auth.Lookup) bool {
	required, err := auth.PowerLevelsOf(st).Required(typ, true)
	return err == nil && auth.PowerOf(user, st) >= required
}

// cause is a new one: requests without a transaction id are repeated only by the router.
func newCause(user id.User) *roomv1.Cause {
	return &roomv1.Cause{UserId: string(user), Key: rand.Text()}
}

// pathEvent parses an event id in the path; one that cannot exist is not found.
func pathEvent(r *http.Request) (id.Event, error) {
	e, err := id.ParseEvent(param(r, "eventId"))
	if err != nil {
		return "", merr.NotFound("Event not found.")
	}
	return e, nil
}
