package client

import (
	"net/http"
	"slices"

	"hanse/pkg/roomdb"
)

// defaultPeek is how many events roomInitialSync shows if the client does not say.
const defaultPeek = 20

// roomInitialSync answers GET /rooms/{roomId}/initialSync, which clients use to look into a room that they are not in (client-server
// API, "Room Previews"): the newest messages, the oldest of them first, and the state. Who may not look gets 403 M_FORBIDDEN: clients
// show a button to join then. Rooms' account data is in /sync.
func (c *Client) roomInitialSync(w http.ResponseWriter, r *http.Request) error {
	roomID, err := pathRoom(r)
	if err != nil {
		return err
	}
	limit, err := queryLimit(r, nil, defaultPeek, maxMessages)
	if err != nil {
		return err
	}
	ctx, user := r.Context(), me(r).User
	a, err := c.readTimeline(ctx, user, roomID)
	if err != nil {
		return err
	}
	if a.room, err = c.whole(ctx, a.room); err != nil {
		return err
	}
	p := &pager{c: c, a: a, filter: &roomEventFilter{}, back: true, limit: limit}
	if err := p.bounds("", "", user); err != nil {
		return err
	}
	end := p.at
	if limit > 0 {
		if err := p.fetch(ctx); err != nil {
			return err
		}
	}
	slices.Reverse(p.events)
	messages, err := c.messageChunk(r, p, end)
	if err != nil {
		return err
	}
	m, err := c.state(ctx, a)
	if err != nil {
		return err
	}
	out := newAnswer()
	out.text("room_id", string(roomID))
	if a.membership != "" {
		out.text("membership", a.membership)
	}
	out.text("visibility", visibilityOf(a.room))
	out.raw("messages", messages)
	out.list("receipts", nil)
	out.list("presence", nil)
	out.list("account_data", nil)
	out.key("state")
	return c.sendState(w, r, a.room, out.b.String()+`[`, m.All(), nil, `]}`)
}

// messageChunk writes a page, whose events are in the order of time, up to a place (PaginationChunk).
func (c *Client) messageChunk(r *http.Request, p *pager, end roomdb.Place) ([]byte, error) {
	events, err := c.renderTimeline(r.Context(), r, p.a, p.events)
	if err != nil {
		return nil, err
	}
	out := newAnswer()
	out.list("chunk", events)
	if !p.finished() {
		out.text("start", p.at.Token())
	}
	out.text("end", end.Token())
	out.b.WriteByte('}')
	return out.b.Bytes(), nil
}
