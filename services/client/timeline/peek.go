package timeline

import (
	"net/http"
	"slices"

	"hanse/pkg/roomdb"
	"hanse/services/client/core"
	"hanse/services/client/directory"
	"hanse/services/client/filter"
)

// defaultPeek is how many events roomInitialSync shows if the client does not say.
const defaultPeek = 20

// roomInitialSync answers GET /rooms/{roomId}/initialSync, which clients use to look into a room that they are not in (client-server
// API, "Room Previews"): the newest messages, the oldest of them first, and the state. Who may not look gets 403 M_FORBIDDEN: clients
// show a button to join then. Rooms' account data is in /sync.
func (c *Timeline) roomInitialSync(w http.ResponseWriter, r *http.Request) error {
	roomID, err := core.PathRoom(r)
	if err != nil {
		return err
	}
	limit, err := core.QueryLimit(r, nil, defaultPeek, maxMessages)
	if err != nil {
		return err
	}
	ctx, user := r.Context(), core.Me(r).User
	a, err := c.access.ReadTimeline(ctx, user, roomID)
	if err != nil {
		return err
	}
	if a.Room, err = c.access.Whole(ctx, a.Room); err != nil {
		return err
	}
	p := &pager{c: c, a: a, filter: &filter.Room{}, back: true, limit: limit}
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
	m, err := c.access.State(ctx, a)
	if err != nil {
		return err
	}
	out := core.NewAnswer()
	out.Text("room_id", string(roomID))
	if a.Membership != "" {
		out.Text("membership", a.Membership)
	}
	out.Text("visibility", directory.Visibility(a.Room))
	out.Raw("messages", messages)
	out.List("receipts", nil)
	out.List("presence", nil)
	out.List("account_data", nil)
	out.Key("state")
	return c.sendState(w, r, a.Room, out.Begun()+`[`, m.All(), nil, `]}`)
}

// messageChunk writes a page, whose events are in the order of time, up to a place (PaginationChunk).
func (c *Timeline) messageChunk(r *http.Request, p *pager, end roomdb.Place) ([]byte, error) {
	events, err := c.renderTimeline(r.Context(), r, p.a, p.events)
	if err != nil {
		return nil, err
	}
	out := core.NewAnswer()
	out.List("chunk", events)
	if !p.finished() {
		out.Text("start", p.at.Token())
	}
	out.Text("end", end.Token())
	return out.Object(), nil
}
