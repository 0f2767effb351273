package directory

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"

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
	// summaryTime bounds the question to one other server, summaryServers how many are asked.
	summaryTime    = 10 * time.Second
	summaryServers = 3

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
	known, err := c.summaryOf(ctx, user, t.Room)
	if err != nil {
		return err
	}
	if known == nil && user != "" {
		if known, _, err = c.askSummary(ctx, c.Server(r), user, t); err != nil {
			return err
		}
	}
	if known == nil {
		return merr.NotFound("Room not found.")
	}
	known.ChildrenState = nil
	return httpx.OK(w, known)
}

// summaryOf returns the summary of a room that we are in, nil for others and for rooms that the user may not know of.
func (c *Directory) summaryOf(ctx context.Context, user id.User, roomID id.Room) (*knownRoom, error) {
	room, err := c.Rooms.Room(ctx, roomID)
	if errors.Is(err, roomdb.ErrNotFound) || (err == nil && room.JoinedLocal == 0) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s, err := c.dir.Summary(ctx, room)
	if err != nil {
		return nil, err
	}
	known := &knownRoom{Summary: s, ChildrenState: []json.RawMessage{}}
	if s.IsSpace() {
		for _, child := range s.Children {
			known.ChildrenState = append(known.ChildrenState, child.JSON)
		}
	}
	may, err := c.mayKnow(ctx, user, known)
	if err != nil || !may {
		return nil, err
	}
	return known, nil
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

// askSummary asks servers that may be in the room. The rooms below it that the answer tells of come along.
func (c *Directory) askSummary(ctx context.Context, origin id.Server, user id.User, t Target) (*knownRoom, map[id.Room]*knownRoom, error) {
	var answer struct {
		Room     *knownRoom   `json:"room"`
		Children []*knownRoom `json:"children"`
	}
	asked := 0
	for _, server := range append(slices.Clone(t.Servers), t.Room.Server()) {
		if server == "" || c.Servers.IsLocal(server) {
			continue
		}
		if asked++; asked > summaryServers {
			break
		}
		uri := "/_matrix/federation/v1/hierarchy/" + url.PathEscape(string(t.Room)) + "?suggested_only=false"
		if err := c.FederateSparing(ctx, origin, server, http.MethodGet, uri, nil, &answer, summaryTime); err != nil {
			c.Log.DebugContext(ctx, "ask for a room", "room", t.Room, "server", server, "err", err)
			continue
		}
		if answer.Room != nil && answer.Room.Summary != nil && answer.Room.RoomID == t.Room {
			break
		}
	}
	room := answer.Room
	if room == nil || room.Summary == nil || room.RoomID != t.Room {
		return nil, nil, nil
	}
	readChildren(room)
	below := make(map[id.Room]*knownRoom, len(answer.Children))
	for _, child := range answer.Children {
		if child == nil || child.Summary == nil {
			continue
		}
		if !child.IsSpace() { // the rooms below a space further down are asked for when it is reached
			child.ChildrenState = []json.RawMessage{}
			below[child.RoomID] = child
		}
	}
	may, err := c.mayKnow(ctx, user, room)
	if err != nil || !may {
		return nil, nil, err
	}
	return room, below, nil
}

// AdmitsGuests asks servers that may be in a room whether guests may join it.
func (c *Directory) AdmitsGuests(ctx context.Context, origin id.Server, user id.User, t Target) (bool, error) {
	told, _, err := c.askSummary(ctx, origin, user, t)
	return told != nil && told.GuestCanJoin, err
}

// readChildren makes children of what another server sent as such.
func readChildren(room *knownRoom) {
	state := room.ChildrenState
	room.ChildrenState, room.Children = []json.RawMessage{}, nil
	if !room.IsSpace() {
		return
	}
	for _, raw := range state {
		e := gjson.ParseBytes(raw)
		child := roomdir.Child{Sent: e.Get("origin_server_ts").Int(), Suggested: e.Get("content.suggested").Type == gjson.True, JSON: raw}
		var err error
		if child.Room, err = id.ParseRoom(e.Get("state_key").Str); err != nil || e.Get("type").Str != "m.space.child" {
			continue
		}
		if order := e.Get("content.order").Str; roomdir.ValidOrder(order) {
			child.Order = order
		}
		for _, v := range e.Get("content.via").Array() {
			if s, err := id.ParseServer(v.Str); err == nil && len(child.Via) < maxVia {
				child.Via = append(child.Via, s)
			}
		}
		room.Children = append(room.Children, child)
		room.ChildrenState = append(room.ChildrenState, raw)
	}
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
	asks   int
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
	if room, err := h.c.summaryOf(ctx, h.user, t.Room); room != nil || err != nil {
		return room, err
	}
	if room := h.remote[t.Room]; room != nil {
		may, err := h.c.mayKnow(ctx, h.user, room)
		if err != nil || !may {
			return nil, err
		}
		return room, nil
	}
	if h.asks++; h.asks > maxHierarchyAsks {
		return nil, nil
	}
	room, below, err := h.c.askSummary(ctx, h.origin, h.user, t)
	for roomID, child := range below {
		h.remote[roomID] = child
	}
	return room, err
}
