package filter

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
)

// MaxSize bounds a stored filter, in bytes.
const MaxSize = 64 << 10

// The shape of a filter (client-server API, "Filtering"). Only what is checked is listed; unknown members are kept.
type (
	Event struct {
		Limit      *int       `json:"limit"`
		Types      *[]string  `json:"types"`
		NotTypes   *[]string  `json:"not_types"`
		Senders    *[]id.User `json:"senders"`
		NotSenders *[]id.User `json:"not_senders"`
	}
	Room struct {
		Event
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
	Filter struct {
		EventFields *[]string `json:"event_fields"`
		EventFormat *string   `json:"event_format"`
		Presence    *Event    `json:"presence"`
		AccountData *Event    `json:"account_data"`
		Room        *struct {
			Rooms        *[]id.Room `json:"rooms"`
			NotRooms     *[]id.Room `json:"not_rooms"`
			IncludeLeave *bool      `json:"include_leave"`
			State        *Room      `json:"state"`
			Timeline     *Room      `json:"timeline"`
			Ephemeral    *Room      `json:"ephemeral"`
			AccountData  *Room      `json:"account_data"`
		} `json:"room"`
	}
)

// Check says what is wrong with a filter.
func (f *Filter) Check() error {
	if f.EventFormat != nil && *f.EventFormat != "client" && *f.EventFormat != "federation" {
		return merr.InvalidParam("event_format must be client or federation")
	}
	for _, p := range []*Event{f.Presence, f.AccountData} {
		if err := p.Check(); err != nil {
			return err
		}
	}
	if f.Room == nil {
		return nil
	}
	if err := checkRooms(f.Room.Rooms, f.Room.NotRooms); err != nil {
		return err
	}
	for _, p := range []*Room{f.Room.State, f.Room.Timeline, f.Room.Ephemeral, f.Room.AccountData} {
		if err := p.Check(); err != nil {
			return err
		}
	}
	return nil
}

// Check says what is wrong with a part of a filter; nothing with none.
func (f *Room) Check() error {
	if f == nil {
		return nil
	}
	if err := checkRooms(f.Rooms, f.NotRooms); err != nil {
		return err
	}
	return f.Event.Check()
}

// Check says what is wrong with a part of a filter; nothing with none.
func (f *Event) Check() error {
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

// FromQuery reads the filter parameter: a RoomEventFilter as JSON (client-server API, "Filtering").
func FromQuery(r *http.Request) (*Room, error) {
	f := new(Room)
	text := r.URL.Query().Get("filter")
	if text == "" {
		return f, nil
	}
	if len(text) > MaxSize {
		return nil, merr.InvalidParam("filter is too long")
	}
	if err := httpx.CheckJSON([]byte(text)); err != nil {
		return nil, merr.InvalidParam("filter is not JSON")
	}
	if err := json.Unmarshal([]byte(text), f); err != nil {
		return nil, merr.InvalidParam("filter: " + err.Error())
	}
	return f, f.Check()
}

// Query is the part of the filter that PostgreSQL applies.
func (f *Room) Query() roomdb.Filter {
	q := roomdb.Filter{ContainsURL: f.ContainsURL}
	for to, from := range map[*[]string]*[]string{&q.Types: f.Types, &q.NotTypes: f.NotTypes, &q.RelatedByTypes: f.RelatedByTypes,
		&q.RelTypes: cmp.Or(f.RelTypes, f.UnstableRelTypes), &q.NotRelTypes: cmp.Or(f.NotRelTypes, f.UnstableNotRelTypes)} {
		if from != nil {
			*to = append([]string{}, *from...)
		}
	}
	for to, from := range map[*[]id.User]*[]id.User{&q.Senders: f.Senders, &q.NotSenders: f.NotSenders, &q.RelatedBySenders: f.RelatedBySenders} {
		if from != nil {
			*to = append([]id.User{}, *from...)
		}
	}
	return q
}

// WantsRoom says whether the filter lets anything of the room through.
func (f *Room) WantsRoom(room id.Room) bool {
	if f.NotRooms != nil && slices.Contains(*f.NotRooms, room) {
		return false
	}
	return f.Rooms == nil || slices.Contains(*f.Rooms, room)
}

// Wants applies the filter to an event of state, as query does for the timeline.
func (f *Room) Wants(e *event.PDU) bool {
	listed := func(patterns *[]string) bool {
		return slices.ContainsFunc(*patterns, func(p string) bool { return matchesType(p, e.Type) })
	}
	switch {
	case f.NotTypes != nil && listed(f.NotTypes), f.Types != nil && !listed(f.Types),
		f.NotSenders != nil && slices.Contains(*f.NotSenders, e.Sender), f.Senders != nil && !slices.Contains(*f.Senders, e.Sender):
		return false
	}
	return f.ContainsURL == nil || *f.ContainsURL == hasURL(e)
}

func (f *Room) Lazy() bool { return f.LazyLoadMembers != nil && *f.LazyLoadMembers }

func hasURL(e *event.PDU) bool {
	var content struct {
		URL *string `json:"url"`
	}
	return json.Unmarshal(e.Content, &content) == nil && content.URL != nil
}

// matchesType says whether a type matches a pattern, in which * stands for any characters.
func matchesType(pattern, typ string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == typ
	}
	first, last := parts[0], parts[len(parts)-1]
	if len(typ) < len(first)+len(last) || !strings.HasPrefix(typ, first) || !strings.HasSuffix(typ, last) {
		return false
	}
	rest := typ[len(first) : len(typ)-len(last)]
	for _, p := range parts[1 : len(parts)-1] {
		at := strings.Index(rest, p)
		if at < 0 {
			return false
		}
		rest = rest[at+len(p):]
	}
	return true
}
