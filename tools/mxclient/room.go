package mxclient

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
)

func esc(s string) string { return url.PathEscape(s) }

func roomPath(room string, rest ...string) string {
	p := v3 + "/rooms/" + esc(room)
	for _, r := range rest {
		p += "/" + esc(r)
	}
	return p
}

// NewRoom is the body of createRoom.
type NewRoom struct {
	Name            string         `json:"name,omitempty"`
	Topic           string         `json:"topic,omitempty"`
	Preset          string         `json:"preset,omitempty"`
	Visibility      string         `json:"visibility,omitempty"`
	AliasName       string         `json:"room_alias_name,omitempty"`
	RoomVersion     string         `json:"room_version,omitempty"`
	Invite          []string       `json:"invite,omitempty"`
	IsDirect        bool           `json:"is_direct,omitempty"`
	CreationContent map[string]any `json:"creation_content,omitempty"`
	InitialState    []StateEvent   `json:"initial_state,omitempty"`
	PowerLevels     map[string]any `json:"power_level_content_override,omitempty"`
}

// StateEvent is a state event to be.
type StateEvent struct {
	Type     string `json:"type"`
	StateKey string `json:"state_key"`
	Content  any    `json:"content"`
}

// Event is an event as the client API shows it.
type Event struct {
	EventID        string          `json:"event_id"`
	Type           string          `json:"type"`
	RoomID         string          `json:"room_id,omitempty"`
	Sender         string          `json:"sender"`
	StateKey       *string         `json:"state_key,omitempty"`
	OriginServerTS int64           `json:"origin_server_ts"`
	Content        json.RawMessage `json:"content"`
	Unsigned       json.RawMessage `json:"unsigned,omitempty"`
	Redacts        string          `json:"redacts,omitempty"`
}

// CreateRoom creates a room and returns its id.
func (c *Client) CreateRoom(ctx context.Context, r NewRoom) (string, error) {
	var out struct {
		RoomID string `json:"room_id"`
	}
	err := c.Do(ctx, Call{Method: http.MethodPost, Path: v3 + "/createRoom", Body: r, Out: &out})
	return out.RoomID, err
}

// Join joins a room by id or alias; via names servers to go through.
func (c *Client) Join(ctx context.Context, roomOrAlias string, via ...string) (string, error) {
	var out struct {
		RoomID string `json:"room_id"`
	}
	q := url.Values{}
	for _, v := range via {
		q.Add("via", v)
		q.Add("server_name", v) // its name before version 1.12
	}
	err := c.Do(ctx, Call{Method: http.MethodPost, Path: v3 + "/join/" + esc(roomOrAlias), Query: q, Out: &out})
	return out.RoomID, err
}

// Knock asks to be let in.
func (c *Client) Knock(ctx context.Context, roomOrAlias, reason string, via ...string) error {
	return c.Do(ctx, Call{Method: http.MethodPost, Path: v3 + "/knock/" + esc(roomOrAlias),
		Query: url.Values{"via": via, "server_name": via}, Body: map[string]string{"reason": reason}})
}

func (c *Client) membership(ctx context.Context, room, verb, user, reason string) error {
	body := map[string]string{}
	if user != "" {
		body["user_id"] = user
	}
	if reason != "" {
		body["reason"] = reason
	}
	return c.Do(ctx, Call{Method: http.MethodPost, Path: roomPath(room, verb), Body: body})
}

// Invite invites a user.
func (c *Client) Invite(ctx context.Context, room, user string) error {
	return c.membership(ctx, room, "invite", user, "")
}

// Leave leaves a room or rejects an invitation.
func (c *Client) Leave(ctx context.Context, room string) error {
	return c.membership(ctx, room, "leave", "", "")
}

// Forget forgets a room that was left.
func (c *Client) Forget(ctx context.Context, room string) error {
	return c.membership(ctx, room, "forget", "", "")
}

// Kick removes a user.
func (c *Client) Kick(ctx context.Context, room, user, reason string) error {
	return c.membership(ctx, room, "kick", user, reason)
}

// Ban bans a user.
func (c *Client) Ban(ctx context.Context, room, user, reason string) error {
	return c.membership(ctx, room, "ban", user, reason)
}

// Unban lifts a ban.
func (c *Client) Unban(ctx context.Context, room, user string) error {
	return c.membership(ctx, room, "unban", user, "")
}

// Send sends an event; the same transaction id gives the same event.
func (c *Client) Send(ctx context.Context, room, typ, txn string, content any) (eventID string, err error) {
	var raw []byte
	err = c.Do(ctx, Call{Method: http.MethodPut, Path: roomPath(room, "send", typ, txn), Body: content, Out: &raw})
	if err != nil {
		return "", err
	}
	return eventIDOf(raw)
}

// SendText sends a text message.
func (c *Client) SendText(ctx context.Context, room, txn, text string) (eventID string, err error) {
	return c.Send(ctx, room, "m.room.message", txn, map[string]string{"msgtype": "m.text", "body": text})
}

// SendState sets state.
func (c *Client) SendState(ctx context.Context, room, typ, key string, content any) (eventID string, err error) {
	var raw []byte
	err = c.Do(ctx, Call{Method: http.MethodPut, Path: roomPath(room, "state", typ, key), Body: content, Out: &raw})
	if err != nil {
		return "", err
	}
	return eventIDOf(raw)
}

// Redact redacts an event.
func (c *Client) Redact(ctx context.Context, room, event, txn, reason string) (eventID string, err error) {
	var raw []byte
	err = c.Do(ctx, Call{Method: http.MethodPut, Path: roomPath(room, "redact", event, txn),
		Body: map[string]string{"reason": reason}, Out: &raw})
	if err != nil {
		return "", err
	}
	return eventIDOf(raw)
}

func eventIDOf(raw []byte) (string, error) {
	var out struct {
		EventID string `json:"event_id"`
	}
	err := json.Unmarshal(raw, &out)
	return out.EventID, err
}

// State returns the room's current state.
func (c *Client) State(ctx context.Context, room string) ([]Event, error) {
	var out []Event
	err := c.Do(ctx, Call{Method: http.MethodGet, Path: roomPath(room, "state"), Out: &out})
	return out, err
}

// StateContent decodes the content of one piece of state into out.
func (c *Client) StateContent(ctx context.Context, room, typ, key string, out any) error {
	return c.Do(ctx, Call{Method: http.MethodGet, Path: roomPath(room, "state", typ, key), Out: out})
}

// StateEvent returns one piece of state as the whole event.
func (c *Client) StateEvent(ctx context.Context, room, typ, key string) (*Event, error) {
	var out Event
	err := c.Do(ctx, Call{Method: http.MethodGet, Path: roomPath(room, "state", typ, key), Query: url.Values{"format": {"event"}}, Out: &out})
	return &out, err
}

// Event returns one event.
func (c *Client) Event(ctx context.Context, room, event string) (*Event, error) {
	var out Event
	err := c.Do(ctx, Call{Method: http.MethodGet, Path: roomPath(room, "event", event), Out: &out})
	return &out, err
}

// Page is a part of a room's history.
type Page struct {
	Start string  `json:"start"`
	End   string  `json:"end"` // empty: there is no more
	Chunk []Event `json:"chunk"`
	State []Event `json:"state"`
}

// MessagesRequest asks for a page of history.
type MessagesRequest struct {
	Dir   string // b: newest first; f
	From  string // token; empty: from the end that Dir comes from
	To    string
	Limit int
}

// Messages returns a page of history.
func (c *Client) Messages(ctx context.Context, room string, r MessagesRequest) (*Page, error) {
	q := url.Values{"dir": {r.Dir}}
	if r.From != "" {
		q.Set("from", r.From)
	}
	if r.To != "" {
		q.Set("to", r.To)
	}
	if r.Limit > 0 {
		q.Set("limit", strconv.Itoa(r.Limit))
	}
	var out Page
	err := c.Do(ctx, Call{Method: http.MethodGet, Path: roomPath(room, "messages"), Query: q, Out: &out})
	return &out, err
}

// History returns the room's events from the newest back to the first, or until
// stop (may be nil) answers true for one, which is left out; oldest first.
func (c *Client) History(ctx context.Context, room, from string, stop func(*Event) bool) ([]Event, error) {
	var newestFirst []Event
pages:
	for {
		p, err := c.Messages(ctx, room, MessagesRequest{Dir: "b", From: from, Limit: 100})
		if err != nil {
			return nil, err
		}
		for i := range p.Chunk {
			if stop != nil && stop(&p.Chunk[i]) {
				break pages
			}
			newestFirst = append(newestFirst, p.Chunk[i])
		}
		if p.End == "" || p.End == from {
			break
		}
		from = p.End
	}
	for i, j := 0, len(newestFirst)-1; i < j; i, j = i+1, j-1 {
		newestFirst[i], newestFirst[j] = newestFirst[j], newestFirst[i]
	}
	return newestFirst, nil
}

// JoinedMembers returns the ids of the room's joined members.
func (c *Client) JoinedMembers(ctx context.Context, room string) (map[string]struct{}, error) {
	var out struct {
		Joined map[string]struct{} `json:"joined"`
	}
	err := c.Do(ctx, Call{Method: http.MethodGet, Path: roomPath(room, "joined_members"), Out: &out})
	return out.Joined, err
}

// JoinedRooms returns the ids of the rooms that the account is in.
func (c *Client) JoinedRooms(ctx context.Context) ([]string, error) {
	var out struct {
		JoinedRooms []string `json:"joined_rooms"`
	}
	err := c.Do(ctx, Call{Method: http.MethodGet, Path: v3 + "/joined_rooms", Out: &out})
	return out.JoinedRooms, err
}

// Typing says that the account types, for timeoutMS milliseconds, or no more.
func (c *Client) Typing(ctx context.Context, room string, typing bool, timeoutMS int) error {
	body := map[string]any{"typing": typing}
	if typing {
		body["timeout"] = timeoutMS
	}
	return c.Do(ctx, Call{Method: http.MethodPut, Path: roomPath(room, "typing", c.UserID), Body: body})
}

// Receipt acknowledges an event; kind is m.read, m.read.private or m.fully_read.
func (c *Client) Receipt(ctx context.Context, room, kind, event string) error {
	return c.Do(ctx, Call{Method: http.MethodPost, Path: roomPath(room, "receipt", kind, event)})
}
