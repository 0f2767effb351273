package directory

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdir"
	"hanse/pkg/session"
	"hanse/services/client/core"
)

const (
	defaultPublic = 100
	maxPublic     = 500
	maxSearchTerm = 512
	// publicTime bounds the question to another server.
	publicTime = 30 * time.Second
)

// publicRequest is a page of the room directory that somebody asks for.
type publicRequest struct {
	Limit  *int   `json:"limit,omitempty"`
	Since  string `json:"since,omitempty"`
	Filter struct {
		Term  string     `json:"generic_search_term,omitempty"`
		Types *[]*string `json:"room_types,omitempty"`
	} `json:"filter"`
	AllNetworks bool   `json:"include_all_networks,omitempty"`
	Network     string `json:"third_party_instance_id,omitempty"`
}

// getPublicRooms answers GET /publicRooms (client-server API, "Published Room Directory").
func (c *Directory) getPublicRooms(w http.ResponseWriter, r *http.Request) error {
	var q publicRequest
	query := r.URL.Query()
	if query.Get("limit") != "" {
		n, err := core.QueryLimit(r, nil, defaultPublic, maxPublic)
		if err != nil {
			return err
		}
		q.Limit = &n
	}
	q.Since = query.Get("since")
	return c.publicRoomsPage(w, r, &q)
}

// postPublicRooms answers POST /publicRooms.
func (c *Directory) postPublicRooms(w http.ResponseWriter, r *http.Request) error {
	var q publicRequest
	if err := httpx.Decode(r, &q); err != nil {
		return err
	}
	return c.publicRoomsPage(w, r, &q)
}

func (c *Directory) publicRoomsPage(w http.ResponseWriter, r *http.Request, q *publicRequest) error {
	if len(q.Filter.Term) > maxSearchTerm {
		return merr.InvalidParam("The search term is too long")
	}
	if q.Limit != nil && *q.Limit < 0 {
		return merr.InvalidParam("limit must not be negative")
	}
	if text := r.URL.Query().Get("server"); text != "" {
		server, err := id.ParseServer(text)
		if err != nil {
			return merr.InvalidParam("Not a valid server name")
		}
		if !c.Servers.IsLocal(server) {
			return c.publicRoomsOf(w, r, q, server)
		}
	}
	query, err := q.local()
	if err != nil {
		return err
	}
	page, err := c.dir.Public(r.Context(), query)
	if err != nil {
		return err
	}
	return httpx.OK(w, publicAnswer(page))
}

// publicRoomsOf asks another server, for somebody who is logged in.
func (c *Directory) publicRoomsOf(w http.ResponseWriter, r *http.Request, q *publicRequest, server id.Server) error {
	if session.From(r) == nil {
		return merr.MissingToken()
	}
	if err := c.Limit(r, "search"); err != nil {
		return err
	}
	var answer map[string]any
	err := c.Federate(r.Context(), c.Server(r), server, http.MethodPost, "/_matrix/federation/v1/publicRooms", q, &answer, publicTime)
	if err != nil {
		return err
	}
	return httpx.OK(w, answer)
}

// local is the question for our own directory. Networks of application services other than Matrix are not in it.
func (q *publicRequest) local() (roomdir.PublicQuery, error) {
	out := roomdir.PublicQuery{Term: strings.TrimSpace(q.Filter.Term), Limit: defaultPublic}
	if q.Limit != nil && *q.Limit > 0 {
		out.Limit = min(*q.Limit, maxPublic)
	}
	if q.Filter.Types != nil {
		out.Types = []string{}
		for _, t := range *q.Filter.Types {
			if t == nil {
				out.Types = append(out.Types, "")
			} else {
				out.Types = append(out.Types, *t)
			}
		}
	}
	if q.Since == "" {
		return out, nil
	}
	place, ok := parsePlace(q.Since[1:])
	switch {
	case ok && q.Since[0] == 'n':
		out.After = place
	case ok && q.Since[0] == 'p':
		out.Before = place
	default:
		return out, merr.InvalidParam("Invalid since token")
	}
	return out, nil
}

func parsePlace(text string) (*roomdir.Place, bool) {
	joined, room, ok := strings.Cut(text, "_")
	if !ok {
		return nil, false
	}
	n, err := strconv.Atoi(joined)
	if err != nil || n < 0 {
		return nil, false
	}
	roomID, err := id.ParseRoom(room)
	return &roomdir.Place{Joined: n, Room: roomID}, err == nil
}

func publicAnswer(page *roomdir.PublicPage) map[string]any {
	chunk := make([]roomdir.Summary, len(page.Rooms))
	for i, s := range page.Rooms {
		chunk[i] = *s
		chunk[i].Encryption, chunk[i].RoomVersion, chunk[i].AllowedRooms = "", "", nil // not of this endpoint
	}
	answer := map[string]any{"chunk": chunk, "total_room_count_estimate": page.Total}
	token := func(kind string, s *roomdir.Summary) string {
		return kind + strconv.Itoa(s.Joined) + "_" + string(s.RoomID)
	}
	if page.Next && len(page.Rooms) > 0 {
		answer["next_batch"] = token("n", page.Rooms[len(page.Rooms)-1])
	}
	if page.Prev && len(page.Rooms) > 0 {
		answer["prev_batch"] = token("p", page.Rooms[0])
	}
	return answer
}
