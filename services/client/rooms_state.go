package client

import (
	"context"
	"encoding/json"
	"net/http"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
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
	events, err := c.rooms.StateEvents(ctx, a.room.Part, m.All())
	if err != nil {
		return err
	}
	rendered, err := c.render(ctx, r, events)
	if err != nil {
		return err
	}
	b := httpx.Buffer()
	writeList(b, rendered)
	return httpx.Send(w, b)
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
	events, err := c.rooms.StateEvents(ctx, a.room.Part, m.Type(typeMember))
	if err != nil {
		return err
	}
	wanted := events[:0:0]
	for _, e := range events {
		is := e.Membership()
		switch {
		case only == "" && not == "",
			only != "" && not != "" && (is == only || is != not), // either is enough, says the specification
			only != "" && not == "" && is == only,
			only == "" && not != "" && is != not:
			wanted = append(wanted, e)
		}
	}
	rendered, err := c.render(ctx, r, wanted)
	if err != nil {
		return err
	}
	out := newAnswer()
	out.list("chunk", rendered)
	return out.send(w)
}

// stateAt is the state at a token, "" for now. Who left sees nothing later than that.
func (c *Client) stateAt(ctx context.Context, a *access, at string) (state.Map, error) {
	if at == "" {
		return c.state(ctx, a)
	}
	pos, err := position(at, a.reader.User, a.room)
	if err != nil {
		return state.Map{}, err
	}
	if a.left != nil && pos >= a.left.Ord {
		return c.state(ctx, a)
	}
	if pos > 0 && roomdb.WholeAt(a.room.FullPos, pos) {
		_, sid, err := c.rooms.Span(ctx, a.room.Part, a.room.NID, 0, pos)
		if err != nil || sid != 0 {
			m, stateErr := c.rooms.State(ctx, a.room.Part, sid)
			if err == nil {
				err = stateErr
			}
			return m, err
		}
	}
	// Before all that happened while we were in the room, or when its members were not known: by the events themselves.
	events, err := c.timeline(ctx, a, roomdb.TimelineQuery{After: roomdb.Start, UpTo: pos, Backwards: true, Limit: 1})
	if err != nil || len(events) == 0 {
		return state.Map{}, err
	}
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
	events, err := c.rooms.StateEvents(ctx, room.Part, m.Type(typeMember))
	if err != nil {
		return err
	}
	type member struct {
		DisplayName *string `json:"display_name,omitempty"`
		AvatarURL   *string `json:"avatar_url,omitempty"`
	}
	joined := make(map[id.User]member, room.Joined)
	for _, e := range events {
		if e.Membership() != join {
			continue
		}
		name, avatar := profileIn(e.Content)
		joined[id.User(*e.StateKey)] = member{name, avatar}
	}
	return httpx.OK(w, map[string]any{"joined": joined})
}

// profileIn reads the profile in the content of a member event; other servers may have written anything there.
func profileIn(content []byte) (name, avatar *string) {
	var q struct {
		DisplayName json.RawMessage `json:"displayname"`
		AvatarURL   json.RawMessage `json:"avatar_url"`
	}
	if json.Unmarshal(content, &q) != nil {
		return nil, nil
	}
	text := func(raw json.RawMessage) *string {
		var s *string
		if len(raw) == 0 || json.Unmarshal(raw, &s) != nil {
			return nil
		}
		return s
	}
	return text(q.DisplayName), text(q.AvatarURL)
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
