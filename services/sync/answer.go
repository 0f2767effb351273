package sync

import (
	"context"
	"slices"
	"strconv"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	"hanse/pkg/token"
	"hanse/pkg/userdb"
)

// answer is what a poll gets.
type answer struct {
	user id.User
	next token.Sync

	join, invite, knock, leave []roomAnswer
	presence                   [][]byte
	accountData                [][]byte
	toDevice                   [][]byte
	changed, left              map[id.User]struct{}
	keys                       *deviceKeys
}

// roomAnswer is a room's part of the answer: JSON that is ready to send.
type roomAnswer struct {
	id   id.Room
	json []byte
}

// moment is what one answer is computed from: the user's rooms, and up to where each log counts.
type moment struct {
	rooms map[id.Room]*userdb.Membership
	seq   int64
	pos   map[uint32]int64
	eph   token.Ephemeral
}

func (s *Service) moment(u *user) *moment {
	m := &moment{pos: make(map[uint32]int64), eph: s.eph.now()}
	m.rooms, m.seq = u.memberships()
	for _, r := range m.rooms {
		if r.Membership != "join" {
			continue
		}
		if _, ok := m.pos[r.RoomPart]; !ok {
			m.pos[r.RoomPart] = s.tail.head(r.RoomPart)
		}
	}
	return m
}

// token returns the position behind the answer.
func (m *moment) token() token.Sync {
	t := token.Sync{UserSeq: m.seq, Eph: m.eph, Pos: make([]token.PartPos, 0, len(m.pos))}
	for part, pos := range m.pos {
		t.Pos = append(t.Pos, token.PartPos{Part: part, Pos: pos})
	}
	slices.SortFunc(t.Pos, func(a, b token.PartPos) int { return int(a.Part) - int(b.Part) })
	return t
}

// answer computes what has happened since the poll's token.
func (s *Service) answer(ctx context.Context, p *poll) (*answer, error) {
	m := s.moment(p.user)
	p.roomData = nil
	a := &answer{user: p.who.User, next: m.token()}
	since := token.Sync{}
	if p.since != nil {
		since = *p.since
	}
	if m.seq > since.UserSeq || p.since == nil {
		more, err := s.addToDevice(ctx, a, p, since.UserSeq, m.seq)
		if err != nil {
			return nil, err
		}
		if more && p.since != nil {
			// What is left of the to-device messages comes with the next answers, and all else after them.
			a.next.Pos, a.next.Eph = since.Pos, since.Eph
			return a, s.addKeys(ctx, a, p)
		}
		if err := s.addAccountData(ctx, a, p, since.UserSeq, m.seq); err != nil {
			return nil, err
		}
		if p.since != nil {
			noticed, err := s.userdb.DeviceNotices(ctx, p.who.User, since.UserSeq, m.seq)
			if err != nil {
				return nil, err
			}
			for _, u := range noticed {
				a.deviceChanged(u)
			}
		}
	}
	if err := s.addRooms(ctx, a, p, m); err != nil {
		return nil, err
	}
	if err := s.addPresence(ctx, a, p, m); err != nil {
		return nil, err
	}
	return a, s.addKeys(ctx, a, p)
}

// empty says whether there is nothing to tell. The counts of one-time keys do not count: they are in every answer.
func (a *answer) empty() bool {
	return len(a.join)+len(a.invite)+len(a.knock)+len(a.leave)+len(a.presence)+len(a.accountData)+len(a.toDevice)+
		len(a.changed)+len(a.left) == 0 && (a.keys == nil || !a.keys.news)
}

func (a *answer) encode() []byte {
	size := 300
	for _, rs := range [][]roomAnswer{a.join, a.invite, a.knock, a.leave} {
		for _, r := range rs {
			size += len(r.json) + len(r.id) + 8
		}
	}
	b := make([]byte, 0, size)
	b = append(b, `{"next_batch":`...)
	b = canonjson.AppendString(b, a.next.Encode(a.user))
	b = appendEvents(b, "account_data", a.accountData)
	b = appendEvents(b, "presence", a.presence)
	b = appendEvents(b, "to_device", a.toDevice)
	if len(a.changed)+len(a.left) > 0 {
		b = append(b, `,"device_lists":{"changed":`...)
		b = appendUsers(b, a.changed)
		b = append(b, `,"left":`...)
		b = appendUsers(b, a.left)
		b = append(b, '}')
	}
	if a.keys != nil {
		b = a.keys.append(b)
	}
	if len(a.join)+len(a.invite)+len(a.knock)+len(a.leave) > 0 {
		b = append(b, `,"rooms":{`...)
		n := len(b)
		b = appendRooms(b, n, "join", a.join)
		b = appendRooms(b, n, "invite", a.invite)
		b = appendRooms(b, n, "knock", a.knock)
		b = appendRooms(b, n, "leave", a.leave)
		b = append(b, '}')
	}
	return append(b, '}')
}

func appendRooms(b []byte, start int, name string, rooms []roomAnswer) []byte {
	if len(rooms) == 0 {
		return b
	}
	if len(b) > start {
		b = append(b, ',')
	}
	b = canonjson.AppendString(b, name)
	b = append(b, ':', '{')
	for i, r := range rooms {
		if i > 0 {
			b = append(b, ',')
		}
		b = canonjson.AppendString(b, string(r.id))
		b = append(b, ':')
		b = append(b, r.json...)
	}
	return append(b, '}')
}

// appendEvents appends a member with a list of events, if there are any.
func appendEvents(b []byte, name string, events [][]byte) []byte {
	if len(events) == 0 {
		return b
	}
	b = append(b, ',')
	return appendEventList(b, name, events)
}

// appendEventList appends a member with a list of events.
func appendEventList(b []byte, name string, events [][]byte) []byte {
	b = canonjson.AppendString(b, name)
	b = append(b, `:{"events":`...)
	b = appendList(b, events)
	return append(b, '}')
}

func appendList(b []byte, items [][]byte) []byte {
	b = append(b, '[')
	for i, e := range items {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, e...)
	}
	return append(b, ']')
}

func appendUsers(b []byte, users map[id.User]struct{}) []byte {
	sorted := make([]string, 0, len(users))
	for u := range users {
		sorted = append(sorted, string(u))
	}
	slices.Sort(sorted)
	b = append(b, '[')
	for i, u := range sorted {
		if i > 0 {
			b = append(b, ',')
		}
		b = canonjson.AppendString(b, u)
	}
	return append(b, ']')
}

func appendCount(b []byte, name string, n int64) []byte {
	b = canonjson.AppendString(b, name)
	b = append(b, ':')
	return strconv.AppendInt(b, n, 10)
}

// basicEvent is an event that has a type and a content only.
func basicEvent(typ string, content []byte) []byte {
	b := append(make([]byte, 0, len(content)+len(typ)+32), `{"content":`...)
	b = append(b, content...)
	b = append(b, `,"type":`...)
	b = canonjson.AppendString(b, typ)
	return append(b, '}')
}
