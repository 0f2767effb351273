package timeline

import (
	"context"
	"net/http"
	"slices"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	"hanse/pkg/view"
	"hanse/services/client/access"
	"hanse/services/client/core"
)

const (
	defaultRelations = 5
	maxRelations     = 100
)

// relationRoutes registers what clients ask of relations (client-server API, "Relationships API" and "Querying threads in a room").
func (c *Timeline) relationRoutes(rt *core.Routes) {
	// Clients of servers without the versions that these came with, and old ones, use the unstable paths.
	unstable := rt.Unstable("")
	for _, path := range []string{"", "/{relType}", "/{relType}/{eventType}"} {
		rt.AuthV1.Handle("GET /rooms/{roomId}/relations/{eventId}"+path, c.relations)
		unstable.Handle("GET /rooms/{roomId}/relations/{eventId}"+path, c.relations)
	}
	rt.AuthV1.Handle("GET /rooms/{roomId}/threads", c.threads)
	rt.Unstable("/org.matrix.msc3856").Handle("GET /rooms/{roomId}/threads", c.threads)
}

// relations answers GET /v1/rooms/{roomId}/relations/{eventId} and its longer forms.
func (c *Timeline) relations(w http.ResponseWriter, r *http.Request) error {
	roomID, err := core.PathRoom(r)
	if err != nil {
		return err
	}
	eventID, err := core.PathEvent(r)
	if err != nil {
		return err
	}
	q := roomdb.RelationsQuery{Parent: eventID, RelType: core.Param(r, "relType"), Type: core.Param(r, "eventType"), Backwards: true}
	if recurse := either(r, "recurse", "org.matrix.msc3981.recurse"); recurse != "" {
		if q.Recurse, err = core.QueryFlag(r, recurse); err != nil {
			return err
		}
	}
	if dir := either(r, "dir", "org.matrix.msc3715.dir"); dir != "" {
		if q.Backwards, err = directionIn(r, dir); err != nil {
			return err
		}
	}
	limit, err := core.QueryLimit(r, nil, defaultRelations, maxRelations)
	if err != nil {
		return err
	}
	ctx := r.Context()
	a, err := c.access.ReadTimeline(ctx, core.Me(r).User, roomID)
	if err != nil {
		return err
	}
	if _, err := c.visibleEvent(ctx, a, eventID); err != nil {
		return err
	}
	from := r.URL.Query().Get("from")
	if q.After, q.UpTo, err = span(a, from, r.URL.Query().Get("to"), q.Backwards); err != nil {
		return err
	}
	events, next, err := c.relationPage(ctx, a, q, limit)
	if err != nil {
		return err
	}
	chunk, err := c.renderTimeline(ctx, r, a, events)
	if err != nil {
		return err
	}
	out := core.NewAnswer()
	out.List("chunk", chunk)
	if next != nil {
		out.Text("next_batch", next.Token())
	}
	if from != "" {
		out.Text("prev_batch", from)
	}
	if q.Recurse {
		out.Number("recursion_depth", roomdb.RecursionDepth)
	}
	return out.Send(w)
}

// either returns the one of two names of a parameter that a request uses, the stable one first, or "".
func either(r *http.Request, stable, unstable string) string {
	for _, name := range []string{stable, unstable} {
		if r.URL.Query().Has(name) {
			return name
		}
	}
	return ""
}

// relationPage reads a page of relations, and where the next one begins; nil if there is none.
func (c *Timeline) relationPage(ctx context.Context, a *access.View, q roomdb.RelationsQuery, limit int) (page []*roomdb.Event, next *roomdb.Place, err error) {
	for range pageReads {
		q.Limit = limit - len(page) + 1 // whether there are more
		events, err := c.Rooms.Relations(ctx, a.Room.Part, a.Room.NID, q)
		if err != nil {
			return nil, nil, err
		}
		more := len(events) == q.Limit
		if more {
			events = events[:q.Limit-1]
		}
		if len(events) > 0 {
			at := events[len(events)-1].Place()
			if q.Backwards {
				at--
				q.UpTo = at
			} else {
				q.After = at
			}
			next = &at
		}
		seen, err := c.inTimelineOrder(ctx, a, events, q.Backwards)
		if err != nil {
			return nil, nil, err
		}
		page = append(page, seen...)
		if !more {
			return page, nil, nil
		}
		if len(page) == limit {
			break
		}
	}
	return page, next, nil
}

// inTimelineOrder is access.Seen, which costs least from the oldest event on.
func (c *Timeline) inTimelineOrder(ctx context.Context, a *access.View, events []*roomdb.Event, back bool) ([]*roomdb.Event, error) {
	if !back {
		return c.access.Seen(ctx, a, events)
	}
	oldestFirst := slices.Clone(events)
	slices.Reverse(oldestFirst)
	seen, err := c.access.Seen(ctx, a, oldestFirst)
	slices.Reverse(seen)
	return seen, err
}

// threads answers GET /v1/rooms/{roomId}/threads: the roots of threads, those with the newest replies first.
func (c *Timeline) threads(w http.ResponseWriter, r *http.Request) error {
	roomID, err := core.PathRoom(r)
	if err != nil {
		return err
	}
	var participant id.User
	switch r.URL.Query().Get("include") {
	case "", "all":
	case "participated":
		participant = core.Me(r).User
	default:
		return merr.InvalidParam("include must be all or participated")
	}
	limit, err := core.QueryLimit(r, nil, defaultRelations, maxRelations)
	if err != nil {
		return err
	}
	if limit == 0 {
		return merr.InvalidParam("limit must be greater than 0")
	}
	before := roomdb.End
	if from := r.URL.Query().Get("from"); from != "" {
		if before, err = roomdb.ParsePlace(from); err != nil {
			return merr.InvalidParam("Unknown pagination token")
		}
	}
	ctx := r.Context()
	a, err := c.access.ReadTimeline(ctx, core.Me(r).User, roomID)
	if err != nil {
		return err
	}
	roots, next, err := c.threadPage(ctx, a, participant, before, limit)
	if err != nil {
		return err
	}
	chunk, err := c.renderRoots(ctx, r, a, roots)
	if err != nil {
		return err
	}
	out := core.NewAnswer()
	out.List("chunk", chunk)
	if next != nil {
		out.Text("next_batch", next.Token())
	}
	return out.Send(w)
}

// threadPage reads a page of roots, and where the next one begins; nil if there is none.
func (c *Timeline) threadPage(ctx context.Context, a *access.View, participant id.User, before roomdb.Place, limit int) (roots []*roomdb.Event, next *roomdb.Place, err error) {
	for range pageReads {
		want := limit - len(roots) + 1 // whether there are more
		threads, err := c.Rooms.Threads(ctx, a.Room.Part, a.Room.NID, participant, before, want)
		if err != nil {
			return nil, nil, err
		}
		more := len(threads) == want
		if more {
			threads = threads[:want-1]
		}
		page, err := c.rootsOf(ctx, a, participant, threads)
		if err != nil {
			return nil, nil, err
		}
		roots = append(roots, page...)
		if !more {
			return roots, nil, nil
		}
		if len(threads) > 0 {
			before = threads[len(threads)-1].Last
			next = &before
		}
		if len(roots) == limit {
			break
		}
	}
	return roots, next, nil
}

// rootsOf returns the roots of threads that the user may see, in the order of the threads. What relates to another event itself
// has no thread ("Threading").
func (c *Timeline) rootsOf(ctx context.Context, a *access.View, participant id.User, threads []roomdb.Thread) ([]*roomdb.Event, error) {
	ids := make([]id.Event, len(threads))
	for i, t := range threads {
		ids[i] = t.Root
	}
	found, err := c.Rooms.EventsByID(ctx, a.Room.Part, ids)
	if err != nil {
		return nil, err
	}
	var roots []*roomdb.Event
	for _, t := range threads {
		e := found[t.Root]
		if e == nil || e.RoomNID != a.Room.NID || !e.Visible() || event.RelationType(e.Content) != "" {
			continue
		}
		if participant == "" || t.Own > 0 || e.Sender == participant {
			roots = append(roots, e)
		}
	}
	return view.Visible(ctx, c.Rooms, a.Reader, roots)
}

// renderRoots renders the roots of threads. Those of ignored users are told as if they were redacted, and those of which nobody else
// replied are not told at all.
func (c *Timeline) renderRoots(ctx context.Context, r *http.Request, a *access.View, roots []*roomdb.Event) ([][]byte, error) {
	bundles, err := view.Bundled(ctx, c.Rooms, a.Reader, a.Ignored, roots)
	if err != nil {
		return nil, err
	}
	f := format(r)
	f.Bundles = bundles
	var told []*roomdb.Event
	for _, e := range roots {
		bundle := bundles[e]
		if !bundle.HasThread() {
			continue
		}
		if !a.Ignored.Heeds(e) {
			hidden := e.Copy()
			if hidden.PDU, err = e.Redacted(); err != nil {
				return nil, err
			}
			e = hidden
			bundles[e] = bundle.OnlyThread()
		}
		told = append(told, e)
	}
	if f.Memberships, err = view.Memberships(ctx, c.Rooms, f.User, told); err != nil {
		return nil, err
	}
	return view.Render(ctx, c.Rooms, f, told)
}
