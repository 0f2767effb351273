package timeline

import (
	"context"
	"net/http"

	"github.com/tidwall/gjson"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	"hanse/pkg/view"
	"hanse/services/client/access"
	"hanse/services/client/core"
)

// allState answers GET /rooms/{roomId}/state.
func (c *Timeline) allState(w http.ResponseWriter, r *http.Request) error {
	roomID, err := core.PathRoom(r)
	if err != nil {
		return err
	}
	ctx := r.Context()
	a, err := c.access.ReadWhole(ctx, core.Me(r).User, roomID)
	if err != nil {
		return err
	}
	m, err := c.access.State(ctx, a)
	if err != nil {
		return err
	}
	return c.sendState(w, r, a.Room, `[`, m.All(), nil, `]`)
}

// getState answers GET /rooms/{roomId}/state/{eventType}/{stateKey}: the content, or with format=event the event.
func (c *Timeline) getState(w http.ResponseWriter, r *http.Request) error {
	roomID, err := core.PathRoom(r)
	if err != nil {
		return err
	}
	format := r.URL.Query().Get("format")
	if format != "" && format != "content" && format != "event" {
		return merr.InvalidParam("format must be content or event")
	}
	ctx := r.Context()
	a, err := c.access.Read(ctx, core.Me(r).User, roomID)
	if err != nil {
		return err
	}
	typ, key := core.Param(r, "eventType"), core.Param(r, "stateKey")
	m, err := c.access.State(ctx, a)
	if err != nil {
		return err
	}
	if typ == core.TypeMember && a.Room.Partial() && !m.Has(state.Key{Type: typ, StateKey: key}) {
		if a.Room, err = c.access.Whole(ctx, a.Room); err != nil {
			return err
		}
		if m, err = c.access.State(ctx, a); err != nil {
			return err
		}
	}
	e, err := c.Rooms.StateEvent(ctx, a.Room.Part, m, typ, key)
	if err != nil {
		return err
	}
	if e == nil {
		return merr.NotFound("Event not found.")
	}
	if format == "event" {
		return c.writeEvent(w, r, e)
	}
	return httpx.Raw(w, http.StatusOK, e.Content)
}

var memberships = map[string]bool{core.Join: true, core.Leave: true, core.Invite: true, core.Ban: true, core.Knock: true}

// roomMembers answers GET /rooms/{roomId}/members.
func (c *Timeline) roomMembers(w http.ResponseWriter, r *http.Request) error {
	roomID, err := core.PathRoom(r)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	only, not := q.Get("membership"), q.Get("not_membership")
	for _, text := range []string{only, not} {
		if text != "" && !memberships[text] {
			return merr.InvalidParam("Not a membership: " + text)
		}
	}
	ctx, user := r.Context(), core.Me(r).User
	a, err := c.access.ReadWhole(ctx, user, roomID)
	if err != nil {
		return err
	}
	m, err := c.stateAt(ctx, a, q.Get("at"))
	if err != nil {
		return err
	}
	wanted := func(content []byte) bool {
		is := gjson.GetBytes(content, "membership").Str
		// If both are asked for, either is enough, says the specification.
		return only == "" && not == "" || only != "" && is == only || not != "" && is != not
	}
	return c.sendState(w, r, a.Room, `{"chunk":[`, m.Type(core.TypeMember), wanted, `]}`)
}

// stateAt is the state at a token, "" for now. A user who has left gets the state at that time at the latest.
func (c *Timeline) stateAt(ctx context.Context, a *access.View, at string) (state.Map, error) {
	if at == "" {
		return c.access.State(ctx, a)
	}
	place, err := position(a, at)
	if err != nil {
		return state.Map{}, err
	}
	if a.Left != nil && place >= a.Left.Place() {
		return c.access.State(ctx, a)
	}
	events, err := c.timeline(ctx, a, roomdb.TimelineQuery{After: roomdb.Start, UpTo: place, Backwards: true, Limit: 1})
	if err != nil {
		return state.Map{}, err
	}
	if len(events) == 0 {
		return state.Map{}, merr.NotFound("There is nothing of the room at this token")
	}
	seen, err := view.Visible(ctx, c.Rooms, a.Reader, events)
	if err != nil {
		return state.Map{}, err
	}
	if len(seen) == 0 {
		return state.Map{}, merr.Forbidden("You may not see the room as it was at this token")
	}
	// In a hole that was filled the state is that of the events there.
	if pos := place.Pos(); pos > 0 && place == roomdb.At(pos) && roomdb.WholeAt(a.Room.FullPos, pos) {
		span, err := c.Rooms.Span(ctx, a.Room.Part, a.Room.NID, 0, pos)
		if err != nil || span.After != 0 {
			m, stateErr := c.Rooms.State(ctx, a.Room.Part, span.After)
			if err == nil {
				err = stateErr
			}
			return m, err
		}
	}
	// Before all that happened while we were in the room, or when its members were not known: by the events themselves.
	m, err := c.Rooms.State(ctx, a.Room.Part, events[0].SID)
	if err == nil && events[0].IsState() {
		m = m.Set(state.Key(events[0].Tuple()), events[0].NID)
	}
	return m, err
}

// joinedMembers answers GET /rooms/{roomId}/joined_members, for members.
func (c *Timeline) joinedMembers(w http.ResponseWriter, r *http.Request) error {
	roomID, err := core.PathRoom(r)
	if err != nil {
		return err
	}
	ctx := r.Context()
	room, err := c.access.Joined(ctx, core.Me(r).User, roomID)
	if err != nil {
		return err
	}
	if room, err = c.access.Whole(ctx, room); err != nil {
		return err
	}
	m, err := c.Rooms.State(ctx, room.Part, room.SID)
	if err != nil {
		return err
	}
	return c.sendJoined(w, r, room, m)
}

// joinedRooms answers GET /joined_rooms.
func (c *Timeline) joinedRooms(w http.ResponseWriter, r *http.Request) error {
	rooms, err := c.Users.JoinedRooms(r.Context(), core.Me(r).User)
	if err != nil {
		return err
	}
	ids := make([]id.Room, len(rooms))
	for i, room := range rooms {
		ids[i] = room.Room
	}
	return httpx.OK(w, map[string]any{"joined_rooms": ids})
}
