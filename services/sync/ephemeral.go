package sync

import (
	"encoding/json"
	"hash/fnv"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"hanse/pkg/matrix/id"
	"hanse/pkg/token"
	logv1 "hanse/proto/log/v1"
)

// ephemeral counts the changes of what is in no log, typing and presence. The counter in a token means something to the
// worker that made it only; to any other, everything is new.
type ephemeral struct {
	worker  uint32
	counter atomic.Uint64
}

func newEphemeral(worker string) *ephemeral {
	h := fnv.New32a()
	_, _ = h.Write([]byte(worker))
	_, _ = h.Write([]byte(time.Now().String()))
	return &ephemeral{worker: h.Sum32()}
}

func (e *ephemeral) now() token.Ephemeral {
	return token.Ephemeral{Worker: e.worker, Counter: e.counter.Load()}
}

// since returns the counter of a token, 0 if another worker made it.
func (e *ephemeral) since(t token.Ephemeral) uint64 {
	if t.Worker != e.worker {
		return 0
	}
	return t.Counter
}

// typing is who types where, as this worker has heard.
type typing struct {
	eph  *ephemeral
	wake func(id.Room)

	mu    sync.Mutex
	rooms map[id.Room]*typingRoom
}

type typingRoom struct {
	changed uint64 // counter at the last change
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
		r.changed = t.eph.counter.Add(1)
	}
	t.mu.Unlock()
	if changed {
		t.wake(room)
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

// changed says whether a room has typing news behind a token. To a worker that did not make the token, a room in which
// somebody types is news, and one in which nobody does is not.
func (t *typing) changed(room id.Room, since token.Ephemeral) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.rooms[room]
	if r == nil {
		return false
	}
	if since.Worker != t.eph.worker {
		return len(r.until) > 0
	}
	return r.changed > since.Counter
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

// sweep drops rooms in which nobody has typed for a while.
func (t *typing) sweep(before uint64) {
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
	f := &p.filter.Room.Ephemeral
	if !f.wantsRoom(v.r.Room) {
		return
	}
	since := token.Ephemeral{}
	if p.since != nil {
		since = p.since.Eph
	}
	if f.wantsType("m.typing") && s.typing.changed(v.r.Room, since) {
		v.ephemeral = append(v.ephemeral, s.typing.event(v.r.Room))
	}
	if len(receipts) > 0 && f.wantsType("m.receipt") {
		v.ephemeral = append(v.ephemeral, receiptEvent(receipts))
	}
}

// receiptEvent writes receipts as one m.receipt event (client-server API, module Receipts).
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
		byType[r.typ][r.user] = data{r.ts, r.thread}
	}
	b, err := json.Marshal(content)
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	return basicEvent("m.receipt", b)
}
