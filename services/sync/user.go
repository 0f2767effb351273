package sync

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/userdb"
)

// users are those who were connected to this worker lately. A user's memberships stay in memory between polls, so that
// a poll that continues where the last one ended reads nothing.
type users struct {
	db   *userdb.DB
	tail *tail

	mu   sync.Mutex
	byID map[id.User]*user
	// in says who of them is joined to a room.
	in map[roomdb.RoomKey]map[*user]struct{}
}

// user is what the worker holds of one user.
type user struct {
	id id.User

	// latest is the newest position of the user's stream that anybody told us of.
	latest atomic.Int64

	mu    sync.Mutex
	stale bool                           // the bus was away: seq may be behind without our knowing
	seq   int64                          // position up to which rooms is known
	rooms map[id.Room]*userdb.Membership // never changed, only replaced
	// joined are those of them that the user is in, by partition, and keys their numbers. Only replaced, like rooms.
	joined []*userdb.Membership
	parts  []userPart // of these, by partition
	in     map[roomdb.RoomKey]struct{}
	// out is where the log says that the user is out of rooms that it is in as far as we know; see out.go.
	out      map[roomdb.RoomKey]int64
	changes  int        // how often rooms was replaced
	order    *order     // the rooms in order of activity, if somebody has asked for that; see slide_order.go
	ordering sync.Mutex // held while order is brought up to date
	reads    map[roomdb.RoomKey]*readState
	prefs    *prefs
	kinds    *kinds
	polls    map[*asker]struct{}
	used     time.Time
	// lazy is which members' events each device has been sent; see lazy.go.
	lazy  map[string]*lazyMembers
	keys  map[id.Device]deviceKeys
	acked map[id.Device]int64
}

func newUsers(db *userdb.DB, t *tail) *users {
	return &users{db: db, tail: t, byID: make(map[id.User]*user), in: make(map[roomdb.RoomKey]map[*user]struct{})}
}

// get gives the asker its user, with memberships as new as the newest position that is known. From here on whatever concerns
// the user wakes the asker.
func (us *users) get(ctx context.Context, p *asker) error {
	who := p.who.User
	us.mu.Lock()
	u := us.byID[who]
	if u == nil {
		u = &user{
			id: who, seq: -1, out: make(map[roomdb.RoomKey]int64), reads: make(map[roomdb.RoomKey]*readState),
			polls: make(map[*asker]struct{}), lazy: make(map[string]*lazyMembers), keys: make(map[id.Device]deviceKeys),
		}
		us.byID[who] = u
	}
	u.mu.Lock()
	u.polls[p] = struct{}{}
	u.mu.Unlock()
	us.mu.Unlock()
	p.user = u
	if err := us.refresh(ctx, u); err != nil {
		us.done(p)
		return err
	}
	return nil
}

// connectedUser returns a user who is held here with memberships that are known; nil if there is none.
func (us *users) connectedUser(who id.User) *user {
	us.mu.Lock()
	u := us.byID[who]
	us.mu.Unlock()
	if u == nil {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.seq < 0 {
		return nil
	}
	return u
}

// inAny says whether the user is in one of the rooms.
func (u *user) inAny(rooms map[roomdb.RoomKey]struct{}) bool {
	u.mu.Lock()
	mine := u.in
	u.mu.Unlock()
	if len(mine) > len(rooms) {
		mine, rooms = rooms, mine
	}
	for key := range mine {
		if _, ok := rooms[key]; ok {
			return true
		}
	}
	return false
}

// sharesWith says whether two users are in a room together.
func (u *user) sharesWith(other *user) bool {
	other.mu.Lock()
	rooms := other.in
	other.mu.Unlock()
	return u.inAny(rooms)
}

// done takes the asker back.
func (us *users) done(p *asker) {
	u := p.user
	u.mu.Lock()
	delete(u.polls, p)
	u.used = time.Now()
	u.mu.Unlock()
}

// refresh reads what changed of the user's memberships since they were read.
func (us *users) refresh(ctx context.Context, u *user) error {
	u.mu.Lock()
	seq, stale := u.seq, u.stale || len(u.out) > 0
	u.stale = false
	u.mu.Unlock()
	if seq >= 0 && seq >= u.latest.Load() && !stale {
		return nil
	}
	if err := us.read(ctx, u, seq); err != nil {
		u.mu.Lock()
		u.stale = true
		u.mu.Unlock()
		return err
	}
	return nil
}

func (us *users) read(ctx context.Context, u *user, seq int64) error {
	// The position is read first: what is changed meanwhile is read again next time.
	now, err := us.db.Seq(ctx, u.id)
	if err != nil {
		return fmt.Errorf("user stream of %s: %w", u.id, err)
	}
	var rows []userdb.Membership
	if seq < 0 {
		rows, err = us.db.Memberships(ctx, u.id)
	} else if now > seq {
		rows, err = us.db.MembershipsSince(ctx, u.id, seq)
	}
	if err != nil {
		return fmt.Errorf("memberships of %s: %w", u.id, err)
	}
	us.apply(u, rows, now)
	return nil
}

func (us *users) apply(u *user, rows []userdb.Membership, seq int64) {
	us.mu.Lock()
	defer us.mu.Unlock()
	u.mu.Lock()
	defer u.mu.Unlock()
	// A row of a position behind seq was committed after seq was read; whoever sees it sees all up to it, as positions
	// of a user are given out one transaction after the other.
	for i := range rows {
		seq = max(seq, rows[i].Seq)
	}
	rooms := u.rooms
	if len(rows) > 0 {
		rooms = make(map[id.Room]*userdb.Membership, len(u.rooms)+len(rows))
		maps.Copy(rooms, u.rooms)
	}
	for i := range rows {
		m := &rows[i]
		old, known := rooms[m.Room]
		if known && old.Seq > m.Seq {
			continue // a slower refresh
		}
		wasIn, isIn := known && old.Membership == "join", m.Membership == "join"
		rooms[m.Room] = m
		key := roomdb.RoomKey{Part: m.RoomPart, NID: m.RoomNID}
		if m.Pos >= u.out[key] {
			delete(u.out, key)
		}
		switch {
		case isIn && !wasIn:
			us.enter(u, key, m.Room)
		case wasIn && !isIn:
			us.exit(u, key)
		}
	}
	if len(rows) > 0 {
		u.rooms = rooms
		u.index(us.tail.head)
		u.changes++
	}
	u.seq = max(u.seq, seq)
	raise(&u.latest, seq)
}

// userPart is what is known of a user's joined rooms in one partition.
type userPart struct {
	part  uint32
	rooms []*userdb.Membership
	pos   int64 // of the newest membership
	from  int64 // from which position on the tail holds what happened in all of the rooms, if it reaches back that far
}

// index makes what polls need of the rooms that the user is in.
func (u *user) index(heads func(part uint32) int64) {
	was, wasIn, entered := u.parts, u.in, make(map[uint32]bool)
	u.joined, u.parts, u.in = nil, nil, make(map[roomdb.RoomKey]struct{})
	for _, r := range u.rooms {
		if r.Membership == "join" {
			u.joined = append(u.joined, r)
			key := roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID}
			u.in[key] = struct{}{}
			if _, before := wasIn[key]; !before {
				entered[key.Part] = true
			}
		}
	}
	slices.SortFunc(u.joined, func(a, b *userdb.Membership) int {
		return cmp.Or(cmp.Compare(a.RoomPart, b.RoomPart), cmp.Compare(a.RoomNID, b.RoomNID))
	})
	for i, r := range u.joined {
		if n := len(u.parts); n == 0 || u.parts[n-1].part != r.RoomPart {
			u.parts = append(u.parts, userPart{part: r.RoomPart, from: heads(r.RoomPart)})
			// The tail lacks what happened in a room before it was watched here, of which another worker may have told the join.
			for _, p := range was {
				if p.part == r.RoomPart && !entered[p.part] {
					u.parts[n].from = p.from
				}
			}
		}
		last := &u.parts[len(u.parts)-1]
		last.pos = max(last.pos, r.Pos)
		last.rooms = u.joined[i-len(last.rooms) : i+1]
	}
}

func (us *users) enter(u *user, key roomdb.RoomKey, room id.Room) {
	of := us.in[key]
	if of == nil {
		of = make(map[*user]struct{}, 1)
		us.in[key] = of
	}
	of[u] = struct{}{}
	us.tail.watch(key.Part, key.NID, room)
}

func (us *users) exit(u *user, key roomdb.RoomKey) {
	delete(us.in[key], u)
	if len(us.in[key]) == 0 {
		delete(us.in, key)
	}
	delete(u.reads, key)
	us.tail.unwatch(key.Part, key.NID)
}

// position returns up to where the user's stream is known.
func (u *user) position() int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.seq
}

// joinedRooms returns the rooms that the user is in, by partition. The list is not to be changed.
func (u *user) joinedRooms() []*userdb.Membership {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.joined
}

// changed is told of each change of a user's stream.
func (us *users) changed(who id.User, seq int64) {
	us.mu.Lock()
	u := us.byID[who]
	us.mu.Unlock()
	if u != nil && raise(&u.latest, seq) {
		u.wake()
	}
}

// changedRooms wakes the users of rooms that have new entries.
func (us *users) changedRooms(part uint32, rooms []int64) {
	if len(rooms) == 0 {
		return
	}
	var woken []*user
	us.mu.Lock()
	for _, nid := range rooms {
		for u := range us.in[roomdb.RoomKey{Part: part, NID: nid}] {
			woken = append(woken, u)
		}
	}
	us.mu.Unlock()
	for _, u := range woken {
		u.wake() // a second time does nothing
	}
}

// inRoom returns the connected users of a room.
func (us *users) inRoom(key roomdb.RoomKey) []*user {
	us.mu.Lock()
	defer us.mu.Unlock()
	of := make([]*user, 0, len(us.in[key]))
	for u := range us.in[key] {
		of = append(of, u)
	}
	return of
}

// distrust makes everybody's memberships be read anew: the bus may have lost word of changes.
func (us *users) distrust() {
	us.mu.Lock()
	defer us.mu.Unlock()
	for _, u := range us.byID {
		u.mu.Lock()
		u.stale = true
		u.mu.Unlock()
	}
}

// wakeAll makes every poll look again.
func (us *users) wakeAll() {
	us.mu.Lock()
	all := make([]*user, 0, len(us.byID))
	for _, u := range us.byID {
		all = append(all, u)
	}
	us.mu.Unlock()
	for _, u := range all {
		u.wake()
	}
}

func (u *user) wake() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for p := range u.polls {
		select {
		case p.woken <- struct{}{}:
		default: // it is on its way already
		}
	}
}

// forget drops users who have not polled for a while.
func (us *users) forget(idle time.Duration) {
	before := time.Now().Add(-idle)
	us.mu.Lock()
	defer us.mu.Unlock()
	for who, u := range us.byID {
		u.mu.Lock()
		if len(u.polls) == 0 && u.used.Before(before) {
			for _, m := range u.rooms {
				if m.Membership == "join" {
					us.exit(u, roomdb.RoomKey{Part: m.RoomPart, NID: m.RoomNID})
				}
			}
			delete(us.byID, who)
		}
		u.mu.Unlock()
	}
}

// connected returns the number of users held, and of their open polls.
func (us *users) connected() (held, polls int) {
	us.mu.Lock()
	defer us.mu.Unlock()
	for _, u := range us.byID {
		u.mu.Lock()
		polls += len(u.polls)
		u.mu.Unlock()
	}
	return len(us.byID), polls
}

// raise sets v to at least n and says whether that changed it.
func raise(v *atomic.Int64, n int64) bool {
	for {
		old := v.Load()
		if old >= n {
			return false
		}
		if v.CompareAndSwap(old, n) {
			return true
		}
	}
}
