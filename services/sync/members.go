package sync

import (
	"cmp"
	"context"
	"slices"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	"hanse/pkg/userdb"
)

// memberChanges returns what changed of the members between two states.
func (s *Service) memberChanges(ctx context.Context, room roomdb.RoomKey, before, after int64) ([]memberChange, error) {
	if before == after {
		return nil, nil
	}
	from, err := s.rooms.State(ctx, room.Part, before)
	if err != nil {
		return nil, err
	}
	to, err := s.rooms.State(ctx, room.Part, after)
	if err != nil {
		return nil, err
	}
	var changes []state.Change
	var nids []int64
	for c := range state.Diff(from, to) {
		if c.Key.Type == memberType {
			changes = append(changes, c)
			nids = append(nids, c.Old, c.New)
		}
	}
	membership, err := s.rooms.Memberships(ctx, room, nids)
	if err != nil {
		return nil, err
	}
	var rejoined []roomdb.Tenure
	for _, c := range changes {
		if membership[c.New] == "join" && membership[c.Old] == "join" {
			rejoined = append(rejoined, roomdb.Tenure{From: c.Old, To: c.New})
		}
	}
	stayed, err := s.rooms.Stayed(ctx, room, rejoined)
	if err != nil {
		return nil, err
	}
	out := make([]memberChange, len(changes))
	for i, c := range changes {
		out[i] = memberChange{id.User(c.Key.StateKey), membership[c.New], membership[c.Old]}
		if out[i].now == "join" && out[i].then == "join" && !stayed[roomdb.Tenure{From: c.Old, To: c.New}] {
			out[i].then = "" // was away in between
		}
	}
	return out, nil
}

// heroes is how many members a summary names.
const heroes = 5

// summary is what a client needs to name a room (client-server API, RoomSummary).
type summary struct {
	heroes          []id.User // nil if the room has a name
	joined, invited int
}

// summary returns the summary of a room as of a snapshot; 0 is the current one.
func (s *Service) summary(ctx context.Context, me id.User, r *userdb.Membership, sid int64) (*summary, error) {
	rows, err := s.rooms.RoomsByNID(ctx, []roomdb.RoomKey{{Part: r.RoomPart, NID: r.RoomNID}})
	if err != nil {
		return nil, err
	}
	row := rows[r.Room]
	if row == nil {
		return nil, nil
	}
	if sid == 0 {
		sid = row.SID
	}
	m, err := s.rooms.State(ctx, r.RoomPart, sid)
	if err != nil {
		return nil, err
	}
	return s.summaryOf(ctx, me, row, m)
}

func (s *Service) summaryOf(ctx context.Context, me id.User, row *roomdb.Room, m state.Map) (*summary, error) {
	c, err := s.candidates(ctx, row.Part, m)
	if err != nil {
		return nil, err
	}
	return &summary{heroes: c.heroes(me), joined: row.Joined, invited: row.Invited}, nil
}

// names says whether somebody names the room.
func (v *summary) names(user id.User) bool { return slices.Contains(v.heroes, user) }

func (v *summary) append(b []byte) []byte {
	b = append(b, '{')
	if v.heroes != nil {
		b = append(b, `"m.heroes":[`...)
		for i, u := range v.heroes {
			if i > 0 {
				b = append(b, ',')
			}
			b = canonjson.AppendString(b, string(u))
		}
		b = append(b, `],`...)
	}
	b = appendCount(b, "m.joined_member_count", int64(v.joined))
	b = append(b, ',')
	b = appendCount(b, "m.invited_member_count", int64(v.invited))
	return append(b, '}')
}

// candidates are who may name a room, whoever asks.
type candidates struct {
	named bool // the room has a name, and needs nobody
	// present are in the room or invited, gone were. One more of each than is named: nobody names a room to themselves.
	present, gone []id.User
}

// heroes returns who names the room to somebody; nil if it has a name. Those who left come in only if there is nobody
// else.
func (c *candidates) heroes(me id.User) []id.User {
	if c.named {
		return nil
	}
	for _, users := range [][]id.User{c.present, c.gone} {
		others := make([]id.User, 0, heroes)
		for _, u := range users {
			if u != me && len(others) < heroes {
				others = append(others, u)
			}
		}
		if len(others) > 0 {
			return others
		}
	}
	return []id.User{}
}

// memberStep is how many members are looked at together for candidates: a large room has its heroes at once.
const memberStep = 12

// candidates finds who may name a room.
func (s *Service) candidates(ctx context.Context, part uint32, m state.Map) (*candidates, error) {
	named, err := s.named(ctx, part, m)
	if err != nil || named {
		return &candidates{named: named}, err
	}
	c := new(candidates)
	var step []int64
	look := func() error {
		events, err := s.rooms.InOrder(ctx, part, step)
		if err != nil {
			return err
		}
		slices.SortFunc(events, func(a, b *roomdb.Event) int { return cmp.Compare(a.Place(), b.Place()) })
		for _, e := range events {
			users := &c.gone
			if m := e.Membership(); m == "join" || m == "invite" {
				users = &c.present
			}
			if len(*users) <= heroes {
				*users = append(*users, id.User(*e.StateKey))
			}
		}
		step = step[:0]
		return nil
	}
	for _, nid := range m.Type(memberType) {
		if step = append(step, nid); len(step) < memberStep {
			continue
		}
		if err := look(); err != nil {
			return nil, err
		}
		if len(c.present) > heroes {
			return c, nil
		}
	}
	return c, look()
}

// named says whether the room has a name or a canonical alias that is not empty.
func (s *Service) named(ctx context.Context, part uint32, m state.Map) (bool, error) {
	for typ, field := range map[string]string{"m.room.name": "name", "m.room.canonical_alias": "alias"} {
		e, err := s.rooms.StateEvent(ctx, part, m, typ, "")
		if err != nil {
			return false, err
		}
		if e == nil {
			continue
		}
		content, err := canonjson.ParseObject(e.Content)
		if err != nil {
			continue
		}
		if text, _ := content.String(field); text != "" {
			return true, nil
		}
	}
	return false, nil
}
