package sync

import (
	"context"
	"slices"
	"strconv"
	"sync"

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
	deviceLists
	keys *deviceKeys
	news bool // rooms or presence are worth an answer before its time

	// Of a first answer, the rooms that the user is in, as of the moment. They are read and sent some at a time; see sendFirst.
	later  []*userdb.Membership
	moment *moment
}

// roomAnswer is a room's part of the answer: JSON that is ready to send, or a room of a first answer.
type roomAnswer struct {
	id    id.Room
	json  []byte
	first *firstRoom
	rest  *rest // of a large state; nil if there is none
}

func (r *roomAnswer) size() int {
	if r.first != nil {
		return r.first.size()
	}
	return len(r.json)
}

func (r *roomAnswer) append(b []byte) []byte {
	if r.first != nil {
		return r.first.append(b)
	}
	return append(b, r.json...)
}

// moment is what one answer is computed from: the user's rooms, and up to where each log counts.
type moment struct {
	rooms   map[id.Room]*userdb.Membership
	joined  []*userdb.Membership // by partition
	parts   []userPart
	changes int // user.changes
	seq     int64
	pos     []token.PartPos // by partition
	eph     token.Ephemeral
}

// moment takes the present. A room that the user has joined counts from its join on: if its log was not seen as far yet,
// it is waited for.
func (s *Service) moment(ctx context.Context, u *user) (*moment, error) {
	m := &moment{eph: s.eph.now()}
	u.mu.Lock()
	m.rooms, m.joined, m.parts, m.changes, m.seq = u.rooms, u.joined, u.parts, u.changes, u.seq
	u.mu.Unlock()
	m.pos = make([]token.PartPos, len(m.parts))
	for i, p := range m.parts {
		at := &m.pos[i]
		if at.Part, at.Pos = p.part, s.tail.head(p.part); p.pos <= at.Pos {
			continue
		}
		if err := s.reader.WaitFor(ctx, at.Part, p.pos); err != nil {
			return nil, err
		}
		at.Pos = s.tail.head(at.Part)
	}
	return m, nil
}

// at returns the position of a partition in which the user has joined rooms.
func (m *moment) at(part uint32) int64 {
	t := token.Sync{Pos: m.pos}
	pos, _ := t.At(part)
	return pos
}

// token returns the position behind the answer.
func (m *moment) token() token.Sync { return token.Sync{UserSeq: m.seq, Eph: m.eph, Pos: m.pos} }

// answer computes what has happened since the poll's token.
func (s *Service) answer(ctx context.Context, p *poll) (*answer, error) {
	m, err := s.moment(ctx, p.user)
	if err != nil {
		return nil, err
	}
	p.roomData = nil
	a := &answer{user: p.who.User, next: m.token()}
	if err := s.addUserStream(ctx, a, p, m); err != nil {
		return nil, err
	}
	if err := s.addRooms(ctx, a, p, m); err != nil {
		return nil, err
	}
	if err := s.addPresence(ctx, a, p, m); err != nil {
		return nil, err
	}
	a.keys, err = s.keysOf(ctx, &p.asker, a.next.UserSeq)
	return a, err
}

// addUserStream adds what lies in the user's stream: to-device messages, account data, whose devices changed.
func (s *Service) addUserStream(ctx context.Context, a *answer, p *poll, m *moment) error {
	since := token.Sync{}
	if p.since != nil {
		since = *p.since
	}
	if m.seq > since.DeviceSeq() {
		if err := s.addToDevice(ctx, a, p, since.DeviceSeq(), m.seq); err != nil {
			return err
		}
	}
	if p.since != nil && m.seq <= since.UserSeq {
		return nil
	}
	if err := s.addAccountData(ctx, a, p, since.UserSeq, m.seq); err != nil {
		return err
	}
	if p.since == nil {
		return nil
	}
	noticed, err := s.userdb.DeviceNotices(ctx, p.who.User, since.UserSeq, m.seq)
	if err != nil {
		return err
	}
	for _, u := range noticed {
		a.deviceChanged(u)
	}
	return nil
}

// empty says whether there is nothing worth an answer before its time. The counts of one-time keys are in every answer.
func (a *answer) empty() bool {
	return !a.news && len(a.invite)+len(a.knock)+len(a.leave)+len(a.accountData)+len(a.toDevice)+
		len(a.changed)+len(a.left) == 0 && (a.keys == nil || !a.keys.news)
}

// buffers are what answers are written to. Those of first answers may have megabytes: what one used serves the next.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// bufferMax is the largest buffer that goes back to the pool.
const bufferMax = 16 << 20

// recycle gives an answer's buffer back; its bytes must not be used any more.
func recycle(b *[]byte) {
	if cap(*b) <= bufferMax {
		buffers.Put(b)
	}
}

// body is an answer that is written: a buffer, to be recycled, and what is sent at places in it.
type body struct {
	json  *[]byte
	rests []rest
	first *answer // written while it is sent, if the answer is a first one
}

// encode writes the answer.
func (a *answer) encode() *body {
	if a.moment != nil {
		return &body{first: a}
	}
	size := 1000
	for _, rs := range [][]roomAnswer{a.join, a.invite, a.knock, a.leave} {
		for i := range rs {
			size += rs[i].size() + len(rs[i].id) + 8
		}
	}
	buffer := buffers.Get().(*[]byte)
	if cap(*buffer) < size {
		*buffer = make([]byte, 0, size)
	}
	out := &body{json: buffer}
	*buffer = a.append((*buffer)[:0], &out.rests)
	return out
}

func (a *answer) append(b []byte, rests *[]rest) []byte {
	b = a.appendHead(b)
	if len(a.join)+len(a.invite)+len(a.knock)+len(a.leave) > 0 {
		b = append(b, `,"rooms":{`...)
		n := len(b)
		b = appendRooms(b, n, "join", a.join, rests)
		b = appendRooms(b, n, "invite", a.invite, rests)
		b = appendRooms(b, n, "knock", a.knock, rests)
		b = appendRooms(b, n, "leave", a.leave, rests)
		b = append(b, '}')
	}
	return append(b, '}')
}

// appendHead appends what stands before the rooms.
func (a *answer) appendHead(b []byte) []byte {
	b = append(b, `{"next_batch":`...)
	b = canonjson.AppendString(b, a.next.Encode(a.user))
	b = appendEvents(b, "account_data", a.accountData)
	b = appendEvents(b, "presence", a.presence)
	b = appendEvents(b, "to_device", a.toDevice)
	b = a.deviceLists.append(b)
	if a.keys != nil {
		b = a.keys.append(b)
	}
	return b
}

func (a *deviceLists) append(b []byte) []byte {
	if len(a.changed)+len(a.left) == 0 {
		return b
	}
	b = append(b, `,"device_lists":{"changed":`...)
	b = appendUsers(b, a.changed)
	b = append(b, `,"left":`...)
	b = appendUsers(b, a.left)
	return append(b, '}')
}

// appendRooms appends rooms, and notes what is to be sent in them.
func appendRooms(b []byte, start int, name string, rooms []roomAnswer, rests *[]rest) []byte {
	if len(rooms) == 0 {
		return b
	}
	if len(b) > start {
		b = append(b, ',')
	}
	b = canonjson.AppendString(b, name)
	b = append(b, ':', '{')
	for i := range rooms {
		if i > 0 {
			b = append(b, ',')
		}
		b = canonjson.AppendString(b, string(rooms[i].id))
		b = append(b, ':')
		if r := rooms[i].rest; r != nil {
			*rests = append(*rests, rest{r.room, len(b) + r.at, r.more})
		}
		b = rooms[i].append(b)
	}
	return append(b, '}')
}

// appendEvents appends a member with a list of events, if there are any.
func appendEvents(b []byte, name string, events [][]byte) []byte {
	if len(events) == 0 {
		return b
	}
	b = canonjson.AppendString(append(b, ','), name)
	b = append(b, `:{"events":[`...)
	b = appendItems(b, events)
	return append(b, `]}`...)
}

func appendItems(b []byte, items [][]byte) []byte {
	for i, e := range items {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, e...)
	}
	return b
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
