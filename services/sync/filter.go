package sync

import (
	"encoding/json"
	"slices"
	"strings"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/roomdb"
)

// filter is a client's filter (client-server API, section "Filtering").
type filter struct {
	EventFields []string    `json:"event_fields"`
	EventFormat string      `json:"event_format"`
	Presence    eventFilter `json:"presence"`
	AccountData eventFilter `json:"account_data"`
	Room        roomFilter  `json:"room"`

	size int64 // bytes in memory, about
}

type eventFilter struct {
	Limit      *int      `json:"limit"`
	Types      []string  `json:"types"`
	NotTypes   []string  `json:"not_types"`
	Senders    []id.User `json:"senders"`
	NotSenders []id.User `json:"not_senders"`
}

type roomEventFilter struct {
	eventFilter
	Rooms                     []id.Room `json:"rooms"`
	NotRooms                  []id.Room `json:"not_rooms"`
	ContainsURL               *bool     `json:"contains_url"`
	LazyLoadMembers           bool      `json:"lazy_load_members"`
	IncludeRedundantMembers   bool      `json:"include_redundant_members"`
	UnreadThreadNotifications bool      `json:"unread_thread_notifications"`
	// What events relate to (MSC3874), and what relates to them (MSC3440).
	RelTypes         []string  `json:"rel_types"`
	NotRelTypes      []string  `json:"not_rel_types"`
	RelatedBySenders []id.User `json:"related_by_senders"`
	RelatedByTypes   []string  `json:"related_by_rel_types"`
}

type roomFilter struct {
	Rooms        []id.Room       `json:"rooms"`
	NotRooms     []id.Room       `json:"not_rooms"`
	IncludeLeave bool            `json:"include_leave"`
	State        roomEventFilter `json:"state"`
	Timeline     roomEventFilter `json:"timeline"`
	Ephemeral    roomEventFilter `json:"ephemeral"`
	AccountData  roomEventFilter `json:"account_data"`
}

// The limits of the timeline of a room.
const (
	defaultTimeline = 10
	maxTimeline     = 100
)

// The values of event_format.
const (
	formatClient     = "client"
	formatFederation = "federation"
)

func parseFilter(raw []byte) (*filter, error) {
	f := &filter{size: 1000 + 4*int64(len(raw))}
	if err := json.Unmarshal(raw, f); err != nil {
		return nil, merr.InvalidParam("filter: " + err.Error())
	}
	switch f.EventFormat {
	case "", formatClient, formatFederation:
		return f, nil
	}
	return nil, merr.InvalidParam("filter: event_format is neither client nor federation")
}

func (f *filter) timelineLimit() int {
	l := f.Room.Timeline.Limit
	if l == nil {
		return defaultTimeline
	}
	return min(max(*l, 0), maxTimeline)
}

// wanted says which events of timelines the poll asks for.
func (p *poll) wanted() wanted { return wanted{&p.filter.Room.Timeline, p.filter.timelineLimit()} }

// wantsRoom says whether the room is in the answer at all.
func (f *filter) wantsRoom(room id.Room) bool { return listed(f.Room.Rooms, f.Room.NotRooms, room) }

func (f *roomEventFilter) wantsRoom(room id.Room) bool { return listed(f.Rooms, f.NotRooms, room) }

// listed says whether v passes a list of what is wanted and one of what is not.
func listed[T comparable](wanted, unwanted []T, v T) bool {
	if slices.Contains(unwanted, v) {
		return false
	}
	return wanted == nil || slices.Contains(wanted, v)
}

// wantsType says whether a type passes; * in a filter stands for any characters.
func (f *eventFilter) wantsType(typ string) bool {
	if matchesAny(f.NotTypes, typ) {
		return false
	}
	return f.Types == nil || matchesAny(f.Types, typ)
}

func matchesAny(patterns []string, typ string) bool {
	for _, p := range patterns {
		if matches(p, typ) {
			return true
		}
	}
	return false
}

func matches(pattern, s string) bool {
	first, rest, wild := strings.Cut(pattern, "*")
	if !wild {
		return pattern == s
	}
	if !strings.HasPrefix(s, first) {
		return false
	}
	s = s[len(first):]
	for {
		next, more, wild := strings.Cut(rest, "*")
		if !wild {
			return strings.HasSuffix(s, rest)
		}
		at := strings.Index(s, next)
		if at < 0 {
			return false
		}
		s, rest = s[at+len(next):], more
	}
}

// wants says whether an event passes.
func (f *roomEventFilter) wants(e *event.PDU) bool {
	if !f.wantsType(e.Type) || !listed(f.Senders, f.NotSenders, e.Sender) || !f.wantsRoom(e.RoomID) {
		return false
	}
	if f.RelTypes != nil || f.NotRelTypes != nil {
		if typ := event.RelationType(e.Content); !listed(f.RelTypes, f.NotRelTypes, typ) {
			return false
		}
	}
	return f.ContainsURL == nil || *f.ContainsURL == hasURL(e)
}

// relatedBy says that it takes PostgreSQL to tell which events pass.
func (f *roomEventFilter) relatedBy() bool {
	return f.RelatedBySenders != nil || f.RelatedByTypes != nil
}

func hasURL(e *event.PDU) bool {
	var c struct {
		URL *string `json:"url"`
	}
	return json.Unmarshal(e.Content, &c) == nil && c.URL != nil
}

// all says that no event can fail.
func (f *roomEventFilter) all() bool {
	return f.Types == nil && f.NotTypes == nil && f.Senders == nil && f.NotSenders == nil && f.Rooms == nil &&
		f.NotRooms == nil && f.ContainsURL == nil && f.RelTypes == nil && f.NotRelTypes == nil && !f.relatedBy()
}

// onlyTypes says that no event can fail but by its type.
func (f *roomEventFilter) onlyTypes() bool {
	g := *f
	g.Types, g.NotTypes = nil, nil
	return g.all()
}

// query is the filter as PostgreSQL applies it.
func (f *roomEventFilter) query() roomdb.Filter {
	return roomdb.Filter{Types: f.Types, NotTypes: f.NotTypes, Senders: f.Senders, NotSenders: f.NotSenders, ContainsURL: f.ContainsURL,
		RelTypes: f.RelTypes, NotRelTypes: f.NotRelTypes, RelatedByTypes: f.RelatedByTypes, RelatedBySenders: f.RelatedBySenders}
}
