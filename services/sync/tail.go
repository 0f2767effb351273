package sync

import (
	"context"
	"sync"
	"time"

	"hanse/pkg/bus"
	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/userdb"
	"hanse/pkg/view"
	logv1 "hanse/proto/log/v1"
)

// tail holds the newest entries of the rooms in which users connected to this worker are. A poll that finds all it
// needs here touches no database. What the tail does not reach back to is read from PostgreSQL.
type tail struct {
	parts  []*partTail
	budget int64 // bytes for each partition
	wake   func(part uint32, rooms []int64)
	left   func(key roomdb.RoomKey, who id.User, pos int64) // somebody is out of a room
}

// partTail is the tail of one partition.
type partTail struct {
	mu    sync.RWMutex
	head  int64 // last position that was seen
	rooms map[int64]*roomTail
	byID  map[id.Room]int64
	queue []*entry // all entries held, oldest first
	from  int64    // the queue has all entries of the rooms behind this position, each from when it was first watched
	bytes int64
}

// roomTail holds a room's entries at positions above from.
type roomTail struct {
	id      id.Room
	users   int // connected users in the room
	from    int64
	last    int64
	entries []*entry
	// fullPos is roomdb.Room's; it counts once it is known.
	fullPos   int64
	fullKnown bool
	// activity counts once it is stamped.
	activity
	stamped bool
	// trait counts once it is traced.
	trait
	traced bool
}

// entry is one entry of the log in the form that answers need.
type entry struct {
	part    uint32
	pos     int64
	roomNID int64
	roomID  id.Room
	size    int64

	// One of these is set.
	event   *roomdb.Event
	receipt *logv1.Receipt
	device  *logv1.DeviceChange
	filled  bool // the room's state is whole from here on
	hole    bool // events are missing before the event

	// Of events: the current state before and after, and what the log says of the event besides.
	before, after int64
	log           *logv1.Event

	// committedUS and traceparent are of the append that made the entry; 0 and empty if it was read from PostgreSQL.
	// arrived is when one that is traced came here.
	committedUS int64
	traceparent string
	arrived     time.Time
}

func newTail(parts uint32, budget int64, heads map[uint32]int64, wake func(uint32, []int64), left func(roomdb.RoomKey, id.User, int64)) *tail {
	t := &tail{parts: make([]*partTail, parts), budget: budget / int64(parts), wake: wake, left: left}
	for i := range t.parts {
		t.parts[i] = &partTail{head: heads[uint32(i)], from: heads[uint32(i)], rooms: make(map[int64]*roomTail), byID: make(map[id.Room]int64)}
	}
	return t
}

// handle takes what the log reader delivers: dense and in order for each partition.
func (t *tail) handle(_ context.Context, d bus.Delivery) error {
	p := t.parts[d.Part]
	entries := make([]*entry, 0, len(d.Entries))
	p.mu.RLock()
	for _, e := range d.Entries {
		// Only the handler adds rooms' entries, and registering a room takes the write lock: what is not of interest
		// now is of interest only from positions behind this delivery on.
		if p.rooms[e.RoomNid] == nil {
			continue
		}
		parsed, err := parseEntry(d.Part, e)
		if err != nil {
			p.mu.RUnlock()
			return bus.Unprocessable(err)
		}
		parsed.committedUS = d.CommittedUS
		if e.Traceparent != "" {
			parsed.traceparent, parsed.arrived = e.Traceparent, time.Now()
		}
		entries = append(entries, parsed)
	}
	p.mu.RUnlock()
	for _, e := range entries {
		for who := range e.leavers {
			t.left(roomdb.RoomKey{Part: d.Part, NID: e.roomNID}, who, e.pos)
		}
	}

	p.mu.Lock()
	var concerned []int64
	for _, e := range d.Entries {
		var parsed *entry
		if len(entries) > 0 && entries[0].pos == e.Pos {
			parsed, entries = entries[0], entries[1:]
		}
		r := p.rooms[e.RoomNid]
		switch {
		case r == nil: // one that lost its last user between the locks is of no interest any more
			continue
		case parsed != nil:
			p.add(r, parsed)
		default: // a room that got its first user between the locks: its entries were not parsed
			p.lose(r, e.RoomNid, e.Pos, d.Part)
		}
		if len(concerned) == 0 || concerned[len(concerned)-1] != e.RoomNid {
			concerned = append(concerned, e.RoomNid)
		}
	}
	p.head = d.Entries[len(d.Entries)-1].Pos
	p.shrink(t.budget)
	p.mu.Unlock()
	t.wake(d.Part, concerned)
	return nil
}

func (p *partTail) add(r *roomTail, e *entry) {
	if e.log != nil && e.log.Redacts != "" {
		// Events that we hold may be redacted by this one: PostgreSQL has the redacted form.
		r.from = e.pos - 1
		r.entries = nil
	}
	if e.filled {
		r.fullPos, r.fullKnown = e.pos, true
	}
	r.last = e.pos
	r.touch(e)
	r.entries = append(r.entries, e)
	p.queue = append(p.queue, e)
	p.bytes += e.size
}

// lose notes that a room has an entry that the tail does not hold.
func (p *partTail) lose(r *roomTail, nid, pos int64, part uint32) {
	r.from, r.last, r.entries, r.stamped = pos, pos, nil, false
	r.traced = false
	e := &entry{part: part, pos: pos, roomNID: nid, size: 200}
	p.queue, p.bytes = append(p.queue, e), p.bytes+e.size
}

// skip passes an entry that cannot be held. What the room's users ask for from before it is read from PostgreSQL, and
// fails if it cannot be read there either: no token moves past it.
func (t *tail) skip(part uint32, roomNID, pos int64) {
	p := t.parts[part]
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.rooms[roomNID]; r != nil {
		p.lose(r, roomNID, pos, part)
	}
	p.head = max(p.head, pos)
}

// shrink forgets the oldest entries until the budget is kept.
func (p *partTail) shrink(budget int64) {
	n := 0
	for p.bytes > budget && n < len(p.queue) {
		e := p.queue[n]
		p.bytes -= e.size
		p.from = e.pos
		if r := p.rooms[e.roomNID]; r != nil && len(r.entries) > 0 && r.entries[0] == e {
			r.entries[0] = nil
			r.entries = r.entries[1:]
			r.from = e.pos
		}
		p.queue[n] = nil
		n++
	}
	p.queue = p.queue[n:]
}

// watch says that one more connected user is in the room.
func (t *tail) watch(part uint32, nid int64, room id.Room) {
	p := t.parts[part]
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.rooms[nid]
	if r == nil {
		r = &roomTail{id: room, from: p.head, last: 0}
		p.rooms[nid] = r
		p.byID[room] = nid
	}
	r.users++
}

// find returns the number of a room in which connected users are.
func (t *tail) find(part uint32, room id.Room) (int64, bool) {
	p := t.parts[part]
	p.mu.RLock()
	defer p.mu.RUnlock()
	nid, ok := p.byID[room]
	return nid, ok
}

// unwatch says that a connected user is no longer in the room, or no longer connected.
func (t *tail) unwatch(part uint32, nid int64) {
	p := t.parts[part]
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.rooms[nid]
	if r == nil {
		return
	}
	if r.users--; r.users == 0 {
		delete(p.rooms, nid)
		delete(p.byID, r.id)
	}
}

// head returns the last position of a partition that the tail has seen.
func (t *tail) head(part uint32) int64 {
	p := t.parts[part]
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.head
}

// since returns the entries of a room behind a position and up to another; ok is false if the tail does not reach
// back that far.
func (t *tail) since(part uint32, nid, after, upTo int64) (entries []*entry, ok bool) {
	p := t.parts[part]
	p.mu.RLock()
	defer p.mu.RUnlock()
	r := p.rooms[nid]
	if r == nil || after < r.from {
		return nil, false
	}
	all := r.entries
	for len(all) > 0 && all[0].pos <= after {
		all = all[1:]
	}
	n := len(all)
	for n > 0 && all[n-1].pos > upTo {
		n--
	}
	return all[:n:n], true
}

// changed calls yield for those of some rooms of one partition that have entries behind a position, and for those of
// which the tail cannot tell.
func (t *tail) changed(part uint32, rooms []*userdb.Membership, after int64, yield func(r *userdb.Membership, known bool)) {
	p := t.parts[part]
	p.mu.RLock()
	defer p.mu.RUnlock()
	for _, m := range rooms {
		if changed, known := p.changed(m.RoomNID, after); changed || !known {
			yield(m, known)
		}
	}
}

func (p *partTail) changed(nid, after int64) (changed, known bool) {
	r := p.rooms[nid]
	switch {
	case r == nil:
		return false, false
	case r.last > after:
		return true, true
	case after >= r.from:
		return false, true
	}
	return false, false
}

// bytes returns what the tail holds.
func (t *tail) bytes() int64 {
	var sum int64
	for _, p := range t.parts {
		p.mu.RLock()
		sum += p.bytes
		p.mu.RUnlock()
	}
	return sum
}

// parseEntry turns an entry of the log into the form that answers need.
func parseEntry(part uint32, e *logv1.Entry) (*entry, error) {
	out := &entry{part: part, pos: e.Pos, roomNID: e.RoomNid, roomID: id.Room(e.RoomId), size: 200}
	switch body := e.Body.(type) {
	case *logv1.Entry_Receipt:
		out.receipt = body.Receipt
	case *logv1.Entry_DeviceChange:
		out.device = body.DeviceChange
	case *logv1.Entry_Filled:
		out.filled = true
	case *logv1.Entry_Event:
		l := body.Event
		var err error
		if out.event, err = roomdb.FromLog(part, e); err != nil {
			return nil, err
		}
		if l.TxnId != "" {
			out.event.Cause = view.Cause(id.User(l.Sender), id.Device(l.DeviceId), l.TxnId)
		}
		out.before, out.after, out.log, out.hole = l.CurrentBefore, l.CurrentAfter, l, l.Hole
		out.size += 2*int64(len(l.Json)) + 800 // with what is written of it for clients
	}
	return out, nil
}
