package client

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
)

// allState answers GET /rooms/{roomId}/state.
func (c *Client) allState(w http.ResponseWriter, r *http.Request) error {
	roomID, err := pathRoom(r)
	if err != nil {
		return err
	}
	ctx := r.Context()
	a, err := c.readWhole(ctx, me(r).User, roomID)
	if err != nil {
		return err
	}
	m, err := c.state(ctx, a)
	if err != nil {
		return err
	}
	return c.sendState(w, r, a.room, `[`, m.All(), nil, `]`)
}

// getState answers GET /rooms/{roomId}/state/{eventType}/{stateKey}: the content, or with format=event the event.
func (c *Client) getState(w http.ResponseWriter, r *http.Request) error {
	roomID, err := pathRoom(r)
	if err != nil {
		return err
	}
	format := r.URL.Query().Get("format")
	if format != "" && format != "content" && format != "event" {
		return merr.InvalidParam("format must be content or event")
	}
	ctx := r.Context()
	a, err := c.read(ctx, me(r).User, roomID)
	if err != nil {
		return err
	}
	typ, key := param(r, "eventType"), param(r, "stateKey")
	m, err := c.state(ctx, a)
	if err != nil {
		return err
	}
	if typ == typeMember && a.room.Partial() && !m.Has(state.Key{Type: typ, StateKey: key}) {
		if a.room, err = c.whole(ctx, a.room); err != nil {
			return err
		}
		if m, err = c.state(ctx, a); err != nil {
			return err
		}
	}
	e, err := c.rooms.StateEvent(ctx, a.room.Part, m, typ, key)
	if err != nil {
		return err
	}
	if e == nil {
		return merr.NotFound("Event not found.")
	}
	if format == "event" {
		return c.writeEvent(w, r, e)
	}
	return writeRaw(w, e.Content)
}

var memberships = map[string]bool{join: true, leave: true, invite: true, ban: true, knock: true}

// roomMembers answers GET /rooms/{roomId}/members.
func (c *Client) roomMembers(w http.ResponseWriter, r *http.Request) error {
	roomID, err := pathRoom(r)
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
	ctx, user := r.Context(), me(r).User
	a, err := c.readWhole(ctx, user, roomID)
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
	return c.sendState(w, r, a.room, `{"chunk":[`, m.Type(typeMember), wanted, `]}`)
}

// stateAt is the state at a token, "" for now. A user who has left gets the state at that time at the latest.
func (c *Client) stateAt(ctx context.Context, a *access, at string) (state.Map, error) {
	if at == "" {
		return c.state(ctx, a)
	}
	place, err := a.position(at)
	if err != nil {
		return state.Map{}, err
	}
	if a.left != nil && place >= a.left.Place() {
		return c.state(ctx, a)
	}
	events, err := c.timeline(ctx, a, roomdb.TimelineQuery{After: roomdb.Start, UpTo: place, Backwards: true, Limit: 1})
	if err != nil {
		return state.Map{}, err
	}
	if len(events) == 0 {
		return state.Map{}, merr.NotFound("There is nothing of the room at this token")
	}
	seen, err := view.Visible(ctx, c.rooms, a.reader, events)
	if err != nil {
		return state.Map{}, err
	}
	if len(seen) == 0 {
		return state.Map{}, merr.Forbidden("You may not see the room as it was at this token")
	}
	// In a hole that was filled the state is that of the events there.
	if pos := place.Pos(); pos > 0 && place == roomdb.At(pos) && roomdb.WholeAt(a.room.FullPos, pos) {
		span, err := c.rooms.Span(ctx, a.room.Part, a.room.NID, 0, pos)
		if err != nil || span.After != 0 {
			m, stateErr := c.rooms.State(ctx, a.room.Part, span.After)
			if err == nil {
				err = stateErr
			}
			return m, err
		}
	}
	// Before all that happened while we were in the room, or when its members were not known: by the events themselves.
	m, err := c.rooms.State(ctx, a.room.Part, events[0].SID)
	if err == nil && events[0].IsState() {
		m = m.Set(state.Key(events[0].Tuple()), events[0].NID)
	}
	return m, err
}

// joinedMembers answers GET /rooms/{roomId}/joined_members, for members.
func (c *Client) joinedMembers(w http.ResponseWriter, r *http.Request) error {
	roomID, err := pathRoom(r)
	if err != nil {
		return err
	}
	ctx := r.Context()
	room, err := c.joined(ctx, me(r).User, roomID)
	if err != nil {
		return err
	}
	if room, err = c.whole(ctx, room); err != nil {
		return err
	}
	m, err := c.rooms.State(ctx, room.Part, room.SID)
	if err != nil {
		return err
	}
	return c.sendJoined(w, r, room, m)
}

// joinedRooms answers GET /joined_rooms.
func (c *Client) joinedRooms(w http.ResponseWriter, r *http.Request) error {
	rooms, err := c.users.JoinedRooms(r.Context(), me(r).User)
	if err != nil {
		return err
	}
	ids := make([]id.Room, len(rooms))
	for i, room := range rooms {
		ids[i] = room.Room
	}
	return httpx.OK(w, map[string]any{"joined_rooms": ids})
}
