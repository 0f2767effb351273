package timeline

import (
	"context"
	"errors"
	"math"
	"net/http"
	"time"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	"hanse/pkg/roomowner"
	"hanse/pkg/state"
	roomv1 "hanse/proto/room/v1"
	"hanse/services/client/access"
	"hanse/services/client/core"
	"hanse/services/client/filter"
)

const (
	defaultMessages = 10
	maxMessages     = 1000
	// pageReads bounds the reads for one page of which a filter or the visibility rules leave nothing.
	pageReads = 6
	// pageBackfills bounds the requests for older history that one page makes.
	pageBackfills = 4
	// backfillTime is how long a page waits for other servers.
	backfillTime = 25 * time.Second
	// backfillEvents is how many events are asked of other servers at least.
	backfillEvents = 100
)

// messages answers GET /rooms/{roomId}/messages (client-server API, "Getting events for a room").
func (c *Timeline) messages(w http.ResponseWriter, r *http.Request) error {
	roomID, err := core.PathRoom(r)
	if err != nil {
		return err
	}
	back, err := direction(r)
	if err != nil {
		return err
	}
	f, err := filter.FromQuery(r)
	if err != nil {
		return err
	}
	limit, err := core.QueryLimit(r, f.Limit, defaultMessages, maxMessages)
	if err != nil {
		return err
	}
	ctx, user := r.Context(), core.Me(r).User
	a, err := c.access.ReadTimeline(ctx, user, roomID)
	if err != nil {
		return err
	}
	p := &pager{c: c, a: a, filter: f, back: back, limit: limit}
	if err := p.bounds(r.URL.Query().Get("from"), r.URL.Query().Get("to"), user); err != nil {
		return err
	}
	start := p.at
	if limit > 0 && f.WantsRoom(roomID) {
		if err := p.fetch(ctx); err != nil {
			return err
		}
	}
	events, err := c.renderTimeline(ctx, r, a, p.events)
	if err != nil {
		return err
	}
	members, err := c.lazyMembers(ctx, r, f, a.Room, p.events)
	if err != nil {
		return err
	}
	out := core.NewAnswer()
	out.List("chunk", events)
	out.Text("start", start.Token())
	if !p.finished() {
		out.Text("end", p.at.Token())
	}
	if len(members) > 0 {
		out.List("state", members)
	}
	return out.Send(w)
}

// pager reads a page of a timeline.
type pager struct {
	c      *Timeline
	a      *access.View
	filter *filter.Room
	back   bool
	limit  int
	// at is how far the page has got, to where it ends at the latest.
	at, to roomdb.Place
	// hole is the next one in the direction of reading, which was not passed; nil if there is none before the end. passed is the
	// position of the last one that was.
	hole   *roomdb.Hole
	passed int64
	events []*roomdb.Event
	// complete says that nothing is stored behind the page, unknown that there may be more elsewhere.
	complete, unknown bool
	read              int
	backfills         int
}

// bounds sets where the page begins and where it must end. A user who has left sees the room up to then.
func (p *pager) bounds(from, to string, user id.User) (err error) {
	newest := roomdb.At(p.a.Room.LastPos)
	if p.a.Left != nil {
		newest = min(newest, p.a.Reader.JoinedUntil)
	}
	p.at, p.to = roomdb.Start, newest
	if p.back {
		p.at, p.to, p.passed = newest, roomdb.Start, math.MaxInt64
	} else {
		p.passed = math.MinInt64
	}
	if from != "" {
		if p.at, err = position(p.a, from); err != nil {
			return err
		}
	}
	if to != "" {
		if p.to, err = position(p.a, to); err != nil {
			return err
		}
	}
	if p.back {
		p.at = min(p.at, newest)
	} else {
		p.to = min(p.to, newest)
	}
	return nil
}

// fetch reads a page. It ends at a hole in the timeline that cannot be filled, and so does not show what is behind as if it came
// next; a page that begins there goes on.
func (p *pager) fetch(ctx context.Context) error {
	if err := p.look(ctx); err != nil {
		return err
	}
	for range pageReads + pageBackfills {
		want := p.limit - len(p.events)
		batch, err := p.batch(ctx, want)
		switch {
		case err != nil:
			return err
		case len(batch) == want && len(p.events) > 0:
			return nil
		case len(batch) == want:
			continue
		case p.hole == nil:
			p.complete = true
			return nil
		}
		filled, err := p.fill(ctx)
		if err != nil {
			return err
		}
		if !filled && p.pass() && len(p.events) > 0 {
			return nil
		}
		if err := p.look(ctx); err != nil {
			return err
		}
	}
	return nil
}

// look finds the next hole on the way.
func (p *pager) look(ctx context.Context) (err error) {
	room := p.a.Room
	if p.back {
		p.hole, err = p.c.Rooms.HoleBefore(ctx, room.Part, room.NID, p.at, p.passed)
	} else {
		p.hole, err = p.c.Rooms.HoleBehind(ctx, room.Part, room.NID, p.at, p.passed)
	}
	if p.hole != nil && (p.back && p.hole.Low <= p.to || !p.back && p.hole.Low > p.to) {
		p.hole = nil // behind the end
	}
	return err
}

// pass leaves the hole behind, and says whether there is anything stored behind it.
func (p *pager) pass() bool {
	p.at, p.passed = p.hole.Low-1, p.hole.Pos
	return p.hole.Floor != roomdb.Start
}

// batch reads on, up to a hole, and keeps what the user is to see.
func (p *pager) batch(ctx context.Context, want int) ([]*roomdb.Event, error) {
	q := roomdb.TimelineQuery{After: p.at, UpTo: p.to, Limit: want, Filter: p.filter.Query()}
	if p.back {
		q.After, q.UpTo, q.Backwards = p.to, p.at, true
	}
	if p.hole != nil && p.back {
		q.After = p.hole.Low - 1
	} else if p.hole != nil {
		q.UpTo = p.hole.Low - 1
	}
	if q.After >= q.UpTo {
		return nil, nil
	}
	batch, err := p.c.Rooms.Timeline(ctx, p.a.Room.Part, p.a.Room.NID, q)
	if err != nil || len(batch) == 0 {
		return nil, err
	}
	p.read += len(batch)
	p.at = batch[len(batch)-1].Place()
	if p.back {
		p.at--
	}
	seen, err := p.c.access.Seen(ctx, p.a, batch)
	p.events = append(p.events, seen...)
	return batch, err
}

// fill is called at a hole: it asks other servers for what is missing there.
func (p *pager) fill(ctx context.Context) (filled bool, err error) {
	if p.a.Left != nil || p.a.Room.JoinedLocal == 0 {
		return false, nil
	}
	if p.backfills++; p.backfills > pageBackfills {
		p.unknown = true
		return false, nil
	}
	wait, cancel := context.WithTimeout(ctx, backfillTime)
	defer cancel()
	var resp *roomv1.BackfillResponse
	err = roomowner.CallPart(wait, p.c.Router, p.a.Room.Part, func(ctx context.Context, rc roomv1.RoomClient) (err error) {
		resp, err = rc.Backfill(ctx, &roomv1.BackfillRequest{RoomId: string(p.a.Room.ID), Limit: int32(max(p.limit, backfillEvents)), Hole: p.hole.Pos})
		return err
	})
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case err != nil:
		// The page is good without: its end leads on to what could not be had now.
		p.c.Log.InfoContext(ctx, "backfill", "room", p.a.Room.ID, "err", err)
		p.unknown = true
		return false, nil
	}
	p.unknown = resp.Stored == 0 && !resp.Complete
	return resp.Stored > 0, nil
}

// finished says that the page's end leads nowhere: the end is left out then. Forwards there may be more later, as long
// as the page has something.
func (p *pager) finished() bool {
	if !p.complete || p.unknown {
		return false
	}
	return p.back || p.read == 0
}

// lazyMembers returns the member events of those who sent the events, if the filter asks for lazy loading
// (client-server API, "Lazy-loading room members").
func (c *Timeline) lazyMembers(ctx context.Context, r *http.Request, f *filter.Room, room *roomdb.Room, events []*roomdb.Event) ([][]byte, error) {
	if !f.Lazy() || len(events) == 0 {
		return nil, nil
	}
	sid := events[0].SID
	if sid == 0 {
		sid = room.SID
	}
	m, err := c.Rooms.State(ctx, room.Part, sid)
	if err != nil {
		return nil, err
	}
	found, err := c.sendersIn(ctx, room, m, events)
	if err != nil {
		return nil, err
	}
	return c.render(ctx, r, found)
}

func (c *Timeline) sendersIn(ctx context.Context, room *roomdb.Room, m state.Map, events []*roomdb.Event) ([]*roomdb.Event, error) {
	seen := make(map[id.User]bool)
	var nids []int64
	for _, e := range events {
		if seen[e.Sender] {
			continue
		}
		seen[e.Sender] = true
		if nid, ok := m.Get(state.Key{Type: core.TypeMember, StateKey: string(e.Sender)}); ok {
			nids = append(nids, nid)
		}
	}
	return c.Rooms.InOrder(ctx, room.Part, nids)
}

// visibleEvent returns an event that the user may see and wants to; 404 for all others, so that nobody learns which exist.
func (c *Timeline) visibleEvent(ctx context.Context, a *access.View, eventID id.Event) (*roomdb.Event, error) {
	e, err := c.Rooms.EventByID(ctx, a.Room, eventID)
	if errors.Is(err, roomdb.ErrNotFound) || (err == nil && !e.Visible()) {
		return nil, merr.NotFound("Event not found.")
	}
	if err != nil {
		return nil, err
	}
	seen, err := c.access.Seen(ctx, a, []*roomdb.Event{e})
	if err != nil {
		return nil, err
	}
	if len(seen) == 0 {
		return nil, merr.NotFound("Event not found.")
	}
	return e, nil
}

// roomEvent answers GET /rooms/{roomId}/event/{eventId}: 404 for whoever may not see it.
func (c *Timeline) roomEvent(w http.ResponseWriter, r *http.Request) error {
	roomID, err := core.PathRoom(r)
	if err != nil {
		return err
	}
	eventID, err := core.PathEvent(r)
	if err != nil {
		return err
	}
	ctx := r.Context()
	a, err := c.access.ReadTimeline(ctx, core.Me(r).User, roomID)
	if merr.HasCode(err, merr.CodeForbidden) {
		return merr.NotFound("Event not found.")
	}
	if err != nil {
		return err
	}
	e, err := c.visibleEvent(ctx, a, eventID)
	if err != nil {
		return err
	}
	rendered, err := c.renderTimeline(ctx, r, a, []*roomdb.Event{e})
	if err != nil {
		return err
	}
	return httpx.Raw(w, http.StatusOK, rendered[0])
}

// writeEvent answers with one event of the state.
func (c *Timeline) writeEvent(w http.ResponseWriter, r *http.Request, e *roomdb.Event) error {
	rendered, err := c.render(r.Context(), r, []*roomdb.Event{e})
	if err != nil {
		return err
	}
	return httpx.Raw(w, http.StatusOK, rendered[0])
}
