package fedin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"hanse/pkg/authgraph"
	"hanse/pkg/httpx"
	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
)

const (
	// maxBackfill and maxMissing bound what one request returns.
	maxBackfill, maxMissing = 100, 20
	// maxChain bounds an auth chain.
	maxChain = 2_000_000
	// maxNamed bounds the events that a request names.
	maxNamed = 100
	// readsWaiting bounds the expensive reads of a server that wait for others.
	readsWaiting = 32
)

// reads waits for a slot for an expensive read.
func (f *Fedin) reads(ctx context.Context, server id.Server) (leave func(), err error) {
	return f.gates.enter(ctx, "read", server, f.cfg.Reads, readsWaiting)
}

// expensive bounds how many of a handler's requests one server may have under way.
func (f *Fedin) expensive(h handler) handler {
	return func(w http.ResponseWriter, q *request) error {
		leave, err := f.reads(q.Context(), q.origin)
		if err != nil {
			return err
		}
		defer leave()
		return h(w, q)
	}
}

// tooLong is the answer to who asks for an auth chain beyond the bound: they can ask for the events one by one.
func tooLong(err error) error {
	if errors.Is(err, authgraph.ErrTooMany) {
		return merr.New(http.StatusRequestEntityTooLarge, merr.CodeTooLarge, "The auth chain is too long to be told").WithCause(err)
	}
	return err
}

// withCreate adds the create event to an auth chain. From room version 12 on events do not name it in auth_events, but it
// is one of their auth events all the same ("Room version 12", "auth_events"): Dendrite cannot join without it.
func (f *Fedin) withCreate(ctx context.Context, room *roomdb.Room, chain []int64) ([]int64, error) {
	if !room.Rules.RoomIDIsCreateHash {
		return chain, nil
	}
	create, err := f.rooms.EventByID(ctx, room, id.Event("$"+string(room.ID[1:])))
	if err != nil {
		return nil, fmt.Errorf("create event: %w", err)
	}
	if slices.Contains(chain, create.NID) {
		return chain, nil
	}
	return append(chain, create.NID), nil
}

// namedEvent returns an event of the room by the text of its id.
func (f *Fedin) namedEvent(ctx context.Context, room *roomdb.Room, text string) (*roomdb.Event, error) {
	if text == "" {
		return nil, merr.MissingParam("event_id")
	}
	eventID, err := id.ParseEvent(text)
	if err != nil {
		return nil, merr.InvalidParam(err.Error())
	}
	e, err := f.rooms.EventByID(ctx, room, eventID)
	if errors.Is(err, roomdb.ErrNotFound) {
		return nil, merr.NotFound("Could not find event " + text)
	}
	return e, err
}

// stateBefore returns the room, and the numeric ids of the state before the event that the query names and of its auth
// chain (server-server API, "Retrieving events").
func (f *Fedin) stateBefore(q *request) (room *roomdb.Room, nids, chain []int64, err error) {
	if room, err = f.memberRoom(q); err != nil {
		return nil, nil, nil, err
	}
	if room, err = f.whole(q.Context(), room); err != nil {
		return nil, nil, nil, err
	}
	e, err := f.namedEvent(q.Context(), room, q.URL.Query().Get("event_id"))
	if err != nil {
		return nil, nil, nil, err
	}
	if e.Flags&(roomdb.Outlier|roomdb.Rejected) != 0 {
		return nil, nil, nil, merr.NotFound("The state is not known at event " + string(e.ID))
	}
	m, err := f.rooms.State(q.Context(), room.Part, e.SID)
	if err != nil {
		return nil, nil, nil, err
	}
	nids = make([]int64, 0, m.Len())
	for _, nid := range m.All() {
		nids = append(nids, nid)
	}
	if chain, err = f.rooms.AuthChain(q.Context(), room.Key(), nids, maxChain); err != nil {
		return nil, nil, nil, tooLong(err)
	}
	if len(nids) > 0 {
		chain, err = f.withCreate(q.Context(), room, chain)
	}
	return room, nids, chain, err
}

// whole waits for the members of a room that we joined without them.
func (f *Fedin) whole(ctx context.Context, room *roomdb.Room) (*roomdb.Room, error) {
	whole, err := f.rooms.AwaitWhole(ctx, room)
	if errors.Is(err, roomdb.ErrPartialState) {
		return nil, merr.UnableDueToPartialState().WithCause(err)
	}
	return whole, err
}

// state answers GET state/{roomId}, event by event: a state may be hundreds of megabytes.
func (f *Fedin) state(w http.ResponseWriter, q *request) error {
	room, nids, chain, err := f.stateBefore(q)
	if err != nil {
		return err
	}
	events := func(b []byte, nids []int64) ([]byte, error) { return f.appendStored(q.Context(), room.Key(), b, nids) }
	s := httpx.NewStream(w)
	return s.Send(func() error {
		if err := list(s, `{"pdus":`, nids, events); err != nil {
			return err
		}
		err := list(s, `,"auth_chain":`, chain, events)
		s.B = append(s.B, '}')
		return err
	})
}

// stateIDs answers GET state_ids/{roomId}.
func (f *Fedin) stateIDs(w http.ResponseWriter, q *request) error {
	room, nids, chain, err := f.stateBefore(q)
	if err != nil {
		return err
	}
	names := func(b []byte, nids []int64) ([]byte, error) {
		found, err := f.rooms.EventIDs(q.Context(), room.Part, nids)
		for i, nid := range nids {
			if i > 0 {
				b = append(b, ',')
			}
			b = canonjson.AppendString(b, string(found[nid]))
		}
		return b, err
	}
	s := httpx.NewStream(w)
	return s.Send(func() error {
		if err := list(s, `{"pdu_ids":`, nids, names); err != nil {
			return err
		}
		err := list(s, `,"auth_chain_ids":`, chain, names)
		s.B = append(s.B, '}')
		return err
	})
}

// eventAuth answers GET event_auth/{roomId}/{eventId} (server-server API, "Retrieving event authorisation information").
func (f *Fedin) eventAuth(w http.ResponseWriter, q *request) error {
	room, err := f.memberRoom(q)
	if err != nil {
		return err
	}
	e, err := f.namedEvent(q.Context(), room, q.param("eventId"))
	if err != nil {
		return err
	}
	nids, err := f.rooms.AuthChainOf(q.Context(), e, maxChain)
	if err != nil {
		return tooLong(err)
	}
	if !e.Is("m.room.create", "") {
		if nids, err = f.withCreate(q.Context(), room, nids); err != nil {
			return err
		}
	}
	chain, err := f.rooms.InOrder(q.Context(), room.Part, nids)
	if err != nil {
		return err
	}
	b := httpx.Buffer()
	writeEvents(b, `{"auth_chain":`, chain)
	b.WriteByte('}')
	return httpx.Send(w, b)
}

// event answers GET event/{eventId}.
func (f *Fedin) event(w http.ResponseWriter, q *request) error {
	ctx := q.Context()
	eventID, err := id.ParseEvent(q.param("eventId"))
	if err != nil {
		return merr.InvalidParam(err.Error())
	}
	e, err := f.rooms.FindEvent(ctx, eventID)
	if errors.Is(err, roomdb.ErrNotFound) || err == nil && e.Flags&roomdb.Rejected != 0 {
		return merr.NotFound("Could not find event " + string(eventID))
	}
	if err != nil {
		return err
	}
	room, err := f.roomOfEvent(ctx, e)
	if err != nil {
		return err
	}
	if err := f.admitted(ctx, room, q.origin); err != nil {
		return err
	}
	if err := f.inRoom(ctx, room, q.origin); err != nil {
		return err
	}
	return f.pdus(w, q, []*roomdb.Event{e})
}

func (f *Fedin) roomOfEvent(ctx context.Context, e *roomdb.Event) (*roomdb.Room, error) {
	rooms, err := f.rooms.RoomsByNID(ctx, []roomdb.RoomKey{{Part: e.Part, NID: e.RoomNID}})
	if err != nil {
		return nil, err
	}
	for _, r := range rooms {
		return r, nil
	}
	return nil, errNotInRoom
}

// pdus answers with events as far as the server may see them.
func (f *Fedin) pdus(w http.ResponseWriter, q *request, events []*roomdb.Event) error {
	shown, err := f.shownTo(q.Context(), q.origin, events)
	if err != nil {
		return err
	}
	b := httpx.Buffer()
	b.WriteString(`{"origin":`)
	b.Write(quoted(string(q.server)))
	b.WriteString(`,"origin_server_ts":`)
	b.WriteString(strconv.FormatInt(time.Now().UnixMilli(), 10))
	writeRaw(b, `,"pdus":`, shown)
	b.WriteByte('}')
	return httpx.Send(w, b)
}

func writeRaw(b *bytes.Buffer, name string, events [][]byte) {
	b.WriteString(name)
	b.WriteByte('[')
	for i, e := range events {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(e)
	}
	b.WriteByte(']')
}

// timestampToEvent answers GET timestamp_to_event/{roomId}.
func (f *Fedin) timestampToEvent(w http.ResponseWriter, q *request) error {
	room, err := f.memberRoom(q)
	if err != nil {
		return err
	}
	query := q.URL.Query()
	ts, err := strconv.ParseInt(query.Get("ts"), 10, 64)
	if err != nil {
		return merr.InvalidParam("ts is not a number")
	}
	dir := query.Get("dir")
	if dir != "f" && dir != "b" {
		return merr.InvalidParam("dir is neither f nor b")
	}
	around, err := f.rooms.AroundTime(q.Context(), room, ts, dir == "b")
	if err != nil {
		return err
	}
	e := roomdb.ClosestTo(around, ts, dir == "b")
	if e == nil {
		return merr.NotFound("Unable to find event from " + query.Get("ts") + " in direction " + dir)
	}
	return httpx.OK(w, map[string]any{"event_id": e.ID, "origin_server_ts": e.OriginServerTS})
}
