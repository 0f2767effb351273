package sync

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"

	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	"hanse/pkg/userdb"
	"hanse/services/sync/sliding"
)

// The types of account data that say of what kind a room is.
const (
	directRooms = "m.direct"
	roomTags    = "m.tag"
)

// kinds is what a user's account data says of rooms. It is never changed, only replaced.
type kinds struct {
	seq    int64 // position of the user's stream up to which it counts
	direct map[id.Room]bool
	tags   map[id.Room][]string // nil: not read yet
}

// kindsOf returns the kinds of the user's rooms as of the user's position, with tags if they are asked for.
func (s *Service) kindsOf(ctx context.Context, u *user, tags bool) (*kinds, error) {
	u.mu.Lock()
	old, seq := u.kinds, u.seq
	u.mu.Unlock()
	if old != nil && old.seq >= seq && (old.tags != nil || !tags) {
		return old, nil
	}
	k := &kinds{seq: seq}
	content, err := s.userdb.AccountData(ctx, u.id, "", directRooms)
	if err != nil && !errors.Is(err, userdb.ErrNotFound) {
		return nil, err
	}
	k.direct = parseDirect(content)
	if tags {
		all, err := s.userdb.AccountDataOfType(ctx, u.id, roomTags)
		if err != nil {
			return nil, err
		}
		k.tags = make(map[id.Room][]string, len(all))
		for _, d := range all {
			k.tags[d.Room] = parseTags(d.Content)
		}
	}
	return u.setKinds(k), nil
}

func (u *user) setKinds(k *kinds) *kinds {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.kinds == nil || u.kinds.seq <= k.seq {
		u.kinds = k
	}
	return k
}

// learnKinds takes account data that was read in (after, upTo] into the kinds, which saves reading it again.
func (u *user) learnKinds(data []userdb.AccountData, after, upTo int64) {
	u.mu.Lock()
	old := u.kinds
	u.mu.Unlock()
	if old == nil || old.seq < after || old.seq >= upTo {
		return
	}
	k := &kinds{seq: upTo, direct: old.direct, tags: old.tags}
	copied := false
	for _, d := range data {
		switch {
		case d.Room == "" && d.Type == directRooms:
			k.direct = parseDirect(d.Content)
		case d.Type == roomTags && k.tags != nil:
			if !copied {
				k.tags, copied = maps.Clone(k.tags), true
			}
			k.tags[d.Room] = parseTags(d.Content)
		}
	}
	u.setKinds(k)
}

func parseDirect(content []byte) map[id.Room]bool {
	direct := make(map[id.Room]bool)
	gjson.ParseBytes(content).ForEach(func(_, rooms gjson.Result) bool {
		for _, r := range rooms.Array() {
			direct[id.Room(r.Str)] = true
		}
		return true
	})
	return direct
}

func parseTags(content []byte) []string {
	var c struct {
		Tags map[string]json.RawMessage `json:"tags"`
	}
	if json.Unmarshal(content, &c) != nil {
		return nil // whoever wrote it said nothing
	}
	return slices.Collect(maps.Keys(c.Tags))
}

// trait is what filters ask of a room's state.
type trait struct {
	typ       string
	encrypted bool
}

// filtered are the rooms of an order that pass a filter.
type filtered struct {
	rooms []*place
	kinds int64 // kinds.seq
}

// filter returns the rooms of an order that a list has.
func (s *Service) filter(ctx context.Context, u *user, o *order, f *sliding.Filters) ([]*place, error) {
	if f == nil {
		return o.rooms, nil
	}
	k, err := s.kindsOf(ctx, u, f.Tags != nil || f.NotTags != nil)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	o.mu.RLock()
	known, ok := o.filtered[string(text)]
	o.mu.RUnlock()
	if ok && known.kinds == k.seq {
		return known.rooms, nil
	}
	pass, err := s.passes(ctx, o, f, k)
	if err != nil {
		return nil, err
	}
	var rooms []*place
	for _, p := range o.rooms {
		if pass(p) {
			rooms = append(rooms, p)
		}
	}
	o.mu.Lock()
	if len(o.filtered) < maxFiltered {
		o.filtered[string(text)] = filtered{rooms, k.seq}
	}
	o.mu.Unlock()
	return rooms, nil
}

// maxFiltered bounds the filters of a user whose rooms are remembered.
const maxFiltered = 16

// passes returns what says whether a room passes a filter (MSC4186, SlidingRoomFilter).
func (s *Service) passes(ctx context.Context, o *order, f *sliding.Filters, k *kinds) (func(*place) bool, error) {
	var traits map[id.Room]trait
	var err error
	if f.Encrypted != nil || f.RoomTypes != nil || f.NotRoomTypes != nil {
		if traits, err = s.traitsOf(ctx, o.rooms); err != nil {
			return nil, err
		}
	}
	var children map[id.Room]bool
	if f.Spaces != nil {
		if children, err = s.childrenOf(ctx, o, f.Spaces); err != nil {
			return nil, err
		}
	}
	hasType := func(types []*string, typ string) bool {
		return slices.ContainsFunc(types, func(t *string) bool { return t == nil && typ == "" || t != nil && *t == typ })
	}
	hasTag := func(tags []string, room id.Room) bool {
		return slices.ContainsFunc(k.tags[room], func(t string) bool { return slices.Contains(tags, t) })
	}
	return func(p *place) bool {
		room := p.r.Room
		t := traits[room]
		switch {
		case f.DM != nil && *f.DM != k.direct[room],
			f.Invited != nil && *f.Invited != (p.r.Membership == "invite"),
			f.Encrypted != nil && *f.Encrypted != t.encrypted,
			f.Spaces != nil && !children[room],
			f.NotRoomTypes != nil && hasType(f.NotRoomTypes, t.typ),
			f.RoomTypes != nil && !hasType(f.RoomTypes, t.typ),
			f.NotTags != nil && hasTag(f.NotTags, room),
			f.Tags != nil && !hasTag(f.Tags, room):
			return false
		}
		return true
	}, nil
}

// traitsOf returns the traits of rooms: of those that the user is in as their states say, of others as they were shown to the user.
func (s *Service) traitsOf(ctx context.Context, rooms []*place) (map[id.Room]trait, error) {
	out := make(map[id.Room]trait, len(rooms))
	var unknown []roomdb.RoomKey
	for _, p := range rooms {
		if p.r.Membership != "join" {
			for _, e := range gjson.ParseBytes(p.r.Stripped).Array() {
				t := out[p.r.Room]
				switch e.Get("type").Str {
				case "m.room.create":
					t.typ = e.Get("content.type").Str
				case encryption:
					t.encrypted = true
				}
				out[p.r.Room] = t
			}
			if len(p.r.Stripped) > 0 {
				continue
			}
		}
		t, known := s.tail.trait(p.key())
		if out[p.r.Room] = t; !known && p.r.RoomNID != 0 {
			unknown = append(unknown, p.key())
		}
	}
	if len(unknown) == 0 {
		return out, nil
	}
	rows, err := s.rooms.RoomsByNID(ctx, unknown)
	if err != nil {
		return nil, err
	}
	refs := make([]state.Ref, 0, len(rows))
	for _, row := range rows {
		refs = append(refs, state.Ref{Part: row.Part, SID: row.SID})
	}
	states, err := s.rooms.States(ctx, refs)
	if err != nil {
		return nil, err
	}
	creates := make(map[uint32][]int64)
	for _, row := range rows {
		if nid, ok := states[state.Ref{Part: row.Part, SID: row.SID}].Get(state.Key{Type: "m.room.create"}); ok {
			creates[row.Part] = append(creates[row.Part], nid)
		}
	}
	events, err := s.rooms.EventsIn(ctx, creates)
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		m := states[state.Ref{Part: row.Part, SID: row.SID}]
		t := trait{encrypted: m.Has(state.Key{Type: encryption})}
		if nid, ok := m.Get(state.Key{Type: "m.room.create"}); ok && events[row.Part][nid] != nil {
			t.typ = gjson.GetBytes(events[row.Part][nid].Content, "type").Str
		}
		out[row.ID] = s.tail.setTrait(row.Key(), t)
	}
	return out, nil
}

const encryption = "m.room.encryption"

// trait returns a room's trait, if it is known.
func (t *tail) trait(key roomdb.RoomKey) (tr trait, known bool) {
	p := t.parts[key.Part]
	p.mu.RLock()
	defer p.mu.RUnlock()
	if r := p.rooms[key.NID]; r != nil && r.traced {
		return r.trait, true
	}
	return trait{}, false
}

// setTrait notes what PostgreSQL says; the log may have said more meanwhile.
func (t *tail) setTrait(key roomdb.RoomKey, tr trait) trait {
	p := t.parts[key.Part]
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.rooms[key.NID]
	if r == nil {
		return tr
	}
	tr.encrypted = tr.encrypted || r.encrypted
	r.trait, r.traced = tr, true
	return tr
}

// childrenOf returns the rooms that are in any of some spaces that the user has joined: not those in the spaces below.
func (s *Service) childrenOf(ctx context.Context, o *order, spaces []id.Room) (map[id.Room]bool, error) {
	var keys []roomdb.RoomKey
	for _, space := range spaces {
		if p := o.of(space); p != nil && p.r.Membership == "join" {
			keys = append(keys, p.key())
		}
	}
	children := make(map[id.Room]bool)
	rows, err := s.rooms.RoomsByNID(ctx, keys)
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		m, err := s.rooms.State(ctx, row.Part, row.SID)
		if err != nil {
			return nil, err
		}
		events, err := s.rooms.StateEvents(ctx, row.Part, m.Type("m.space.child"))
		if err != nil {
			return nil, err
		}
		for _, e := range events {
			if gjson.GetBytes(e.Content, "via.#").Int() > 0 {
				children[id.Room(*e.StateKey)] = true
			}
		}
	}
	return children, nil
}
