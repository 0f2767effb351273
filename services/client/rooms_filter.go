package client

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
	"hanse/pkg/token"
)

// queryFilter reads the filter parameter: a RoomEventFilter as JSON (client-server API, "Filtering").
func queryFilter(r *http.Request) (*roomEventFilter, error) {
	f := new(roomEventFilter)
	text := r.URL.Query().Get("filter")
	if text == "" {
		return f, nil
	}
	if len(text) > maxFilter {
		return nil, merr.InvalidParam("filter is too long")
	}
	if err := httpx.CheckJSON([]byte(text)); err != nil {
		return nil, merr.InvalidParam("filter is not JSON")
	}
	if err := json.Unmarshal([]byte(text), f); err != nil {
		return nil, merr.InvalidParam("filter: " + err.Error())
	}
	if err := checkRooms(f.Rooms, f.NotRooms); err != nil {
		return nil, err
	}
	return f, f.eventFilter.check()
}

// query is the part of the filter that PostgreSQL applies.
func (f *roomEventFilter) query() roomdb.Filter {
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

// wantsRoom says whether the filter lets anything of the room through.
func (f *roomEventFilter) wantsRoom(room id.Room) bool {
	if f.NotRooms != nil && slices.Contains(*f.NotRooms, room) {
		return false
	}
	return f.Rooms == nil || slices.Contains(*f.Rooms, room)
}

// wants applies the filter to an event of state, as query does for the timeline.
func (f *roomEventFilter) wants(e *event.PDU) bool {
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

func (f *roomEventFilter) lazy() bool { return f.LazyLoadMembers != nil && *f.LazyLoadMembers }

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

// queryLimit reads the limit parameter.
func queryLimit(r *http.Request, f *roomEventFilter, standard, most int) (int, error) {
	text := r.URL.Query().Get("limit")
	if text == "" {
		if f != nil && f.Limit != nil {
			return min(*f.Limit, most), nil
		}
		return standard, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, merr.InvalidParam("limit must be a non-negative integer")
	}
	return min(n, most), nil
}

// queryFlag reads a boolean parameter.
func queryFlag(r *http.Request, name string) (bool, error) {
	switch r.URL.Query().Get(name) {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	}
	return false, merr.InvalidParam(name + " must be true or false")
}

// position reads a token that names a place in a room's timeline: one of ours, or that of a /sync, or of sliding sync. A /sync from before the
// user was in any room of the partition has no place in it: it lies before the user's join.
func (a *access) position(text string) (roomdb.Place, error) {
	if place, err := roomdb.ParsePlace(text); err == nil {
		return place, nil
	}
	s, err := token.ParseSync(text, a.reader.User)
	if err != nil {
		slide, err := token.ParseSlide(text, a.reader.User)
		if err != nil {
			return 0, merr.InvalidParam("Invalid token")
		}
		s = slide.Sync
	}
	if pos, ok := s.At(a.room.Part); ok {
		return roomdb.At(pos), nil
	}
	if a.joined > 0 {
		return roomdb.At(a.joined - 1), nil
	}
	return roomdb.At(a.room.LastPos), nil
}

// direction reads the dir parameter; true for backwards.
func direction(r *http.Request) (bool, error) { return directionIn(r, "dir") }

// directionIn is direction for a parameter by another name.
func directionIn(r *http.Request, name string) (bool, error) {
	switch r.URL.Query().Get(name) {
	case "b":
		return true, nil
	case "f":
		return false, nil
	case "":
		return false, merr.MissingParam(name)
	}
	return false, merr.InvalidParam(name + " must be b or f")
}
