package account

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// Key identifies a send: the sender's nth message in a room. A new attempt at the
// same send, with the same transaction id, has the same key.
type Key struct {
	Sender string
	Seq    int64
}

func (k Key) String() string { return fmt.Sprintf("%s#%d", k.Sender, k.Seq) }

// Ledger records sends and deliveries. Its methods may be called concurrently;
// one user's deliveries must be recorded in the order in which that user got
// them.
type Ledger struct {
	mu    sync.Mutex
	rooms map[string]*room

	sent, acked, delivered atomic.Int64
}

type room struct {
	mu        sync.Mutex
	sends     map[Key]*send
	events    map[string]int32 // event id → number
	ids       []string
	keys      []Key
	receivers map[string]*receiver
	chains    []chain
	stored    []int32 // numbers of the history's events, oldest first
	hasStored bool
	clock     int64 // counts attempts and acknowledgements
}

type send struct {
	event     int32 // -1: not acknowledged
	conflict  []string
	attempted int64 // room clock at the first attempt
	acked     int64 // room clock at the acknowledgement; 0: none
}

// chain is what answers showed that followed each other's tokens.
type chain struct {
	user  string
	shown []int32
}

type receiver struct {
	shown []int32
	since int64 // room clock when it began to be owed events
}

// New returns an empty ledger.
func New() *Ledger { return &Ledger{rooms: map[string]*room{}} }

func (l *Ledger) room(id string) *room {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.rooms[id]
	if r == nil {
		r = &room{sends: map[Key]*send{}, events: map[string]int32{}, receivers: map[string]*receiver{}}
		l.rooms[id] = r
	}
	return r
}

// Receiver declares that user, from now on, is owed every event of the room.
// Deliveries to somebody who was not declared are checked for doubles and order
// but not for loss.
func (l *Ledger) Receiver(roomID, user string) {
	r := l.room(roomID)
	r.mu.Lock()
	defer r.mu.Unlock()
	if rc := r.receivers[user]; rc != nil && rc.since >= 0 {
		return
	}
	r.receiver(user).since = r.clock
}

// receiver returns the user's record, made as owed nothing.
func (r *room) receiver(user string) *receiver {
	rc := r.receivers[user]
	if rc == nil {
		rc = &receiver{since: -1}
		r.receivers[user] = rc
	}
	return rc
}

// Attempt records that a send is about to be made, before its first request.
func (l *Ledger) Attempt(roomID string, k Key) {
	r := l.room(roomID)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sends[k] == nil {
		r.clock++
		r.sends[k] = &send{event: -1, attempted: r.clock}
		l.sent.Add(1)
	}
}

// Acked records the server's acknowledgement of a send.
func (l *Ledger) Acked(roomID string, k Key, eventID string) {
	r := l.room(roomID)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clock++
	s := r.sends[k]
	if s == nil {
		s = &send{event: -1, attempted: r.clock}
		r.sends[k] = s
		l.sent.Add(1)
	}
	n := r.number(eventID, k)
	switch {
	case s.event < 0:
		s.event, s.acked = n, r.clock
		l.acked.Add(1)
	case s.event != n:
		s.conflict = append(s.conflict, eventID) // two answers, two events
	}
}

// Delivered records that user was shown an event. Call it for the events that
// carry a key, in the order shown; an event filled in after a limited timeline
// goes before those that the timeline showed.
func (l *Ledger) Delivered(roomID, user, eventID string, k Key) {
	r := l.room(roomID)
	r.mu.Lock()
	defer r.mu.Unlock()
	rc := r.receiver(user)
	rc.shown = append(rc.shown, r.number(eventID, k))
	l.delivered.Add(1)
}

// Shown is an event that an answer showed.
type Shown struct {
	EventID string
	Key     Key
}

// Chain records all that answers showed of a room that followed each other's
// tokens, none of them limited but the first. A first answer ends at its token
// and the next one begins there, so that together they are a part of the history
// without a hole.
func (l *Ledger) Chain(roomID, user string, shown []Shown) {
	if len(shown) < 2 {
		return // says nothing
	}
	r := l.room(roomID)
	r.mu.Lock()
	defer r.mu.Unlock()
	c := chain{user: user, shown: make([]int32, len(shown))}
	for i, s := range shown {
		c.shown[i] = r.number(s.EventID, s.Key)
	}
	r.chains = append(r.chains, c)
}

// Has tells whether user was shown the event: where to stop filling a gap.
func (l *Ledger) Has(roomID, user, eventID string) bool {
	r := l.room(roomID)
	r.mu.Lock()
	defer r.mu.Unlock()
	n, ok := r.events[eventID]
	if !ok {
		return false
	}
	rc := r.receivers[user]
	if rc == nil {
		return false
	}
	for i := len(rc.shown) - 1; i >= 0; i-- {
		if rc.shown[i] == n {
			return true
		}
	}
	return false
}

// Stored records the next event of the room's history, oldest first, as read at
// the end. A room of which nothing was stored is not checked for it: call
// StoredNone for one whose history is empty.
func (l *Ledger) Stored(roomID, eventID string, k Key) {
	r := l.room(roomID)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hasStored = true
	r.stored = append(r.stored, r.number(eventID, k))
}

// StoredNone records that the room's history was read; events may follow.
func (l *Ledger) StoredNone(roomID string) {
	r := l.room(roomID)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hasStored = true
}

func (r *room) number(eventID string, k Key) int32 {
	n, ok := r.events[eventID]
	if !ok {
		n = int32(len(r.ids))
		r.events[eventID] = n
		r.ids = append(r.ids, eventID)
		r.keys = append(r.keys, k)
	}
	return n
}

// Counts returns how many sends were attempted and acknowledged and how many
// deliveries were recorded so far.
func (l *Ledger) Counts() (sent, acked, delivered int64) {
	return l.sent.Load(), l.acked.Load(), l.delivered.Load()
}

// Owed counts the deliveries of acknowledged sends that are still missing: 0 once
// everything has arrived.
func (l *Ledger) Owed() int {
	owed := 0
	l.each(func(id string, r *room) { owed += len(r.lost(id)) })
	return owed
}

// each visits the rooms, each locked.
func (l *Ledger) each(fn func(id string, r *room)) {
	l.mu.Lock()
	rooms := make(map[string]*room, len(l.rooms))
	for id, r := range l.rooms {
		rooms[id] = r
	}
	l.mu.Unlock()
	for id, r := range rooms {
		r.mu.Lock()
		fn(id, r)
		r.mu.Unlock()
	}
}
