package sync

import (
	"cmp"
	"context"
	"slices"

	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	"hanse/pkg/view"
	"hanse/services/sync/sliding"
)

// slideRoom is a room's part of an answer before it is written (MSC4186, "RoomResult").
type slideRoom struct {
	*task
	timeline  []*roomdb.Event
	bundles   view.Bundles // what relates to them
	limited   bool
	live      int // of the timeline's events, the newest: they are news
	prevBatch roomdb.Place
	nids      []int64 // of the state that is told; they are read together with those of other rooms
	state     []*roomdb.Event
	stubs     []state.Key // entries that the state has no more
	unread    *unread
	stripped  []byte // of an invite or a knock; all else is empty then

	named, pictured bool // name or avatar are told, be it that there is none
	name, avatar    string
	heroes          []hero
	joined, invited int // joined < 0: the counts are not told
	direct          bool
}

// hero is somebody who names a room.
type hero struct{ user, name, avatar string }

// changed notes an entry of the state that is another one now.
func (v *slideRoom) changed(k state.Key) {
	v.named = v.named || k == state.Key{Type: "m.room.name"}
	v.pictured = v.pictured || k == state.Key{Type: "m.room.avatar"}
}

// addFace adds what a list shows of a room: its name and its picture, or who names it. members says that its members are others than
// the client knows.
func (s *Service) addFace(ctx context.Context, p *slide, v *slideRoom, m state.Map, members bool) error {
	part := v.r.RoomPart
	if v.initial || v.task.r.Membership != "join" {
		v.named, v.pictured = true, true
	}
	name, err := s.textOf(ctx, part, m, "m.room.name", "name")
	if err != nil {
		return err
	}
	if v.name = name; v.pictured {
		if v.avatar, err = s.textOf(ctx, part, m, "m.room.avatar", "url"); err != nil {
			return err
		}
	}
	if name != "" || !members && !v.named {
		return nil
	}
	c, err := s.candidates(ctx, part, m)
	if err != nil {
		return err
	}
	nids := make([]int64, 0, heroes)
	for _, u := range c.heroes(p.who.User) {
		if nid, ok := memberOf(m, u); ok {
			nids = append(nids, nid)
		}
	}
	events, err := s.rooms.Events(ctx, part, nids)
	if err != nil {
		return err
	}
	for _, nid := range nids {
		if e := events[nid]; e != nil {
			v.heroes = append(v.heroes, hero{
				*e.StateKey, gjson.GetBytes(e.Content, "displayname").Str, gjson.GetBytes(e.Content, "avatar_url").Str,
			})
		}
	}
	return nil
}

// textOf returns a text in the content of an entry of the state, "" if there is none.
func (s *Service) textOf(ctx context.Context, part uint32, m state.Map, typ, field string) (string, error) {
	e, err := s.rooms.StateEvent(ctx, part, m, typ, "")
	if err != nil || e == nil {
		return "", err
	}
	return gjson.GetBytes(e.Content, field).Str, nil
}

// addSlideRoom writes a room into the answer.
func (s *Service) addSlideRoom(ctx context.Context, p *slide, a *slideAnswer, v *slideRoom) error {
	k, err := s.kindsOf(ctx, p.user, false)
	if err != nil {
		return err
	}
	v.direct = k.direct[v.r.Room]
	size := 600 + len(v.stripped)
	for _, events := range [][]*roomdb.Event{v.timeline, v.state} {
		for _, e := range events {
			size += len(e.Content) + 400
		}
	}
	b := v.appendHead(make([]byte, 0, size), p.req.Stable)
	switch {
	case v.stripped != nil:
		b = append(append(b, v.strippedName(p.req.Stable)...), v.stripped...)
	default:
		if b, err = s.appendRoom(ctx, p, b, v); err != nil {
			return err
		}
	}
	if p.req.Receipts != nil {
		a.remember(v)
	}
	a.rooms, a.news = append(a.rooms, roomAnswer{id: v.r.Room, json: append(b, '}')}), true
	return nil
}

// remember notes the events that are told of a room: receipts for them are told, too.
func (a *slideAnswer) remember(v *slideRoom) {
	if a.told == nil {
		a.told = make(map[id.Room][]id.Event)
	}
	for _, e := range v.timeline {
		a.told[v.r.Room] = append(a.told[v.r.Room], e.ID)
	}
}

func (v *slideRoom) strippedName(stable bool) string {
	if stable {
		return `,"stripped_state":`
	}
	return `,"invite_state":`
}

// appendHead appends what is told of every room.
func (v *slideRoom) appendHead(b []byte, stable bool) []byte {
	b = appendCount(append(b, '{'), "bump_stamp", v.activity.bumped)
	if v.initial {
		b = append(b, `,"initial":true`...)
	}
	if v.direct {
		b = append(b, `,"is_dm":true`...)
	} else if stable && !v.initial {
		b = append(b, `,"is_dm":false`...)
	}
	if stable {
		b = append(b, `,"membership":`...)
		b = canonjson.AppendString(b, v.r.Membership)
		if lists := v.seen.Lists(); len(lists) > 0 {
			b = append(b, `,"lists":[`...)
			for i, l := range lists {
				if i > 0 {
					b = append(b, ',')
				}
				b = canonjson.AppendString(b, l)
			}
			b = append(b, ']')
		}
	}
	return b
}

// appendRoom appends what is told to members, and to those who were members.
func (s *Service) appendRoom(ctx context.Context, p *slide, b []byte, v *slideRoom) ([]byte, error) {
	text := func(name, value string, always bool) {
		switch {
		case value != "":
			b = append(canonjson.AppendString(append(b, ','), name), ':')
			b = canonjson.AppendString(b, value)
		case always:
			b = append(canonjson.AppendString(append(b, ','), name), `:null`...)
		}
	}
	if v.named {
		text("name", v.name, !v.initial && p.req.Stable)
	}
	if v.pictured {
		text("avatar", v.avatar, !v.initial) // both encodings tell that there is none any more
	}
	if len(v.heroes) > 0 {
		b = appendHeroes(b, v.heroes)
	}
	if v.joined >= 0 {
		b = appendCount(append(b, ','), "joined_count", int64(v.joined))
		b = appendCount(append(b, ','), "invited_count", int64(v.invited))
	}
	if v.unread != nil {
		b = appendCount(append(b, ','), "notification_count", v.unread.Notifications)
		b = appendCount(append(b, ','), "highlight_count", v.unread.Highlights)
	}
	if v.more && !v.initial {
		b = append(append(b, ','), expandedName(p.req)...)
	}
	b, err := s.appendState(ctx, p, b, v)
	if err != nil {
		return nil, err
	}
	if len(v.timeline) > 0 || v.initial || v.limited {
		b = append(b, `,"timeline":[`...)
		f := p.format()
		f.Bundles = v.bundles
		if b, err = view.Append(ctx, s.rooms, f, b, v.timeline); err != nil {
			return nil, err
		}
		b = append(b, ']')
		b = append(b, `,"prev_batch":`...)
		b = canonjson.AppendString(b, v.prevBatch.Token())
		b = appendCount(append(b, ','), "num_live", int64(min(v.live, len(v.timeline))))
		if v.limited {
			b = append(b, `,"limited":true`...)
		} else {
			b = append(b, `,"limited":false`...)
		}
	}
	return b, nil
}

func expandedName(r *sliding.Request) string {
	if r.Stable {
		return `"expanded_timeline":true`
	}
	return `"unstable_expanded_timeline":true`
}

// appendState appends what is told of the state. Only the stable encoding can say that an entry is gone.
func (s *Service) appendState(ctx context.Context, p *slide, b []byte, v *slideRoom) ([]byte, error) {
	if !p.req.Stable {
		v.stubs = nil
	}
	if len(v.state)+len(v.stubs) == 0 {
		return b, nil
	}
	b = append(b, `,"required_state":[`...)
	b, err := view.Append(ctx, s.rooms, p.format(), b, v.state)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(v.stubs, func(a, b state.Key) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.StateKey, b.StateKey))
	})
	for i, k := range v.stubs {
		if i > 0 || len(v.state) > 0 {
			b = append(b, ',')
		}
		b = canonjson.AppendString(append(b, `{"type":`...), k.Type)
		b = canonjson.AppendString(append(b, `,"state_key":`...), k.StateKey)
		b = append(b, '}')
	}
	return append(b, ']'), nil
}

func appendHeroes(b []byte, heroes []hero) []byte {
	b = append(b, `,"heroes":[`...)
	for i, h := range heroes {
		if i > 0 {
			b = append(b, ',')
		}
		b = canonjson.AppendString(append(b, `{"user_id":`...), h.user)
		if h.name != "" {
			b = canonjson.AppendString(append(b, `,"displayname":`...), h.name)
		}
		if h.avatar != "" {
			b = canonjson.AppendString(append(b, `,"avatar_url":`...), h.avatar)
		}
		b = append(b, '}')
	}
	return append(b, ']')
}

// encode writes the answer.
func (a *slideAnswer) encode(pos string, req *sliding.Request) *[]byte {
	size := 1000
	for i := range a.rooms {
		size += a.rooms[i].size() + len(a.rooms[i].id) + 8
	}
	buffer := buffers.Get().(*[]byte)
	if cap(*buffer) < size {
		*buffer = make([]byte, 0, size)
	}
	b := append((*buffer)[:0], `{"pos":`...)
	b = canonjson.AppendString(b, pos)
	b = append(b, `,"lists":{`...)
	for i, l := range a.lists {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(canonjson.AppendString(b, l.name), `:{`...)
		b = append(appendCount(b, "count", int64(l.count)), '}')
	}
	b = append(b, `},"rooms":{`...)
	for i := range a.rooms {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(canonjson.AppendString(b, string(a.rooms[i].id)), ':')
		b = a.rooms[i].append(b)
	}
	b = append(b, `},"extensions":{`...)
	b = a.ext.append(b)
	*buffer = append(b, '}', '}')
	return buffer
}

// sortedRooms returns the names of rooms in order.
func sortedRooms[V any](rooms map[id.Room]V) []id.Room {
	names := make([]id.Room, 0, len(rooms))
	for r := range rooms {
		names = append(names, r)
	}
	slices.Sort(names)
	return names
}
