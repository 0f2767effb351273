package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/userdb"
)

// maxFilter bounds a stored filter, in bytes.
const maxFilter = 64 << 10

func (c *Client) filterRoutes(rt *routes) {
	rt.guest.Handle("POST /user/{userId}/filter", c.putFilter, httpx.MaxBody(maxFilter))
	rt.guest.Handle("GET /user/{userId}/filter/{filterId}", c.getFilter)
}

// The shape of a filter (client-server API, "Filtering"). Only what is checked is listed; unknown members are kept.
type (
	eventFilter struct {
		Limit      *int       `json:"limit"`
		Types      *[]string  `json:"types"`
		NotTypes   *[]string  `json:"not_types"`
		Senders    *[]id.User `json:"senders"`
		NotSenders *[]id.User `json:"not_senders"`
	}
	roomEventFilter struct {
		eventFilter
		Rooms                   *[]id.Room `json:"rooms"`
		NotRooms                *[]id.Room `json:"not_rooms"`
		ContainsURL             *bool      `json:"contains_url"`
		LazyLoadMembers         *bool      `json:"lazy_load_members"`
		IncludeRedundantMembers *bool      `json:"include_redundant_members"`
		UnreadThreads           *bool      `json:"unread_thread_notifications"`
		// What events relate to (MSC3874), and what relates to them (MSC3440): not in the specification, and sent by clients.
		RelTypes         *[]string  `json:"rel_types"`
		NotRelTypes      *[]string  `json:"not_rel_types"`
		RelatedBySenders *[]id.User `json:"related_by_senders"`
		RelatedByTypes   *[]string  `json:"related_by_rel_types"`
		// By the names of the proposals.
		UnstableRelTypes    *[]string `json:"org.matrix.msc3874.rel_types"`
		UnstableNotRelTypes *[]string `json:"org.matrix.msc3874.not_rel_types"`
	}
	filter struct {
		EventFields *[]string    `json:"event_fields"`
		EventFormat *string      `json:"event_format"`
		Presence    *eventFilter `json:"presence"`
		AccountData *eventFilter `json:"account_data"`
		Room        *struct {
			Rooms        *[]id.Room       `json:"rooms"`
			NotRooms     *[]id.Room       `json:"not_rooms"`
			IncludeLeave *bool            `json:"include_leave"`
			State        *roomEventFilter `json:"state"`
			Timeline     *roomEventFilter `json:"timeline"`
			Ephemeral    *roomEventFilter `json:"ephemeral"`
			AccountData  *roomEventFilter `json:"account_data"`
		} `json:"room"`
	}
)

func (f *filter) check() error {
	if f.EventFormat != nil && *f.EventFormat != "client" && *f.EventFormat != "federation" {
		return merr.InvalidParam("event_format must be client or federation")
	}
	parts := []*eventFilter{f.Presence, f.AccountData}
	if f.Room != nil {
		if err := checkRooms(f.Room.Rooms, f.Room.NotRooms); err != nil {
			return err
		}
		for _, p := range []*roomEventFilter{f.Room.State, f.Room.Timeline, f.Room.Ephemeral, f.Room.AccountData} {
			if p == nil {
				continue
			}
			if err := checkRooms(p.Rooms, p.NotRooms); err != nil {
				return err
			}
			parts = append(parts, &p.eventFilter)
		}
	}
	for _, p := range parts {
		if err := p.check(); err != nil {
			return err
		}
	}
	return nil
}

func (f *eventFilter) check() error {
	if f == nil {
		return nil
	}
	if f.Limit != nil && *f.Limit <= 0 {
		return merr.InvalidParam("limit must be greater than 0")
	}
	return checkIDs("user", id.ParseUser, f.Senders, f.NotSenders)
}

func checkRooms(lists ...*[]id.Room) error { return checkIDs("room", id.ParseRoom, lists...) }

func checkIDs[T ~string](kind string, parse func(string) (T, error), lists ...*[]T) error {
	for _, ids := range lists {
		if ids == nil {
			continue
		}
		for _, text := range *ids {
			if _, err := parse(string(text)); err != nil {
				return merr.InvalidParam("Not a " + kind + " ID: " + string(text))
			}
		}
	}
	return nil
}

func (c *Client) putFilter(w http.ResponseWriter, r *http.Request) error {
	user, err := ownUser(r)
	if err != nil {
		return err
	}
	body, err := httpx.JSONBody(r)
	if err != nil {
		return err
	}
	var f filter
	if err := httpx.Unmarshal(body, &f); err != nil {
		return err
	}
	if err := f.check(); err != nil {
		return err
	}
	var content bytes.Buffer
	if err := json.Compact(&content, body); err != nil {
		return merr.NotJSON("The request body is not JSON")
	}
	if err := c.mayStore(r.Context(), user, userdb.StoredFilters, c.cfg.Quotas.Filters); err != nil {
		return err
	}
	n, err := c.users.AddFilter(r.Context(), user, content.Bytes())
	if err != nil {
		return err
	}
	return httpx.OK(w, map[string]string{"filter_id": strconv.FormatInt(n, 10)})
}

func (c *Client) getFilter(w http.ResponseWriter, r *http.Request) error {
	user, err := ownUser(r)
	if err != nil {
		return err
	}
	n, err := strconv.ParseInt(param(r, "filterId"), 10, 64)
	if err != nil || n < 0 {
		return merr.InvalidParam("Invalid filter_id")
	}
	content, err := c.users.Filter(r.Context(), user, n)
	if errors.Is(err, userdb.ErrNotFound) {
		return merr.NotFound("No such filter")
	}
	if err != nil {
		return err
	}
	return httpx.Raw(w, http.StatusOK, content)
}
