package fedin

import (
	"cmp"
	"container/heap"
	"context"
	"net/http"
	"slices"
	"strconv"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
)

// backfill answers GET backfill/{roomId}: the named events and those before them, the newest first (server-server API,
// "Backfilling and retrieving missing events").
func (f *Fedin) backfill(w http.ResponseWriter, q *request) error {
	room, err := f.memberRoom(q)
	if err != nil {
		return err
	}
	query := q.URL.Query()
	limit, err := strconv.Atoi(query.Get("limit"))
	if err != nil || limit < 0 {
		return merr.InvalidParam("limit is not a number")
	}
	from, err := f.namedEvents(q.Context(), room, query["v"])
	if err != nil {
		return err
	}
	events, err := f.walkBack(q.Context(), room, from, min(limit, maxBackfill))
	if err != nil {
		return err
	}
	return f.pdus(w, q, events)
}

// namedEvents returns those of the named events that we hold.
func (f *Fedin) namedEvents(ctx context.Context, room *roomdb.Room, texts []string) ([]*roomdb.Event, error) {
	if len(texts) > maxNamed {
		return nil, merr.InvalidParam("Too many events")
	}
	ids := make([]id.Event, 0, len(texts))
	for _, text := range texts {
		eventID, err := id.ParseEvent(text)
		if err != nil {
			return nil, merr.InvalidParam(err.Error())
		}
		ids = append(ids, eventID)
	}
	if len(ids) == 0 {
		return nil, nil
	}
	found, err := f.rooms.EventsByID(ctx, room.Part, ids)
	if err != nil {
		return nil, err
	}
	events := make([]*roomdb.Event, 0, len(found))
	for _, eventID := range ids {
		if e := found[eventID]; e != nil && e.RoomNID == room.NID && !slices.Contains(events, e) {
			events = append(events, e)
		}
	}
	return events, nil
}

// byDepth is a heap with the deepest event, which is the newest, on top.
type byDepth []*roomdb.Event

func (h byDepth) Len() int { return len(h) }
func (h byDepth) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(h[j].Depth, h[i].Depth), cmp.Compare(h[j].Place(), h[i].Place()), cmp.Compare(h[j].NID, h[i].NID)) < 0
}
func (h byDepth) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *byDepth) Push(x any)   { *h = append(*h, x.(*roomdb.Event)) }
func (h *byDepth) Pop() any {
	old := *h
	e := old[len(old)-1]
	*h = old[:len(old)-1]
	return e
}

// placed says whether an event is a node of the room's graph that others may have.
func placed(e *roomdb.Event) bool { return e.Flags&(roomdb.Outlier|roomdb.Rejected) == 0 }

// walkBack walks the graph from events towards the room's beginning.
func (f *Fedin) walkBack(ctx context.Context, room *roomdb.Room, from []*roomdb.Event, limit int) ([]*roomdb.Event, error) {
	if err := f.prefetch(ctx, room, from, limit); err != nil {
		return nil, err
	}
	seen := make(map[int64]bool)
	var open byDepth
	for _, e := range from {
		if placed(e) && !seen[e.NID] {
			seen[e.NID] = true
			heap.Push(&open, e)
		}
	}
	var out []*roomdb.Event
	for len(open) > 0 && len(out) < limit {
		e := heap.Pop(&open).(*roomdb.Event)
		out = append(out, e)
		before, err := f.before(ctx, e, seen)
		if err != nil {
			return nil, err
		}
		for _, p := range before {
			heap.Push(&open, p)
		}
	}
	return out, nil
}

// prefetch reads the neighbours in the timeline with one query: most of what a walk back meets is among them.
func (f *Fedin) prefetch(ctx context.Context, room *roomdb.Room, from []*roomdb.Event, limit int) error {
	newest, found := roomdb.Start, false
	for _, e := range from {
		if e.Visible() {
			newest, found = max(newest, e.Place()), true
		}
	}
	if !found {
		return nil
	}
	_, err := f.rooms.Timeline(ctx, room.Part, room.NID, roomdb.TimelineQuery{After: roomdb.Start, UpTo: newest, Backwards: true, Limit: limit + 10})
	return err
}

// before returns the prev events of an event that were not seen yet.
func (f *Fedin) before(ctx context.Context, e *roomdb.Event, seen map[int64]bool) ([]*roomdb.Event, error) {
	var nids []int64
	for _, nid := range e.Prev {
		if !seen[nid] {
			seen[nid] = true
			nids = append(nids, nid)
		}
	}
	found, err := f.rooms.Events(ctx, e.Part, nids)
	if err != nil {
		return nil, err
	}
	var out []*roomdb.Event
	for _, nid := range nids {
		if p := found[nid]; p != nil && placed(p) {
			out = append(out, p)
		}
	}
	return out, nil
}

// missingQuery is the body of POST get_missing_events.
type missingQuery struct {
	Earliest []string `json:"earliest_events"`
	Latest   []string `json:"latest_events"`
	Limit    *int     `json:"limit"`
	MinDepth int64    `json:"min_depth"`
}

// missingEvents answers POST get_missing_events/{roomId}: what lies between events that the server has and events that
// it heard of, the oldest first.
func (f *Fedin) missingEvents(w http.ResponseWriter, q *request) error {
	room, err := f.memberRoom(q)
	if err != nil {
		return err
	}
	var body missingQuery
	if err := q.decode(&body); err != nil {
		return err
	}
	limit := 10
	if body.Limit != nil {
		limit = min(max(0, *body.Limit), maxMissing)
	}
	earliest, err := f.namedEvents(q.Context(), room, body.Earliest)
	if err != nil {
		return err
	}
	latest, err := f.namedEvents(q.Context(), room, body.Latest)
	if err != nil {
		return err
	}
	events, err := f.between(q.Context(), room, earliest, latest, limit, body.MinDepth)
	if err != nil {
		return err
	}
	shown, err := f.shownTo(q.Context(), q.origin, events)
	if err != nil {
		return err
	}
	b := httpx.Buffer()
	writeRaw(b, `{"events":`, shown)
	b.WriteByte('}')
	return httpx.Send(w, b)
}

// between walks breadth-first from latest, which are left out, to earliest.
func (f *Fedin) between(ctx context.Context, room *roomdb.Room, earliest, latest []*roomdb.Event, limit int, minDepth int64) ([]*roomdb.Event, error) {
	if err := f.prefetch(ctx, room, latest, limit); err != nil {
		return nil, err
	}
	seen := make(map[int64]bool)
	for _, e := range append(slices.Clone(earliest), latest...) {
		seen[e.NID] = true
	}
	front := slices.DeleteFunc(slices.Clone(latest), func(e *roomdb.Event) bool { return !placed(e) || slices.Contains(earliest, e) })
	var out []*roomdb.Event
	for len(front) > 0 && len(out) < limit {
		e := front[0]
		front = front[1:]
		before, err := f.before(ctx, e, seen)
		if err != nil {
			return nil, err
		}
		for _, p := range before {
			if p.Depth >= minDepth && len(out) < limit {
				out, front = append(out, p), append(front, p)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b *roomdb.Event) int {
		return cmp.Or(cmp.Compare(a.Depth, b.Depth), cmp.Compare(a.Place(), b.Place()))
	})
	return out, nil
}
