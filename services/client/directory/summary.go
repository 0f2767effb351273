package directory

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	"hanse/pkg/roomdir"
	"hanse/pkg/session"
	"hanse/pkg/userdb"
	"hanse/services/client/core"
)

const (
	maxHierarchy      = 50
	maxHierarchyDepth = 50
	// maxHierarchyVisits bounds the rooms that one request walks through, maxHierarchyAsks the questions to others.
	maxHierarchyVisits = 2000
	maxHierarchyAsks   = 20
)

// knownRoom is a room's summary with its place among others.
type knownRoom struct {
	*roomdir.Summary
	ChildrenState []json.RawMessage `json:"children_state,omitempty"`
	Membership    string            `json:"membership,omitempty"`
}

// roomSummary answers GET /v1/room_summary/{roomIdOrAlias} (client-server API, "Room Summaries"): 404 for rooms that the
// asker may not know of.
func (c *Directory) roomSummary(w http.ResponseWriter, r *http.Request) error {
	t, err := c.RoomOrAlias(r)
	if err != nil {
		return err
	}
	ctx := r.Context()
	var user id.User
	if i := session.From(r); i != nil {
		user = i.User
	}
	known, ours, err := c.summaryOf(ctx, user, t.Room)
	if err != nil {
		return err
	}
	if !ours && user != "" {
		if known, _, err = c.askSummary(ctx, c.Server(r), user, t, new(int)); err != nil {
			return err
		}
	}
	if known == nil {
		return merr.NotFound("Room not found.")
	}
	known.ChildrenState = nil
	return httpx.OK(w, known)
}

// summaryOf returns the summary of a room that we are in, nil if the user may not know of it. Of rooms that are not ours others are
// asked. Of ours they are not: what they say of them would show a room that the user may not know of.
func (c *Directory) summaryOf(ctx context.Context, user id.User, roomID id.Room) (known *knownRoom, ours bool, err error) {
	room, err := c.Rooms.Room(ctx, roomID)
	if errors.Is(err, roomdb.ErrNotFound) || (err == nil && room.JoinedLocal == 0) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	s, err := c.dir.Summary(ctx, room)
	if err != nil {
		return nil, true, err
	}
	known = &knownRoom{Summary: s, ChildrenState: []json.RawMessage{}}
	if s.IsSpace() {
		for _, child := range s.Children {
			known.ChildrenState = append(known.ChildrenState, child.JSON)
		}
	}
	may, err := c.mayKnow(ctx, user, known)
	if err != nil || !may {
		return nil, true, err
	}
	return known, true, nil
}

// mayKnow applies the conditions of the section "Spaces" (GET /hierarchy), and notes what the user is to the room.
func (c *Directory) mayKnow(ctx context.Context, user id.User, known *knownRoom) (bool, error) {
	if user == "" {
		return known.Open(), nil
	}
	m, err := c.Users.Membership(ctx, user, known.RoomID)
	if err != nil && !errors.Is(err, userdb.ErrNotFound) {
		return false, err
	}
	known.Membership = m.Membership
	if m.Membership == core.Ban {
		return known.WorldReadable, nil
	}
	if known.Open() || m.Membership == core.Join || m.Membership == core.Invite {
		return true, nil
	}
	for _, other := range known.AllowedRooms {
		m, err := c.Users.Membership(ctx, user, other)
		if err != nil && !errors.Is(err, userdb.ErrNotFound) {
			return false, err
		}
		if m.Membership == core.Join {
			return true, nil
		}
	}
	return false, nil
}

// hierarchy answers GET /v1/rooms/{roomId}/hierarchy (client-server API, "Discovering rooms within spaces").
func (c *Directory) hierarchy(w http.ResponseWriter, r *http.Request) error {
	roomID, err := core.PathRoom(r)
	if err != nil {
		return err
	}
	h, err := c.parseHierarchy(r)
	if err != nil {
		return err
	}
	if err := h.walk(r.Context(), roomID); err != nil {
		return err
	}
	answer := map[string]any{"rooms": h.rooms}
	if h.more {
		answer["next_batch"] = h.token(h.skip + len(h.rooms))
	}
	return httpx.OK(w, answer)
}

// hierarchy is a walk through a space, depth first. A page walks the whole way again, up to its place: what changes
// between two pages shifts them, and nothing has to be remembered.
type hierarchy struct {
	c         *Directory
	user      id.User
	origin    id.Server
	suggested bool
	depth     int
	limit     int
	skip      int

	rooms  []json.RawMessage
	more   bool
	seen   map[id.Room]bool
	remote map[id.Room]*knownRoom
	visits int
	asks   int // requests to other servers
}

func (c *Directory) parseHierarchy(r *http.Request) (*hierarchy, error) {
	h := &hierarchy{c: c, user: core.Me(r).User, origin: c.Server(r), depth: maxHierarchyDepth, rooms: []json.RawMessage{},
		seen: make(map[id.Room]bool), remote: make(map[id.Room]*knownRoom)}
	var err error
	if h.suggested, err = core.QueryFlag(r, "suggested_only"); err != nil {
		return nil, err
	}
	q := r.URL.Query()
	if text := q.Get("max_depth"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return nil, merr.InvalidParam("max_depth must be a non-negative integer")
		}
		h.depth = min(n, maxHierarchyDepth)
	}
	if h.limit, err = core.QueryLimit(r, nil, maxHierarchy, maxHierarchy); err != nil {
		return nil, err
	}
	if h.limit == 0 {
		return nil, merr.InvalidParam("limit must be greater than 0")
	}
	if from := q.Get("from"); from != "" {
		digits, _, _ := strings.Cut(strings.TrimPrefix(from, "h"), "_")
		if h.skip, err = strconv.Atoi(digits); err != nil || h.skip < 1 || h.token(h.skip) != from {
			return nil, merr.InvalidParam("from is not a token of this walk: suggested_only and max_depth must stay the same")
		}
	}
	return h, nil
}

// token carries what must not change between pages.
func (h *hierarchy) token(skip int) string {
	return "h" + strconv.Itoa(skip) + "_" + strconv.Itoa(h.depth) + "_" + strconv.FormatBool(h.suggested)
}

type step struct {
	Target
	depth int
}

func (h *hierarchy) walk(ctx context.Context, root id.Room) error {
	stack := []step{{Target: Target{Room: root}}}
	found := 0
	for len(stack) > 0 {
		at := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if h.seen[at.Room] {
			continue
		}
		h.seen[at.Room] = true
		if h.visits++; h.visits > maxHierarchyVisits {
			return nil
		}
		room, err := h.look(ctx, at.Target)
		if err != nil {
			return err
		}
		if room == nil {
			if at.Room == root {
				return merr.Forbidden("User " + string(h.user) + " not in room " + string(root) + ", and room previews are disabled")
			}
			continue
		}
		if len(h.rooms) >= h.limit {
			h.more = true
			return nil
		}
		if found++; found > h.skip {
			if err := h.add(room); err != nil {
				return err
			}
		}
		if at.depth >= h.depth || !room.IsSpace() {
			continue
		}
		children := h.wanted(room.Children)
		for _, child := range slices.Backward(children) {
			stack = append(stack, step{Target{child.Room, child.Via}, at.depth + 1})
		}
	}
	return nil
}

func (h *hierarchy) wanted(children []roomdir.Child) []roomdir.Child {
	sorted := roomdir.Ordered(children)
	if h.suggested {
		sorted = slices.DeleteFunc(sorted, func(c roomdir.Child) bool { return !c.Suggested })
	}
	return sorted
}

func (h *hierarchy) add(room *knownRoom) error {
	shown := struct {
		*roomdir.Summary
		ChildrenState []json.RawMessage `json:"children_state"`
	}{room.Summary, room.ChildrenState}
	if room.IsSpace() { // in the order of the section "Ordering of children within a space"
		shown.ChildrenState = []json.RawMessage{}
		for _, c := range h.wanted(room.Children) {
			shown.ChildrenState = append(shown.ChildrenState, c.JSON)
		}
	}
	raw, err := json.Marshal(shown)
	h.rooms = append(h.rooms, raw)
	return err
}

// look finds a room here, in what other servers told of their rooms' children, or by asking them.
func (h *hierarchy) look(ctx context.Context, t Target) (*knownRoom, error) {
	if room, ours, err := h.c.summaryOf(ctx, h.user, t.Room); ours || err != nil {
		return room, err
	}
	if room := h.remote[t.Room]; room != nil {
		return h.c.shown(ctx, h.user, room)
	}
	room, below, err := h.c.askSummary(ctx, h.origin, h.user, t, &h.asks)
	for roomID, child := range below {
		h.remote[roomID] = child
	}
	return room, err
}
