package timeline

import (
	"context"
	"errors"
	"math"
	"net/url"
	"strconv"
	"time"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/roomowner"
	"hanse/pkg/view"
	roomv1 "hanse/proto/room/v1"
	"hanse/services/client/access"
)

const (
	// timeServers is how many other servers are asked for the event at a time, and timeAnswer how long they have.
	timeServers = 4
	timeAnswer  = 5 * time.Second
	// timeBackfills bounds the requests for history that lead to the event that another server told of.
	timeBackfills = 4
)

// eventAt is an event and its time.
type eventAt struct {
	ID id.Event `json:"event_id"`
	TS int64    `json:"origin_server_ts"`
}

// closer says whether an event is nearer to a time than another; an event on the wrong side of it never is.
func (e *eventAt) closer(other *eventAt, ts int64, back bool) bool {
	if back {
		return e.TS <= ts && (other == nil || e.TS > other.TS)
	}
	return e.TS >= ts && (other == nil || e.TS < other.TS)
}

// atTime finds the event closest to a time. Where history that we lack may have a closer one, other servers in the room
// are asked (client-server API, "Getting an event ID by timestamp").
func (c *Timeline) atTime(ctx context.Context, a *access.View, ts int64, back bool) (*eventAt, error) {
	ours, hole, err := c.localAtTime(ctx, a, ts, back)
	if err != nil || hole == nil || a.Room.JoinedLocal == 0 {
		return ours, err
	}
	theirs, err := c.askForTime(ctx, a, ts, back)
	if err != nil || theirs == nil || !theirs.closer(ours, ts, back) {
		return ours, err
	}
	if known, err := c.fetchBack(ctx, a, hole, theirs.ID); err != nil || !known {
		return theirs, err
	}
	// What was fetched with it may be closer still, or may not be for the user's eyes.
	if a.Room, err = c.Rooms.Room(ctx, a.Room.ID); err != nil {
		return nil, err
	}
	ours, _, err = c.localAtTime(ctx, a, ts, back)
	return ours, err
}

// localAtTime looks at what we hold, and returns the hole in which something we lack may be closer; nil if there is none.
func (c *Timeline) localAtTime(ctx context.Context, a *access.View, ts int64, back bool) (at *eventAt, hole *roomdb.Hole, err error) {
	around, err := c.Rooms.AroundTime(ctx, a.Room, ts, back)
	if err != nil {
		return nil, nil, err
	}
	seen, err := view.Visible(ctx, c.Rooms, a.Reader, around)
	if err != nil {
		return nil, nil, err
	}
	e := roomdb.ClosestTo(seen, ts, back)
	if e != nil {
		at = &eventAt{e.ID, e.OriginServerTS}
	}
	edge := roomdb.ClosestTo(around, ts, back)
	switch {
	case edge == nil && back: // before all that we hold
		hole, err = c.Rooms.HoleBefore(ctx, a.Room.Part, a.Room.NID, roomdb.At(a.Room.FirstOrd), math.MaxInt64)
	case edge == nil:
		hole, err = c.Rooms.HoleBefore(ctx, a.Room.Part, a.Room.NID, roomdb.End, math.MaxInt64)
	case !back:
		hole, err = c.Rooms.HoleBeforeEvent(ctx, edge)
	default:
		if next := behind(around, edge); next != nil {
			hole, err = c.Rooms.HoleBeforeEvent(ctx, next)
		}
	}
	return at, hole, err
}

// behind returns the event that follows another one in a timeline.
func behind(events []*roomdb.Event, e *roomdb.Event) *roomdb.Event {
	for i := range events[:max(len(events)-1, 0)] {
		if events[i] == e {
			return events[i+1]
		}
	}
	return nil
}

// askForTime asks some servers in the room, and returns the best of their answers; nil if none has any.
func (c *Timeline) askForTime(ctx context.Context, a *access.View, ts int64, back bool) (*eventAt, error) {
	servers, err := c.Rooms.Servers(ctx, a.Room.Part, a.Room.NID)
	if err != nil {
		return nil, err
	}
	dir := "f"
	if back {
		dir = "b"
	}
	uri := "/_matrix/federation/v1/timestamp_to_event/" + url.PathEscape(string(a.Room.ID)) + "?dir=" + dir + "&ts=" + strconv.FormatInt(ts, 10)
	answers, asked := make(chan *eventAt, timeServers), 0
	for _, server := range servers {
		if asked == timeServers {
			break
		}
		if c.Servers.IsLocal(server) {
			continue
		}
		asked++
		go func() {
			at := new(eventAt)
			if err := c.FederateSparing(ctx, a.Reader.User.Server(), server, "GET", uri, nil, at, timeAnswer); err != nil {
				c.Log.InfoContext(ctx, "event at a time", "room", a.Room.ID, "server", server, "err", err)
				at = nil
			} else if _, err := id.ParseEvent(string(at.ID)); err != nil {
				at = nil
			}
			answers <- at
		}()
	}
	var best *eventAt
	for range asked {
		if at := <-answers; at != nil && at.closer(best, ts, back) {
			best = at
		}
	}
	return best, nil
}

// fetchBack has a hole filled until an event is there, if it is not too far back: clients go on from it with /context.
func (c *Timeline) fetchBack(ctx context.Context, a *access.View, hole *roomdb.Hole, eventID id.Event) (known bool, err error) {
	wait, cancel := context.WithTimeout(ctx, backfillTime)
	defer cancel()
	for range timeBackfills {
		e, err := c.Rooms.EventByID(ctx, a.Room, eventID)
		if err == nil && e.Visible() {
			return true, nil
		}
		if err != nil && !errors.Is(err, roomdb.ErrNotFound) {
			return false, err
		}
		var resp *roomv1.BackfillResponse
		err = roomowner.CallPart(wait, c.Router, a.Room.Part, func(ctx context.Context, rc roomv1.RoomClient) (err error) {
			resp, err = rc.Backfill(ctx, &roomv1.BackfillRequest{RoomId: string(a.Room.ID), Limit: backfillEvents, Hole: hole.Pos})
			return err
		})
		if err != nil || resp.Stored == 0 {
			return false, ctx.Err() // it is told all the same
		}
	}
	e, err := c.Rooms.EventByID(ctx, a.Room, eventID)
	if errors.Is(err, roomdb.ErrNotFound) {
		return false, nil
	}
	return err == nil && e.Visible(), err
}
