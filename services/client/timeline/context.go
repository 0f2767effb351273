package timeline

import (
	"context"
	"math"
	"net/http"
	"slices"
	"strconv"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	"hanse/services/client/access"
	"hanse/services/client/core"
	"hanse/services/client/filter"
)

const (
	defaultContext = 10
	maxContext     = 100
)

// eventContext answers GET /rooms/{roomId}/context/{eventId} (client-server API, "Event Context").
func (c *Timeline) eventContext(w http.ResponseWriter, r *http.Request) error {
	roomID, err := core.PathRoom(r)
	if err != nil {
		return err
	}
	eventID, err := core.PathEvent(r)
	if err != nil {
		return err
	}
	f, err := filter.FromQuery(r)
	if err != nil {
		return err
	}
	limit, err := core.QueryLimit(r, f.Limit, defaultContext, maxContext)
	if err != nil {
		return err
	}
	ctx := r.Context()
	a, err := c.access.ReadTimeline(ctx, core.Me(r).User, roomID)
	if err != nil {
		return err
	}
	if !f.Lazy() { // the state that is asked for has all members
		if a.Room, err = c.access.Whole(ctx, a.Room); err != nil {
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
	out := core.NewAnswer()
	out.List("events_before", told[:len(before)])
	out.Raw("event", told[len(before)])
	out.List("events_after", told[len(before)+1:])
	out.List("state", rendered)
	out.Text("start", start.Token())
	out.Text("end", end.Token())
	return out.Send(w)
}

// around returns events before or after that at a place, up to a hole, that the user is to see, and the place at which to go on.
func (c *Timeline) around(ctx context.Context, a *access.View, f *filter.Room, at roomdb.Place, n int, back bool) ([]*roomdb.Event, roomdb.Place, error) {
	q := roomdb.TimelineQuery{After: at, UpTo: roomdb.End, Limit: n, Filter: f.Query()}
	if back {
		at--
		q.After, q.UpTo, q.Backwards = roomdb.Start, at, true
	}
	if n == 0 || !f.WantsRoom(a.Room.ID) {
		return nil, at, nil
	}
	if back {
		hole, err := c.Rooms.HoleBefore(ctx, a.Room.Part, a.Room.NID, at, math.MaxInt64)
		if err != nil {
			return nil, at, err
		}
		if hole != nil {
			q.After = hole.Low - 1
		}
	} else {
		hole, err := c.Rooms.HoleBehind(ctx, a.Room.Part, a.Room.NID, at, math.MinInt64)
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
	events, err := c.Rooms.Timeline(ctx, a.Room.Part, a.Room.NID, q)
	if err != nil || len(events) == 0 {
		return nil, at, err
	}
	at = events[len(events)-1].Place()
	if back {
		at--
	}
	events, err = c.access.Seen(ctx, a, events)
	return events, at, err
}

// contextState is the state at the last event, as far as the filter asks for it.
func (c *Timeline) contextState(ctx context.Context, a *access.View, f *filter.Room, last *roomdb.Event, shown []*roomdb.Event) ([]*roomdb.Event, error) {
	m, err := c.Rooms.State(ctx, a.Room.Part, last.SID)
	if err != nil {
		return nil, err
	}
	if last.IsState() {
		m = m.Set(state.Key(last.Tuple()), last.NID)
	}
	var nids []int64
	for key, nid := range m.All() {
		if !f.Lazy() || key.Type != core.TypeMember {
			nids = append(nids, nid)
		}
	}
	events, err := c.Rooms.InOrder(ctx, a.Room.Part, nids)
	if err != nil {
		return nil, err
	}
	if f.Lazy() {
		members, err := c.sendersIn(ctx, a.Room, m, shown)
		if err != nil {
			return nil, err
		}
		events = append(events, members...)
	}
	return slices.DeleteFunc(events, func(e *roomdb.Event) bool { return !f.Wants(e.PDU) }), nil
}

// timestampToEvent answers GET /v1/rooms/{roomId}/timestamp_to_event (client-server API, "Getting an event ID by
// timestamp"): the event closest to a time, at or after it (dir=f) or at or before it (dir=b).
func (c *Timeline) timestampToEvent(w http.ResponseWriter, r *http.Request) error {
	roomID, err := core.PathRoom(r)
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
	a, err := c.access.Read(ctx, core.Me(r).User, roomID)
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

func (c *Timeline) timeline(ctx context.Context, a *access.View, q roomdb.TimelineQuery) ([]*roomdb.Event, error) {
	return c.Rooms.Timeline(ctx, a.Room.Part, a.Room.NID, q)
}
