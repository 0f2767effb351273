package sync

import (
	"context"
	"slices"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	"hanse/pkg/userdb"
)

// memberChanges returns what changed of the members between two states.
func (s *Service) memberChanges(ctx context.Context, part uint32, before, after int64) ([]memberChange, error) {
	if before == after {
		return nil, nil
	}
	from, err := s.rooms.State(ctx, part, before)
	if err != nil {
		return nil, err
	}
	to, err := s.rooms.State(ctx, part, after)
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
	events, err := s.rooms.Events(ctx, part, nids)
	if err != nil {
		return nil, err
	}
	membership := func(nid int64) string {
		if e := events[nid]; e != nil {
			return e.Membership()
		}
		return ""
	}
	out := make([]memberChange, len(changes))
	for i, c := range changes {
		out[i] = memberChange{id.User(c.Key.StateKey), membership(c.New), membership(c.Old)}
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
	names, err := s.heroes(ctx, me, row.Part, m)
	if err != nil {
		return nil, err
	}
	return &summary{heroes: names, joined: row.Joined, invited: row.Invited}, nil
}

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

// heroes returns some members of a room that has no name, nil for a room that has one. Those who are in the room or
// invited come first, those who left only if there is nobody else.
func (s *Service) heroes(ctx context.Context, me id.User, part uint32, m state.Map) ([]id.User, error) {
	named, err := s.named(ctx, part, m)
	if err != nil || named {
		return nil, err
	}
	// Members are looked at in small steps: a large room has its heroes at once.
	present, gone := []id.User{}, []id.User{}
	var step []int64
	look := func() error {
		events, err := s.rooms.InOrder(ctx, part, step)
		if err != nil {
			return err
		}
		slices.SortFunc(events, func(a, b *roomdb.Event) int { return int(min(1, max(-1, a.Ord-b.Ord))) })
		for _, e := range events {
			user := id.User(*e.StateKey)
			switch e.Membership() {
			case "join", "invite":
				present = append(present, user)
			default:
				gone = append(gone, user)
			}
		}
		step = step[:0]
		return nil
	}
	for key, nid := range m.Type(memberType) {
		if key.StateKey == string(me) {
			continue
		}
		if step = append(step, nid); len(step) < 32 {
			continue
		}
		if err := look(); err != nil {
			return nil, err
		}
		if len(present) >= heroes {
			break
		}
	}
	if len(present) < heroes {
		if err := look(); err != nil {
			return nil, err
		}
	}
	if len(present) == 0 {
		present = gone
	}
	return present[:min(heroes, len(present))], nil
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
