package sync

import (
	"cmp"
	"slices"

	"hanse/pkg/roomdb"
)

// changedIn calls yield for those rooms of a partition that have entries behind a position, as often as there are entries. It
// returns false, having called nothing, if the tail does not hold all entries of its rooms from there on, or has more of them
// than most: the caller then asks room by room.
func (t *tail) changedIn(part uint32, after int64, most int, yield func(nid int64)) bool {
	p := t.parts[part]
	p.mu.RLock()
	defer p.mu.RUnlock()
	if after < p.from {
		return false
	}
	from, _ := slices.BinarySearchFunc(p.queue, after+1, func(e *entry, pos int64) int { return cmp.Compare(e.pos, pos) })
	if len(p.queue)-from > most {
		return false
	}
	for _, e := range p.queue[from:] {
		yield(e.roomNID)
	}
	return true
}

// activity is when something last happened in a room: see roomdb.Room.
type activity struct{ active, bumped int64 }

// stamp returns a room's activity, if that is known.
func (t *tail) stamp(key roomdb.RoomKey) (a activity, known bool) {
	p := t.parts[key.Part]
	p.mu.RLock()
	defer p.mu.RUnlock()
	if r := p.rooms[key.NID]; r != nil && r.stamped {
		return r.activity, true
	}
	return activity{}, false
}

// setStamp notes what PostgreSQL says of a room's activity; the log may have said more meanwhile.
func (t *tail) setStamp(key roomdb.RoomKey, a activity) activity {
	p := t.parts[key.Part]
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.rooms[key.NID]
	if r == nil {
		return a
	}
	r.active, r.bumped, r.stamped = max(r.active, a.active), max(r.bumped, a.bumped), true
	return r.activity
}

// touch notes an entry's activity. The partition is locked.
func (r *roomTail) touch(e *entry) {
	if e.event == nil || e.log == nil {
		return
	}
	ts := e.log.ActiveTs
	if ts == 0 { // written before owners said so
		ts = max(r.active, min(e.committedUS/1000, e.log.OriginServerTs))
	}
	r.active = max(r.active, ts)
	if roomdb.Bumps(e.log.Type) {
		r.bumped = r.active
	}
	r.encrypted = r.encrypted || e.event.Is(encryption, "")
}
