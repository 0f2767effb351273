package roomdir

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/tidwall/gjson"

	"hanse/pkg/cache"
	"hanse/pkg/matrix/id"
	"hanse/pkg/pg"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

// summaryCache is the budget of a process for summaries, in bytes.
const summaryCache = 4 << 20

// DB is the directory. It is safe for concurrent use.
type DB struct {
	shards *pg.Shards
	rooms  *roomdb.DB
	cache  *cache.Cache[state.Ref, *Summary]
	// announce may be nil.
	announce func(id.Room)
}

// New returns the directory. Metrics may be nil.
func New(shards *pg.Shards, rooms *roomdb.DB, metrics prometheus.Registerer) *DB {
	return &DB{shards: shards, rooms: rooms, cache: cache.New(cache.Config[state.Ref, *Summary]{
		Name: "room_summary", Budget: summaryCache, Metrics: metrics,
		Weigh: func(_ state.Ref, s *Summary) int64 {
			n := int64(400 + len(s.Name) + len(s.Topic) + len(s.AvatarURL) + len(s.CanonicalAlias))
			for _, c := range s.Children {
				n += int64(len(c.JSON) + 100)
			}
			return n
		},
	})}
}

// Summary is what a room tells those who might join it (client-server API, "Room Summary").
type Summary struct {
	RoomID         id.Room   `json:"room_id"`
	Name           string    `json:"name,omitempty"`
	Topic          string    `json:"topic,omitempty"`
	AvatarURL      string    `json:"avatar_url,omitempty"`
	CanonicalAlias string    `json:"canonical_alias,omitempty"`
	JoinRule       string    `json:"join_rule,omitempty"`
	RoomType       string    `json:"room_type,omitempty"`
	Encryption     string    `json:"encryption,omitempty"`
	RoomVersion    string    `json:"room_version,omitempty"`
	AllowedRooms   []id.Room `json:"allowed_room_ids,omitempty"`
	Joined         int       `json:"num_joined_members"`
	GuestCanJoin   bool      `json:"guest_can_join"`
	WorldReadable  bool      `json:"world_readable"`
	// Children are the m.space.child events of a space, in no order, those without a server left out.
	Children []Child `json:"-"`
}

// Child is a valid m.space.child event (client-server API, "Spaces").
type Child struct {
	Room      id.Room
	Order     string // empty if there is none, or it is invalid
	Suggested bool
	Via       []id.Server
	Sent      int64
	// JSON is the stripped event with its origin_server_ts.
	JSON json.RawMessage
}

// typeSpace is the room type of spaces.
const typeSpace = "m.space"

// maxChildren bounds what is read of one space.
const maxChildren = 1000

// summaryTypes are the state events that make a summary.
var summaryTypes = []string{
	"m.room.create", "m.room.name", "m.room.topic", "m.room.avatar", "m.room.canonical_alias", "m.room.join_rules",
	"m.room.history_visibility", "m.room.guest_access", "m.room.encryption",
}

// Summaries returns the summaries of rooms, as of their rows.
func (d *DB) Summaries(ctx context.Context, rooms []*roomdb.Room) (map[id.Room]*Summary, error) {
	out := make(map[id.Room]*Summary, len(rooms))
	var refs []state.Ref
	var missing []*roomdb.Room
	for _, r := range rooms {
		ref := state.Ref{Part: r.Part, SID: r.SID}
		if s, ok := d.cache.Get(ref); ok {
			out[r.ID] = s.with(r)
			continue
		}
		refs, missing = append(refs, ref), append(missing, r)
	}
	if len(missing) == 0 {
		return out, nil
	}
	states, err := d.rooms.States(ctx, refs)
	if err != nil {
		return nil, fmt.Errorf("summaries: %w", err)
	}
	wanted := make(map[uint32][]int64)
	for i, r := range missing {
		wanted[r.Part] = append(wanted[r.Part], entries(states[refs[i]])...)
	}
	events, err := d.rooms.EventsIn(ctx, wanted)
	if err != nil {
		return nil, fmt.Errorf("summaries: %w", err)
	}
	for i, r := range missing {
		s := &Summary{RoomVersion: r.Rules.Version, JoinRule: "invite"}
		for _, nid := range entries(states[refs[i]]) {
			if e := events[r.Part][nid]; e != nil {
				s.read(e)
			}
		}
		s.Children = Ordered(s.Children)
		d.cache.Add(refs[i], s)
		out[r.ID] = s.with(r)
	}
	return out, nil
}

// Summary returns one summary.
func (d *DB) Summary(ctx context.Context, room *roomdb.Room) (*Summary, error) {
	found, err := d.Summaries(ctx, []*roomdb.Room{room})
	return found[room.ID], err
}

func entries(m state.Map) []int64 {
	nids := make([]int64, 0, len(summaryTypes))
	for _, t := range summaryTypes {
		if nid, ok := m.Get(state.Key{Type: t}); ok {
			nids = append(nids, nid)
		}
	}
	children := 0
	for _, nid := range m.Type("m.space.child") {
		if children++; children > maxChildren {
			break
		}
		nids = append(nids, nid)
	}
	return nids
}

// with adds what does not lie in the state.
func (s *Summary) with(r *roomdb.Room) *Summary {
	c := *s
	c.RoomID, c.Joined = r.ID, r.Joined
	return &c
}

func (s *Summary) read(e *roomdb.Event) {
	text := func(key string) string { return gjson.GetBytes(e.Content, key).Str }
	switch e.Type {
	case "m.room.create":
		s.RoomType = text("type")
	case "m.room.name":
		s.Name = text("name")
	case "m.room.topic":
		s.Topic = text("topic")
	case "m.room.avatar":
		s.AvatarURL = text("url")
	case "m.room.canonical_alias":
		s.CanonicalAlias = text("alias")
	case "m.room.encryption":
		s.Encryption = text("algorithm")
	case "m.room.history_visibility":
		s.WorldReadable = text("history_visibility") == "world_readable"
	case "m.room.guest_access":
		s.GuestCanJoin = text("guest_access") == "can_join"
	case "m.room.join_rules":
		if rule := text("join_rule"); rule != "" {
			s.JoinRule = rule
		}
		s.AllowedRooms = allowed(e, s.JoinRule)
	case "m.space.child":
		if c, ok := child(e); ok {
			s.Children = append(s.Children, c)
		}
	}
}

// allowed are the rooms whose members may join (client-server API, "Restricted rooms").
func allowed(e *roomdb.Event, rule string) []id.Room {
	if rule != "restricted" && rule != "knock_restricted" {
		return nil
	}
	var rooms []id.Room
	for _, a := range gjson.GetBytes(e.Content, "allow").Array() {
		if a.Get("type").Str != "m.room_membership" {
			continue
		}
		if room, err := id.ParseRoom(a.Get("room_id").Str); err == nil {
			rooms = append(rooms, room)
		}
	}
	return rooms
}

// child reads an m.space.child event; one without a valid via is no child ("Relationship between rooms and spaces").
func child(e *roomdb.Event) (Child, bool) {
	room, err := id.ParseRoom(*e.StateKey)
	if err != nil {
		return Child{}, false
	}
	c := Child{Room: room, Sent: e.OriginServerTS, Suggested: gjson.GetBytes(e.Content, "suggested").Type == gjson.True}
	for _, v := range gjson.GetBytes(e.Content, "via").Array() {
		if server, err := id.ParseServer(v.Str); err == nil {
			c.Via = append(c.Via, server)
		}
	}
	if len(c.Via) == 0 {
		return Child{}, false
	}
	if order := gjson.GetBytes(e.Content, "order"); order.Type == gjson.String && ValidOrder(order.Str) {
		c.Order = order.Str
	}
	stripped := e.Stripped(nil)
	c.JSON = fmt.Appendf(stripped[:len(stripped)-1], `,"origin_server_ts":%d}`, e.OriginServerTS)
	return c, true
}

// ValidOrder says whether the order of a child counts: at most 50 characters from space to tilde.
func ValidOrder(s string) bool {
	if s == "" || len(s) > 50 {
		return false
	}
	for _, b := range []byte(s) {
		if b < 0x20 || b > 0x7e {
			return false
		}
	}
	return true
}

// Ordered returns the children in the order of the section "Ordering of children within a space": those with an order
// first, by it, then by the time at which they were added, then by their ids.
func Ordered(children []Child) []Child {
	sorted := slices.Clone(children)
	slices.SortFunc(sorted, func(a, b Child) int {
		switch {
		case a.Order != "" && b.Order == "":
			return -1
		case a.Order == "" && b.Order != "":
			return 1
		}
		return cmp.Or(cmp.Compare(a.Order, b.Order), cmp.Compare(a.Sent, b.Sent), cmp.Compare(a.Room, b.Room))
	})
	return sorted
}

// IsSpace says whether the room is a space.
func (s *Summary) IsSpace() bool { return s.RoomType == typeSpace }

// Open says whether somebody who is nothing to the room may know of it: they can join or knock, or read it. Another server
// that tells no join rule means public ones (client-server API, GET /hierarchy).
func (s *Summary) Open() bool {
	switch s.JoinRule {
	case "", "public", "knock", "knock_restricted":
		return true
	}
	return s.WorldReadable
}
