package fedin

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	"hanse/pkg/roomdir"
)

// maxPublic bounds a page of the directory.
const maxPublic = 500

// publicQuery is what POST publicRooms asks for (server-server API, "Published Room Directory").
type publicQuery struct {
	Limit    *int   `json:"limit"`
	Since    string `json:"since"`
	Instance string `json:"third_party_instance_id"`
	Filter   struct {
		Term  string    `json:"generic_search_term"`
		Types []*string `json:"room_types"`
	} `json:"filter"`
}

func (f *Fedin) publicRooms(w http.ResponseWriter, q *request) error {
	query := q.URL.Query()
	p := publicQuery{Since: query.Get("since"), Instance: query.Get("third_party_instance_id")}
	if text := query.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			return merr.InvalidParam("limit is not a number")
		}
		p.Limit = &n
	}
	return f.answerPublic(w, q, p)
}

func (f *Fedin) searchPublicRooms(w http.ResponseWriter, q *request) error {
	var p publicQuery
	if err := q.decode(&p); err != nil {
		return err
	}
	return f.answerPublic(w, q, p)
}

func (f *Fedin) answerPublic(w http.ResponseWriter, q *request, p publicQuery) error {
	if !f.cfg.PublicRooms {
		return merr.Forbidden("The directory of this server is not open to others")
	}
	ask := roomdir.PublicQuery{Term: p.Filter.Term, Limit: maxPublic}
	if p.Limit != nil && *p.Limit > 0 {
		ask.Limit = min(*p.Limit, maxPublic)
	}
	if p.Filter.Types != nil {
		ask.Types = []string{}
		for _, t := range p.Filter.Types {
			if t == nil {
				ask.Types = append(ask.Types, "")
			} else {
				ask.Types = append(ask.Types, *t)
			}
		}
	}
	if err := readPlace(p.Since, &ask); err != nil {
		return err
	}
	page := &roomdir.PublicPage{}
	if p.Instance == "" { // networks of bridges have directories of their own, of which we have none
		var err error
		if page, err = f.directory.Public(q.Context(), ask); err != nil {
			return err
		}
	}
	chunk, err := f.admitting(q.Context(), page.Rooms, q.origin)
	if err != nil {
		return err
	}
	answer := struct {
		Chunk []*roomdir.Summary `json:"chunk"`
		Next  string             `json:"next_batch,omitempty"`
		Prev  string             `json:"prev_batch,omitempty"`
		Total int                `json:"total_room_count_estimate"`
	}{Chunk: chunk, Total: page.Total}
	if n := len(page.Rooms); n > 0 {
		if page.Next {
			answer.Next = placeToken("n", page.Rooms[n-1])
		}
		if page.Prev {
			answer.Prev = placeToken("p", page.Rooms[0])
		}
	}
	return httpx.OK(w, answer)
}

// admitting leaves out the rooms whose access control lists deny a server: it cannot join them.
func (f *Fedin) admitting(ctx context.Context, page []*roomdir.Summary, server id.Server) ([]*roomdir.Summary, error) {
	ids := make([]id.Room, len(page))
	for i, s := range page {
		ids[i] = s.RoomID
	}
	rooms, err := f.rooms.Rooms(ctx, ids)
	if err != nil {
		return nil, err
	}
	chunk := make([]*roomdir.Summary, 0, len(page))
	for _, s := range page {
		if room := rooms[s.RoomID]; room != nil {
			list, err := f.acl(ctx, room)
			if err != nil {
				return nil, err
			}
			if list.Allows(server) {
				chunk = append(chunk, s)
			}
		}
	}
	return chunk, nil
}

// placeToken names a place in the directory and the direction in which to go on.
func placeToken(direction string, s *roomdir.Summary) string {
	return base64.RawURLEncoding.EncodeToString([]byte(direction + strconv.Itoa(s.Joined) + " " + string(s.RoomID)))
}

func readPlace(token string, into *roomdir.PublicQuery) error {
	if token == "" {
		return nil
	}
	bad := merr.InvalidParam("since is not a token of this endpoint")
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(raw) < 2 {
		return bad
	}
	count, room, ok := strings.Cut(string(raw[1:]), " ")
	n, err := strconv.Atoi(count)
	if !ok || err != nil {
		return bad
	}
	place := &roomdir.Place{Joined: n, Room: id.Room(room)}
	switch raw[0] {
	case 'n':
		into.After = place
	case 'p':
		into.Before = place
	default:
		return bad
	}
	return nil
}

// spaceRoom is a room in the answer of GET hierarchy.
type spaceRoom struct {
	*roomdir.Summary
	Children []json.RawMessage `json:"children_state"`
}

// maxSpaceChildren bounds the children of a space that are described.
const maxSpaceChildren = 100

// hierarchy answers GET hierarchy/{roomId} (server-server API, "Spaces").
func (f *Fedin) hierarchy(w http.ResponseWriter, q *request) error {
	ctx := q.Context()
	notFound := merr.NotFound("Unknown room")
	room, err := f.openRoom(q)
	if merr.HasCode(err, merr.CodeForbidden) {
		return notFound
	}
	if err != nil {
		return err
	}
	s, err := f.directory.Summary(ctx, room)
	if err != nil {
		return err
	}
	may, err := f.mayKnow(ctx, room, s, q.origin)
	if err != nil {
		return err
	}
	if room.JoinedLocal == 0 || !may {
		return notFound
	}
	suggestedOnly := q.URL.Query().Get("suggested_only") == "true"
	kids := childrenOf(s, suggestedOnly)
	answer := struct {
		Room         spaceRoom   `json:"room"`
		Children     []spaceRoom `json:"children"`
		Inaccessible []id.Room   `json:"inaccessible_children"`
	}{spaceRoom{s, stripped(kids)}, []spaceRoom{}, []id.Room{}}
	kids = kids[:min(len(kids), maxSpaceChildren)]
	ids := make([]id.Room, len(kids))
	for i, c := range kids {
		ids[i] = c.Room
	}
	rooms, err := f.rooms.Rooms(ctx, ids)
	if err != nil {
		return err
	}
	for _, roomID := range ids {
		child := rooms[roomID]
		if child == nil || child.JoinedLocal == 0 {
			continue // others know better
		}
		cs, err := f.directory.Summary(ctx, child)
		if err != nil {
			return err
		}
		may, err := f.mayKnow(ctx, child, cs, q.origin)
		if err != nil {
			return err
		}
		if !may {
			answer.Inaccessible = append(answer.Inaccessible, roomID)
			continue
		}
		answer.Children = append(answer.Children, spaceRoom{cs, stripped(childrenOf(cs, suggestedOnly))})
	}
	return httpx.OK(w, answer)
}

func childrenOf(s *roomdir.Summary, suggestedOnly bool) []roomdir.Child {
	if !s.IsSpace() {
		return nil
	}
	kids := roomdir.Ordered(s.Children)
	if suggestedOnly {
		kids = slices.DeleteFunc(kids, func(c roomdir.Child) bool { return !c.Suggested })
	}
	return kids
}

func stripped(kids []roomdir.Child) []json.RawMessage {
	out := make([]json.RawMessage, len(kids))
	for i, c := range kids {
		out[i] = c.JSON
	}
	return out
}

// mayKnow says whether a server may be told of a room: if its users could join, knock or peek, or are in the room, were
// invited, or are in a room whose members may join.
func (f *Fedin) mayKnow(ctx context.Context, room *roomdb.Room, s *roomdir.Summary, server id.Server) (bool, error) {
	if err := f.admitted(ctx, room, server); err != nil {
		if merr.HasCode(err, merr.CodeForbidden) {
			return false, nil
		}
		return false, err
	}
	if s.Open() {
		return true, nil
	}
	in, err := f.rooms.InRoom(ctx, room.Part, room.NID, server)
	if err != nil || in {
		return in, err
	}
	for _, other := range s.AllowedRooms[:min(len(s.AllowedRooms), 10)] {
		r, err := f.rooms.Room(ctx, other)
		if errors.Is(err, roomdb.ErrNotFound) {
			continue
		}
		if err != nil {
			return false, err
		}
		if in, err := f.rooms.InRoom(ctx, r.Part, r.NID, server); err != nil || in {
			return in, err
		}
	}
	return f.invited(ctx, room, server)
}

// invited says whether a user of the server has an invite.
func (f *Fedin) invited(ctx context.Context, room *roomdb.Room, server id.Server) (bool, error) {
	if room.Invited == 0 {
		return false, nil
	}
	m, err := f.rooms.State(ctx, room.Part, room.SID)
	if err != nil {
		return false, err
	}
	var nids []int64
	for key, nid := range m.Type("m.room.member") {
		if strings.HasSuffix(key.StateKey, ":"+string(server)) {
			nids = append(nids, nid)
		}
	}
	members, err := f.rooms.Events(ctx, room.Part, nids)
	if err != nil {
		return false, err
	}
	for _, e := range members {
		if gjson.GetBytes(e.Content, "membership").Str == "invite" {
			return true, nil
		}
	}
	return false, nil
}
