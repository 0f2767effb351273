package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/tidwall/gjson"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/partition"
	"hanse/pkg/roomdb"
	"hanse/pkg/roomowner"
	logv1 "hanse/proto/log/v1"
	roomv1 "hanse/proto/room/v1"
	"hanse/services/client/access"
	"hanse/services/client/core"
	"hanse/services/client/settings"
)

const (
	receiptRead    = "m.read"
	receiptPrivate = "m.read.private"

	mainThread = "main"

	defaultTyping = 30 * time.Second
	maxTyping     = 2 * time.Minute
)

// postReceipt answers POST /rooms/{roomId}/receipt/{receiptType}/{eventId} (client-server API, "Receipts").
func (c *Rooms) postReceipt(w http.ResponseWriter, r *http.Request) error {
	room, err := core.PathRoom(r)
	if err != nil {
		return err
	}
	typ := core.Param(r, "receiptType")
	if typ != receiptRead && typ != receiptPrivate && typ != settings.DataFullyRead {
		return merr.InvalidParam("Receipt type must be m.read, m.read.private or m.fully_read")
	}
	eventID, err := id.ParseEvent(core.Param(r, "eventId"))
	if err != nil {
		return merr.InvalidParam("Not a valid event ID")
	}
	thread, err := threadOf(r, typ)
	if err != nil {
		return err
	}
	ctx, user := r.Context(), core.Me(r).User
	if err := c.access.MustBeJoined(ctx, user, room); err != nil {
		return err
	}
	if thread != "" {
		if err := c.checkThread(ctx, room, eventID, thread); err != nil {
			return err
		}
	}
	return c.mark(w, r, room, []marker{{typ, thread, eventID}})
}

// threadOf reads thread_id and applies its rules (client-server API, "Threaded read receipts").
func threadOf(r *http.Request, typ string) (string, error) {
	body, err := httpx.JSONBody(r)
	if err != nil {
		return "", err
	}
	thread := gjson.GetBytes(body, "thread_id")
	if !thread.Exists() {
		return "", nil
	}
	switch {
	case typ == settings.DataFullyRead:
		return "", merr.InvalidParam("thread_id is not compatible with m.fully_read receipts")
	case thread.Type != gjson.String || thread.Str == "":
		return "", merr.InvalidParam("thread_id field must be a non-empty string")
	case thread.Str != mainThread:
		if _, err := id.ParseEvent(thread.Str); err != nil {
			return "", merr.InvalidParam("thread_id must be an event ID or main")
		}
	}
	return thread.Str, nil
}

// checkThread checks that an event that we know belongs to the thread, or to the main timeline, for which a receipt is.
func (c *Rooms) checkThread(ctx context.Context, roomID id.Room, eventID id.Event, thread string) error {
	room, err := c.Rooms.Room(ctx, roomID)
	if err != nil {
		return err
	}
	at := eventID
	for range 4 { // an event may relate to one in the thread, such as a reaction does
		e, err := c.Rooms.EventByID(ctx, room, at)
		if errors.Is(err, roomdb.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if string(e.ID) == thread {
			return nil
		}
		rel := gjson.GetBytes(e.Content, `m\.relates_to`)
		parent, err := id.ParseEvent(rel.Get("event_id").Str)
		if rel.Get("rel_type").Str == "m.thread" && err == nil {
			if thread == string(parent) {
				return nil
			}
			break
		}
		if err != nil || rel.Get("rel_type").Str == "" { // in the main timeline
			if thread == mainThread {
				return nil
			}
			break
		}
		at = parent
	}
	return merr.InvalidParam("event_id " + string(eventID) + " is not related to thread " + thread)
}

// marker is a place up to which a user has read.
type marker struct {
	typ, thread string
	event       id.Event
}

// readMarkers answers POST /rooms/{roomId}/read_markers (client-server API, "Fully read markers").
func (c *Rooms) readMarkers(w http.ResponseWriter, r *http.Request) error {
	room, err := core.PathRoom(r)
	if err != nil {
		return err
	}
	var q map[string]json.RawMessage
	if err := httpx.Decode(r, &q); err != nil {
		return err
	}
	var markers []marker
	for _, typ := range []string{settings.DataFullyRead, receiptRead, receiptPrivate} {
		raw, ok := q[typ]
		if !ok || string(raw) == "null" {
			continue
		}
		var text string
		if json.Unmarshal(raw, &text) != nil {
			return merr.BadJSON(typ + " must be a string")
		}
		eventID, err := id.ParseEvent(text)
		if err != nil {
			return merr.InvalidParam("Not a valid event ID")
		}
		markers = append(markers, marker{typ: typ, event: eventID})
	}
	if err := c.access.MustBeJoined(r.Context(), core.Me(r).User, room); err != nil {
		return err
	}
	return c.mark(w, r, room, markers)
}

// mark stores the fully read marker in the account data, and gives receipts to the room's owner.
func (c *Rooms) mark(w http.ResponseWriter, r *http.Request, room id.Room, markers []marker) error {
	ctx, user := r.Context(), core.Me(r).User
	req := &roomv1.ReceiptsRequest{RoomId: string(room)}
	for _, m := range markers {
		if m.typ == settings.DataFullyRead {
			if err := c.fullyRead(ctx, user, room, m.event); err != nil {
				return err
			}
			continue
		}
		req.Receipts = append(req.Receipts, &roomv1.ReceiptIntent{UserId: string(user), Type: m.typ, ThreadId: m.thread,
			EventId: string(m.event), Ts: time.Now().UnixMilli(), Local: true})
	}
	if len(req.Receipts) > 0 {
		err := roomowner.Call(ctx, c.Router, room, func(ctx context.Context, rc roomv1.RoomClient) error {
			_, err := rc.Receipts(ctx, req)
			return err
		})
		if err != nil {
			return access.RoomGone(err)
		}
	}
	return httpx.Empty(w)
}

// fullyRead moves the fully read marker, never backwards.
func (c *Rooms) fullyRead(ctx context.Context, user id.User, roomID id.Room, eventID id.Event) error {
	room, err := c.Rooms.Room(ctx, roomID)
	if err != nil {
		return err
	}
	return c.Users.UpdateAccountData(ctx, user, roomID, settings.DataFullyRead, func(old []byte) ([]byte, error) {
		ahead, err := c.isAhead(ctx, room, eventID, gjson.GetBytes(old, "event_id").Str)
		if err != nil || !ahead {
			return nil, err
		}
		return json.Marshal(map[string]id.Event{"event_id": eventID})
	})
}

// isAhead says whether an event lies behind another one in the timeline; so does one of which the place is not known.
func (c *Rooms) isAhead(ctx context.Context, room *roomdb.Room, eventID id.Event, old string) (bool, error) {
	if old == "" {
		return true, nil
	}
	found, err := c.Rooms.EventsByID(ctx, room.Part, []id.Event{eventID, id.Event(old)})
	if err != nil {
		return false, err
	}
	now, before := found[eventID], found[id.Event(old)]
	if now == nil || before == nil || !now.Visible() || !before.Visible() {
		return string(eventID) != old, nil
	}
	return now.Place() > before.Place(), nil
}

// typing answers PUT /rooms/{roomId}/typing/{userId} (client-server API, "Typing Notifications"), for members.
func (c *Rooms) typing(w http.ResponseWriter, r *http.Request) error {
	room, err := core.PathRoom(r)
	if err != nil {
		return err
	}
	user, err := core.OwnUser(r)
	if err != nil {
		return err
	}
	var q struct {
		Typing  *bool  `json:"typing"`
		Timeout *int64 `json:"timeout"`
	}
	if err := httpx.Decode(r, &q); err != nil {
		return err
	}
	if q.Typing == nil {
		return merr.MissingParam("typing")
	}
	timeout := defaultTyping
	if q.Timeout != nil {
		if *q.Timeout < 0 {
			return merr.InvalidParam("timeout must not be negative")
		}
		timeout = time.Duration(min(*q.Timeout, maxTyping.Milliseconds())) * time.Millisecond
	}
	if err := c.access.MustBeJoined(r.Context(), user, room); err != nil {
		return err
	}
	// A notification that is lost with the bus is one that nobody sees: the client sends the next one soon.
	if err := c.bus.PublishTyping(partition.Of(string(room)), &logv1.Typing{RoomId: string(room), UserId: string(user),
		Typing: *q.Typing, TimeoutMs: timeout.Milliseconds(), Local: true}); err != nil {
		c.Log.DebugContext(r.Context(), "typing", "err", err)
	}
	return httpx.Empty(w)
}
