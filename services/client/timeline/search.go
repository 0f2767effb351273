package timeline

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"github.com/tidwall/gjson"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	"hanse/pkg/search"
	"hanse/pkg/userdb"
	"hanse/pkg/view"
	"hanse/pkg/words"
	"hanse/services/client/access"
	"hanse/services/client/core"
	"hanse/services/client/filter"
)

const (
	maxSearchBody = 256 << 10
	// maxSearchText bounds what is searched for, in bytes.
	maxSearchText = 1000
	// searchStep is how many matches are looked at at a time, searchSteps how often a page looks on for what the user may see.
	searchStep, searchSteps = 100, 5
	defaultAround           = 5
	maxAround               = 20
	// maxPredecessors bounds how far back the versions of a room are followed.
	maxPredecessors = 20
)

// searchRequest is the body of POST /search.
type searchRequest struct {
	Categories struct {
		RoomEvents *roomSearch `json:"room_events"`
	} `json:"search_categories"`
}

// roomSearch asks for events.
type roomSearch struct {
	Term    *string     `json:"search_term"`
	Keys    []string    `json:"keys"`
	Filter  filter.Room `json:"filter"`
	OrderBy string      `json:"order_by"`
	Context *struct {
		Before  *int `json:"before_limit"`
		After   *int `json:"after_limit"`
		Profile bool `json:"include_profile"`
	} `json:"event_context"`
	State     bool `json:"include_state"`
	Groupings struct {
		By []struct {
			Key string `json:"key"`
		} `json:"group_by"`
	} `json:"groupings"`
}

// search answers POST /search (client-server API, "Server Side Search").
func (c *Timeline) search(w http.ResponseWriter, r *http.Request) error {
	var q searchRequest
	if err := httpx.Decode(r, &q); err != nil {
		return err
	}
	if !c.searchEnabled {
		return merr.New(http.StatusBadRequest, merr.CodeUnknown, "Search is disabled on this homeserver")
	}
	if q.Categories.RoomEvents == nil {
		return httpx.OK(w, map[string]any{"search_categories": map[string]any{}})
	}
	if err := c.Limit(r, "search"); err != nil {
		return err
	}
	s, err := c.newSearcher(r, q.Categories.RoomEvents)
	if err != nil {
		return err
	}
	ctx := r.Context()
	if err := s.find(ctx); err != nil {
		return err
	}
	return s.answer(w, r)
}

// searcher is a search under way.
type searcher struct {
	c    *Timeline
	user id.User
	want *roomSearch
	page *searchPage // nil: the first one
	// highlights are what to highlight in the results.
	highlights []string
	query      search.Query
	limit      int
	rooms      map[roomdb.RoomKey]*userdb.Membership
	access     map[roomdb.RoomKey]*access.View // of rooms that have results; nil for those that cannot be read
	ignored    view.Ignored

	results []*searchResult
	next    *search.Key
}

type searchResult struct {
	search.Hit
	event         *roomdb.Event
	access        *access.View
	before, after []*roomdb.Event
	start, end    roomdb.Place
}

func (c *Timeline) newSearcher(r *http.Request, q *roomSearch) (*searcher, error) {
	if q.Term == nil {
		return nil, merr.MissingParam("search_term")
	}
	if len(*q.Term) > maxSearchText {
		return nil, merr.InvalidParam("search_term is too long")
	}
	if err := q.Filter.Check(); err != nil {
		return nil, err
	}
	s := &searcher{c: c, user: core.Me(r).User, want: q, limit: 10, access: make(map[roomdb.RoomKey]*access.View)}
	if q.Filter.Limit != nil {
		s.limit = min(*q.Filter.Limit, 50)
	}
	s.query.Words, s.highlights = words.Query(*q.Term, search.MaxQuery)
	switch q.OrderBy {
	case "", "rank":
		s.query.ByRank = true
	case "recent":
	default:
		return nil, merr.InvalidParam("order_by must be rank or recent")
	}
	for _, g := range q.Groupings.By {
		if g.Key != "room_id" && g.Key != "sender" {
			return nil, merr.InvalidParam("Results are grouped by room_id or sender")
		}
	}
	for _, key := range q.Keys {
		field, ok := search.Fields[key]
		if !ok {
			return nil, merr.InvalidParam("Not a key to search: " + key)
		}
		s.query.Fields = append(s.query.Fields, field)
	}
	if q.Keys == nil {
		s.query.Fields = []search.Field{search.Body, search.Name, search.Topic}
	}
	if text := r.URL.Query().Get("next_batch"); text != "" {
		page, err := parseSearchPage(text)
		if err != nil || page.byRank != s.query.ByRank {
			return nil, merr.InvalidParam("Invalid next_batch")
		}
		s.page, s.query.After = page, &page.after
	}
	return s, nil
}

// find fills the page with results that the user may see.
func (s *searcher) find(ctx context.Context) error {
	if len(s.query.Words) == 0 || s.limit == 0 {
		return nil
	}
	if err := s.whereToLook(ctx); err != nil {
		return err
	}
	s.query.Limit = max(s.limit+1, searchStep)
	for range searchSteps {
		hits, err := search.Find(ctx, s.c.shards, s.query)
		if errors.Is(err, search.ErrTimeout) {
			return merr.Unavailable("The search took too long; search for more words").WithCause(err)
		}
		if err != nil {
			return err
		}
		seen, err := s.look(ctx, hits)
		if err != nil {
			return err
		}
		for i, h := range hits {
			if e := seen[i]; e != nil {
				s.results = append(s.results, e)
			}
			if len(s.results) == s.limit {
				more := slices.ContainsFunc(seen[i+1:], func(e *searchResult) bool { return e != nil })
				if more || len(hits) == s.query.Limit {
					s.next = &hits[i].Key
				}
				return nil
			}
			s.query.After = &h.Key
		}
		if len(hits) < s.query.Limit {
			return nil
		}
	}
	s.next = s.query.After
	return nil
}

// whereToLook finds the rooms that the user is or was in and that the filter lets through: of rooms that it names, also what they
// were before upgrades.
func (s *searcher) whereToLook(ctx context.Context) error {
	memberships, err := s.c.Users.Memberships(ctx, s.user)
	if err != nil {
		return err
	}
	ignored, err := s.c.Users.AccountData(ctx, s.user, "", view.IgnoredUsers)
	if err != nil && !errors.Is(err, userdb.ErrNotFound) {
		return err
	}
	s.ignored = view.ParseIgnored(ignored)
	byID := make(map[id.Room]*userdb.Membership, len(memberships))
	for i := range memberships {
		m := &memberships[i]
		if m.Membership == core.Join || (m.Membership == core.Leave || m.Membership == core.Ban) && !m.Forgotten {
			byID[m.Room] = m
		}
	}
	if rooms := s.want.Filter.Rooms; rooms != nil {
		named := make(map[id.Room]*userdb.Membership)
		for _, room := range *rooms {
			if err := s.addVersions(ctx, named, byID, room); err != nil {
				return err
			}
		}
		byID = named
	}
	s.rooms = make(map[roomdb.RoomKey]*userdb.Membership, len(byID))
	for room, m := range byID {
		if s.want.Filter.NotRooms != nil && slices.Contains(*s.want.Filter.NotRooms, room) || m.RoomNID == 0 ||
			s.page != nil && s.page.group == "room_id" && s.page.value != string(room) {
			continue
		}
		key := roomdb.RoomKey{Part: m.RoomPart, NID: m.RoomNID}
		s.rooms[key] = m
		s.query.Rooms = append(s.query.Rooms, key)
	}
	return nil
}

// addVersions adds a room and those that it was upgraded from, as far as the user is or was in them.
func (s *searcher) addVersions(ctx context.Context, to, of map[id.Room]*userdb.Membership, room id.Room) error {
	for range maxPredecessors {
		m := of[room]
		if m == nil || to[room] != nil {
			return nil
		}
		to[room] = m
		row, err := s.c.Rooms.Room(ctx, room)
		if err != nil {
			if errors.Is(err, roomdb.ErrNotFound) {
				return nil
			}
			return err
		}
		st, err := s.c.Rooms.State(ctx, row.Part, row.SID)
		if err != nil {
			return err
		}
		create, err := s.c.Rooms.StateEvent(ctx, row.Part, st, core.TypeCreate, "")
		if err != nil || create == nil {
			return err
		}
		room = id.Room(gjson.GetBytes(create.Content, "predecessor.room_id").Str)
	}
	return nil
}

// look returns, for each of some matches, the result if the user may see it and the filter lets it through.
func (s *searcher) look(ctx context.Context, hits []search.Hit) ([]*searchResult, error) {
	nids := make(map[uint32][]int64)
	var rooms []roomdb.RoomKey
	for _, h := range hits {
		nids[h.Part] = append(nids[h.Part], h.NID)
		key := roomdb.RoomKey{Part: h.Part, NID: h.Room}
		if _, known := s.access[key]; !known && !slices.Contains(rooms, key) {
			rooms = append(rooms, key)
		}
	}
	if err := s.open(ctx, rooms); err != nil {
		return nil, err
	}
	events, err := s.c.Rooms.EventsIn(ctx, nids)
	if err != nil {
		return nil, err
	}
	found := make([]*searchResult, len(hits))
	ofRoom := make(map[*access.View][]int)
	for i, h := range hits {
		e, a := events[h.Part][h.NID], s.access[roomdb.RoomKey{Part: h.Part, NID: h.Room}]
		if e == nil || a == nil || h.Gone || e.RedactedBy != 0 || !e.Visible() || !s.want.Filter.Wants(e.PDU) ||
			s.page != nil && s.page.group == "sender" && s.page.value != string(e.Sender) {
			continue
		}
		found[i] = &searchResult{Hit: h, event: e, access: a}
		ofRoom[a] = append(ofRoom[a], i)
	}
	for a, index := range ofRoom {
		inOrder := make([]*roomdb.Event, len(index))
		for n, i := range index {
			inOrder[n] = found[i].event
		}
		slices.SortFunc(inOrder, func(x, y *roomdb.Event) int { return int(x.Place() - y.Place()) })
		seen, err := s.c.access.Seen(ctx, a, inOrder)
		if err != nil {
			return nil, err
		}
		for _, i := range index {
			if !slices.Contains(seen, found[i].event) {
				found[i] = nil
			}
		}
	}
	return found, nil
}

// open finds out what the user may read of rooms.
func (s *searcher) open(ctx context.Context, rooms []roomdb.RoomKey) error {
	if len(rooms) == 0 {
		return nil
	}
	rows, err := s.c.Rooms.RoomsByNID(ctx, rooms)
	if err != nil {
		return err
	}
	for _, key := range rooms {
		m := s.rooms[key]
		s.access[key] = nil
		row := rows[m.Room]
		if row == nil {
			continue
		}
		a := &access.View{Room: row, Reader: view.Reader{User: s.user, Joined: true}, Membership: m.Membership, Joined: m.JoinPos}
		if m.Membership != core.Join {
			if a, err = s.c.access.Read(ctx, s.user, m.Room); merr.HasCode(err, merr.CodeForbidden) {
				continue
			} else if err != nil {
				return err
			}
		}
		a.Ignored = s.ignored
		s.access[key] = a
	}
	return nil
}
