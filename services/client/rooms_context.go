package client

import (
	"context"
	"errors"
	"math"
	"net/http"
	"slices"
	"strconv"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

const (
	defaultContext = 10
	maxContext     = 100
)

func isNotFound(err error) bool { return errors.Is(err, roomdb.ErrNotFound) }

func writeRaw(w http.ResponseWriter, b []byte) error { return httpx.Raw(w, http.StatusOK, b) }

// eventContext answers GET /rooms/{roomId}/context/{eventId} (client-server API, "Event Context").
func (c *Client) eventContext(w http.ResponseWriter, r *http.Request) error {
	roomID, err := pathRoom(r)
	if err != nil {
		return err
	}
	eventID, err := pathEvent(r)
	if err != nil {
		return err
	}
	f, err := queryFilter(r)
	if err != nil {
		return err
	}
	limit, err := queryLimit(r, f, defaultContext, maxContext)
	if err != nil {
		return err
	}
	ctx := r.Context()
	a, err := c.readTimeline(ctx, me(r).User, roomID)
	if err != nil {
		return err
	}
	if !f.lazy() { // the state that is asked for has all members
		if a.room, err = c.whole(ctx, a.room); err != nil {
			return err
		}
	}
	e, err := c.visibleEvent(ctx, a, eventID)
	if err != nil {
		return err
	}
	// Half of the limit each; what is odd goes to what came after.
	before, start, err := c.around(ctx, a, f, e.Place(), limit/2, true)
	if err != nil {
		return err
	}
	after, end, err := c.around(ctx, a, f, e.Place(), limit-limit/2, false)
	if err != nil {
		return err
	}
	all := append(append(slices.Clone(before), e), after...)
	last := all[len(all)-1]
	states, err := c.contextState(ctx, a, f, last, all)
	if err != nil {
		return err
	}
	told, err := c.renderTimeline(ctx, r, a, all)
	if err != nil {
		return err
	}
	rendered, err := c.render(ctx, r, states)
	if err != nil {
		return err
	}
	out := newAnswer()
	out.list("events_before", told[:len(before)])
	out.raw("event", told[len(before)])
	out.list("events_after", told[len(before)+1:])
	out.list("state", rendered)
	out.text("start", start.Token())
	out.text("end", end.Token())
	return out.send(w)
}

// around returns events before or after that at a place, up to a hole, that the user is to see, and the place at which to go on.
func (c *Client) around(ctx context.Context, a *access, f *roomEventFilter, at roomdb.Place, n int, back bool) ([]*roomdb.Event, roomdb.Place, error) {
	q := roomdb.TimelineQuery{After: at, UpTo: roomdb.End, Limit: n, Filter: f.query()}
	if back {
		at--
		q.After, q.UpTo, q.Backwards = roomdb.Start, at, true
	}
	if n == 0 || !f.wantsRoom(a.room.ID) {
		return nil, at, nil
	}
	if back {
		hole, err := c.rooms.HoleBefore(ctx, a.room.Part, a.room.NID, at, math.MaxInt64)
		if err != nil {
			return nil, at, err
		}
		if hole != nil {
			q.After = hole.Low - 1
		}
	} else {
		hole, err := c.rooms.HoleBehind(ctx, a.room.Part, a.room.NID, at, math.MinInt64)
		if err != nil {
			return nil, at, err
		}
		if hole != nil {
			q.UpTo = hole.Low - 1
		}
	}
	if q.After >= q.UpTo {
		return nil, at, nil
	}
	events, err := c.rooms.Timeline(ctx, a.room.Part, a.room.NID, q)
	if err != nil || len(events) == 0 {
		return nil, at, err
	}
	at = events[len(events)-1].Place()
	if back {
		at--
	}
	events, err = c.seen(ctx, a, events)
	return events, at, err
}

// contextState is the state at the last event, as far as the filter asks for it.
func (c *Client) contextState(ctx context.Context, a *access, f *roomEventFilter, last *roomdb.Event, shown []*roomdb.Event) ([]*roomdb.Event, error) {
	m, err := c.rooms.State(ctx, a.room.Part, last.SID)
	if err != nil {
		return nil, err
	}
	if last.IsState() {
		m = m.Set(state.Key(last.Tuple()), last.NID)
	}
	var nids []int64
	for key, nid := range m.All() {
		if !f.lazy() || key.Type != typeMember {
			nids = append(nids, nid)
		}
	}
	events, err := c.rooms.InOrder(ctx, a.room.Part, nids)
	if err != nil {
		return nil, err
	}
	if f.lazy() {
		members, err := c.sendersIn(ctx, a.room, m, shown)
		if err != nil {
			return nil, err
		}
		events = append(events, members...)
	}
	return slices.DeleteFunc(events, func(e *roomdb.Event) bool { return !f.wants(e.PDU) }), nil
}

// timestampToEvent answers GET /v1/rooms/{roomId}/timestamp_to_event (client-server API, "Getting an event ID by
// timestamp"): the event closest to a time, at or after it (dir=f) or at or before it (dir=b).
func (c *Client) timestampToEvent(w http.ResponseWriter, r *http.Request) error {
	roomID, err := pathRoom(r)
	if err != nil {
		return err
	}
	text := r.URL.Query().Get("ts")
	if text == "" {
		return merr.MissingParam("ts")
	}
	ts, err := strconv.ParseInt(text, 10, 64)
	if err != nil || ts < 0 || ts > canonjson.MaxInt {
		return merr.InvalidParam("ts must be a time in milliseconds")
	}
	back, err := direction(r)
	if err != nil {
		return err
	}
	ctx := r.Context()
	a, err := c.read(ctx, me(r).User, roomID)
	if err != nil {
		return err
	}
	at, err := c.atTime(ctx, a, ts, back)
	if err != nil {
		return err
	}
	if at == nil {
		return merr.NotFound("Unable to find event from " + text + " in the given direction")
	}
	return httpx.OK(w, at)
}

func (c *Client) timeline(ctx context.Context, a *access, q roomdb.TimelineQuery) ([]*roomdb.Event, error) {
	return c.rooms.Timeline(ctx, a.room.Part, a.room.NID, q)
}
