package sync

import (
	"context"
	"encoding/json"
	"hash/fnv"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"hanse/pkg/bus"
	"hanse/pkg/matrix/id"
	"hanse/pkg/token"
	logv1 "hanse/proto/log/v1"
)

// ephemeral is a clock for what is in no log, typing and presence: milliseconds since 1970 that never stand still. What
// a worker stamps itself it compares exactly with its own tokens. A token of another worker is a time to it: what
// happened later is news; what happened shortly before is told as well, as the other worker may not have heard of it
// yet, but ends no wait, or a client that is sent from one worker to another would never wait.
type ephemeral struct {
	worker uint32
	last   atomic.Uint64
}

// slack is how far a token of another worker is mistrusted.
const slack = 30 * time.Second

func newEphemeral(worker string) *ephemeral {
	h := fnv.New32a()
	_, _ = h.Write([]byte(worker))
	_, _ = h.Write([]byte(time.Now().String()))
	return &ephemeral{worker: h.Sum32()}
}

// tick returns a stamp behind all stamps and positions before.
func (e *ephemeral) tick() uint64 {
	for {
		old := e.last.Load()
		next := max(old+1, uint64(time.Now().UnixMilli()))
		if e.last.CompareAndSwap(old, next) {
			return next
		}
	}
}

// now returns a position before all stamps to come.
func (e *ephemeral) now() token.Ephemeral {
	for {
		old := e.last.Load()
		now := max(old, uint64(time.Now().UnixMilli()))
		if old == now || e.last.CompareAndSwap(old, now) {
			return token.Ephemeral{Worker: e.worker, Counter: now}
		}
	}
}

// from returns the stamp behind which a token's client is told of changes.
func (e *ephemeral) from(t token.Ephemeral) uint64 {
	if t.Worker == e.worker {
		return t.Counter
	}
	return t.Counter - min(t.Counter, uint64(slack/time.Millisecond))
}

// typing is who types where, as this worker has heard.
type typing struct {
	eph  *ephemeral
	wake func(id.Room)

	mu    sync.Mutex
	last  uint64 // the newest stamp of all rooms
	rooms map[id.Room]*typingRoom
}

type typingRoom struct {
	changed uint64 // stamp of the last change
	until   map[id.User]time.Time
}

// maxTyping bounds how long anybody types without saying so again.
const maxTyping = 2 * time.Minute

func newTyping(eph *ephemeral, wake func(id.Room)) *typing {
	return &typing{eph: eph, wake: wake, rooms: make(map[id.Room]*typingRoom)}
}

// heard is told of each typing notification.
func (t *typing) heard(m *logv1.Typing) {
	timeout := min(max(time.Duration(m.TimeoutMs)*time.Millisecond, 0), maxTyping)
	if !m.Typing {
		timeout = 0
	}
	t.set(id.Room(m.RoomId), id.User(m.UserId), timeout)
}

func (t *typing) set(room id.Room, user id.User, timeout time.Duration) {
	t.mu.Lock()
	r := t.rooms[room]
	if r == nil {
		if timeout == 0 {
			t.mu.Unlock()
			return
		}
		r = &typingRoom{until: make(map[id.User]time.Time)}
		t.rooms[room] = r
	}
	_, was := r.until[user]
	if timeout > 0 {
		until := time.Now().Add(timeout)
		r.until[user] = until
		time.AfterFunc(timeout, func() { t.expire(room, user, until) })
	} else {
		delete(r.until, user)
	}
	changed := was != (timeout > 0)
	if changed {
		r.changed = t.eph.tick()
		t.last = r.changed
	}
	t.mu.Unlock()
	if changed {
		t.wake(room)
	}
}

// handle takes what the log reader delivers.
func (s *Service) handle(ctx context.Context, d bus.Delivery) error {
	for _, e := range d.Entries {
		s.typing.ends(e)
	}
	return s.tail.handle(ctx, d)
}

// ends hears who is out of a room: nobody types there any more (client-server API, "Typing Notifications").
func (t *typing) ends(e *logv1.Entry) {
	ev := e.GetEvent()
	if ev != nil && ev.Membership != "" && ev.Membership != "join" && ev.StateKey != nil && !ev.Overruled {
		t.set(id.Room(e.RoomId), id.User(*ev.StateKey), 0)
	}
	for _, m := range slices.Concat(ev.GetMoved(), e.GetFilled().GetMoved()) {
		if m.Membership != "join" {
			t.set(id.Room(e.RoomId), id.User(m.UserId), 0)
		}
	}
}

func (t *typing) expire(room id.Room, user id.User, until time.Time) {
	t.mu.Lock()
	r := t.rooms[room]
	current := r != nil && r.until[user].Equal(until)
	t.mu.Unlock()
	if current {
		t.set(room, user, 0)
	}
}

// changed says whether a room has typing notifications to tell behind a token, and whether they are news, which end a
// wait. Before the first token a room in which nobody types has nothing to tell.
func (t *typing) changed(room id.Room, since token.Ephemeral) (tell, news bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.rooms[room]
	if r == nil || (since == token.Ephemeral{} && len(r.until) == 0) {
		return false, false
	}
	return r.changed > t.eph.from(since), r.changed > since.Counter
}

// any says whether any room has something to tell behind a token.
func (t *typing) any(since token.Ephemeral) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last > t.eph.from(since)
}

// typed returns the rooms in which somebody has typed lately.
func (t *typing) typed() []id.Room {
	t.mu.Lock()
	defer t.mu.Unlock()
	rooms := make([]id.Room, 0, len(t.rooms))
	for room := range t.rooms {
		rooms = append(rooms, room)
	}
	return rooms
}

// event returns the m.typing event of a room.
func (t *typing) event(room id.Room) []byte {
	t.mu.Lock()
	users := []string{}
	if r := t.rooms[room]; r != nil {
		for u := range r.until {
			users = append(users, string(u))
		}
	}
	t.mu.Unlock()
	slices.Sort(users)
	content, err := json.Marshal(map[string][]string{"user_ids": users})
	if err != nil {
		panic(err) // strings always marshal
	}
	return basicEvent("m.typing", content)
}

// typingKept is for how long a room is remembered in which somebody has typed: a client that was away for longer takes
// nobody for typing any more.
const typingKept = 10 * time.Minute

// sweep drops rooms in which nobody has typed for a while.
func (t *typing) sweep() {
	before := uint64(time.Now().Add(-typingKept).UnixMilli())
	t.mu.Lock()
	defer t.mu.Unlock()
	for room, r := range t.rooms {
		if len(r.until) == 0 && r.changed < before {
			delete(t.rooms, room)
		}
	}
}

// addEphemeral adds typing and receipts to a room's answer.
func (s *Service) addEphemeral(p *poll, v *roomView, receipts []receipt) {
	s.addTyping(p, v)
	f := &p.filter.Room.Ephemeral
	if len(receipts) > 0 && f.wantsRoom(v.r.Room) && f.wantsType("m.receipt") {
		v.ephemeral = append(v.ephemeral, receiptEvent(receipts))
		v.news = true
	}
}

func (s *Service) addTyping(p *poll, v *roomView) {
	f := &p.filter.Room.Ephemeral
	if !f.wantsRoom(v.r.Room) {
		return
	}
	since := token.Ephemeral{}
	if p.since != nil {
		since = p.since.Eph
	}
	if tell, news := s.typing.changed(v.r.Room, since); tell && f.wantsType("m.typing") {
		v.ephemeral = append(v.ephemeral, s.typing.event(v.r.Room))
		v.news = v.news || news
	}
}

// receiptEvent writes receipts as one m.receipt event (client-server API, module Receipts). Of a user's receipts of one
// type for one event it takes the unthreaded one ("Threaded read receipts", MSC4102): all clients understand it.
func receiptEvent(receipts []receipt) []byte {
	type data struct {
		TS     int64  `json:"ts"`
		Thread string `json:"thread_id,omitempty"`
	}
	content := make(map[string]map[string]map[string]data)
	for _, r := range receipts {
		byType := content[r.event]
		if byType == nil {
			byType = make(map[string]map[string]data)
			content[r.event] = byType
		}
		if byType[r.typ] == nil {
			byType[r.typ] = make(map[string]data)
		}
		if other, ok := byType[r.typ][r.user]; !ok || other.Thread != "" || r.thread == "" {
			byType[r.typ][r.user] = data{r.ts, r.thread}
		}
	}
	b, err := json.Marshal(content)
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	return basicEvent("m.receipt", b)
}
