package room

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"hanse/pkg/authgraph"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/merr"
	"hanse/pkg/partition"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

// room is a room in the memory of its owner, with its provisional changes. A change is built under the room's lock; changes
// of a room are built one after the other and committed in that order, without waiting for
// each other's commit.
type room struct {
	s     *Service
	p     *lease
	id    id.Room
	nid   int64
	rules *roomversion.Rules

	sem chan struct{} // the lock; a channel, so that waiting ends with the request

	// dead: a change failed, or the lease is over. What is in memory never came to be.
	dead    atomic.Bool
	pending atomic.Int32           // changes queued
	lastPos atomic.Int64           // position of the last committed entry
	used    atomic.Int64           // for eviction: when it was last locked
	last    atomic.Pointer[change] // the newest queued
	// filledPos is where the lane put the entry that made the state whole.
	filledPos atomic.Int64

	// The rest is guarded by the lock.
	loaded   bool
	exists   bool // has a row, if only provisionally
	head     head
	causes   *causes
	recent   *recent
	receipts map[receiptKey]roomdb.Place // those that are known
	resolved memo
	// verdicts counts how often a verdict on an event changed.
	verdicts int
	// drafted are the state events of the newest draft, unshared the resolutions that it took.
	drafted   []authgraph.Node
	unshared  []resolution
	allowance allowance
	afters    map[int64]*state.Snapshot // states after some recent events
	// unsettled are changes that may not be in PostgreSQL yet, oldest first.
	unsettled []unsettled
	queuedIDs map[id.Event]int64 // their events
	awaiting  *change            // the newest whose events name such as we lack
	home      id.Server          // a local server name that is in the room
	merger    id.User            // the sender of the last event that merged extremities
	mute      *state.Map         // a current state in which no local user may do that
	partial   *partialRoom       // set while the state lacks members
	void      chan struct{}      // closed when a resolution without the lock has become useless

	ingest  chan struct{} // held by the request that takes in events of other servers
	waiting atomic.Int32  // the requests that wait for that
	// unlockedSlot is held during a resolution without the lock; reading is the auth graph that is read for it. still is closed
	// when the state may change again.
	unlockedSlot chan struct{}
	reading      atomic.Pointer[growing]
	still        atomic.Pointer[chan struct{}]
}

// head is the present end of a room, with everything that an event built upon it needs. It is a value: a copy is a draft.
type head struct {
	state state.Map
	sid   int64           // number of the state; 0: empty
	snap  *state.Snapshot // the same as the storage knows it
	// extremities are the forward extremities.
	extremities                  []extremity
	depth, firstOrd, notifySeq   int64
	joined, invited, joinedLocal int32
	active, bumped               int64 // roomdb.Room
	// fullPos is where in the log the room got its whole state (roomdb.Room); fullHere stands for room.filledPos.
	fullPos int64
}

// fullHere stands for the position of the room's entry of kind roomdb.KindFilled, which only the lane knows.
const fullHere = -2

// partial says that the state lacks the members that were omitted from the join.
func (h *head) partial() bool { return h.fullPos == roomdb.PartialState }

// extremity is a forward extremity.
type extremity struct {
	nid int64
	pdu *event.PDU
}

func (h *head) row() *roomRow {
	ext := make([]int64, len(h.extremities))
	for i, t := range h.extremities {
		ext[i] = t.nid
	}
	return &roomRow{sid: h.sid, extremities: ext, depth: h.depth, firstOrd: h.firstOrd, notifySeq: h.notifySeq,
		joined: h.joined, invited: h.invited, joinedLocal: h.joinedLocal, fullPos: h.fullPos,
		active: h.active, bumped: h.bumped}
}

// lockRoom returns the room, locked and loaded. The caller calls unlock. A room that we know nothing of is returned
// with exists false.
func (s *Service) lockRoom(ctx context.Context, roomID id.Room) (*room, error) {
	p, err := s.leaseOf(ctx, partition.Of(string(roomID)))
	if err != nil {
		return nil, err
	}
	for {
		r, err := s.roomIn(p, roomID)
		if err != nil {
			return nil, err
		}
		if err := r.lock(ctx); err != nil {
			return nil, err
		}
		if r.dead.Load() {
			r.unlock()
			if p.lost.Load() {
				return nil, p.lostError()
			}
			continue
		}
		if on := basisOf(ctx); on != nil {
			on.room.Store(r)
		}
		if !r.loaded {
			if err := r.load(ctx); err != nil {
				r.drop()
				r.unlock()
				return nil, err
			}
			if len(r.head.extremities) > mergeAbove && r.head.joinedLocal > 0 {
				s.mergeSoon(roomID) // the owner before did not come to it
			}
		}
		return r, nil
	}
}

// joinedRoom is lockRoom for rooms that local users are in.
func (s *Service) joinedRoom(ctx context.Context, roomID id.Room) (*room, error) {
	r, err := s.lockRoom(ctx, roomID)
	if err != nil {
		return nil, err
	}
	if !r.exists || len(r.head.extremities) == 0 {
		r.unlock()
		return nil, merr.NotFound("Unknown room")
	}
	return r, nil
}

func (s *Service) roomIn(p *lease, roomID id.Room) (*room, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rooms == nil {
		return nil, p.lostError()
	}
	r := p.rooms[roomID]
	if r == nil {
		r = &room{s: s, p: p, id: roomID, sem: make(chan struct{}, 1), ingest: make(chan struct{}, 1), unlockedSlot: make(chan struct{}, 1)}
		r.allowance.rate, r.allowance.most = s.cfg.ResolveShare, s.cfg.ResolveBurst
		p.rooms[roomID] = r
		s.metrics.rooms.Inc()
		s.evict(p)
	}
	return r, nil
}

func (r *room) lock(ctx context.Context) error {
	select {
	case r.sem <- struct{}{}:
	default:
		select {
		case r.sem <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	r.used.Store(r.s.clock.Add(1))
	r.forgetSettled()
	return nil
}

func (r *room) key() roomdb.RoomKey { return roomdb.RoomKey{Part: r.p.part, NID: r.nid} }

func (r *room) unlock() { <-r.sem }

// drop forgets the room: the next request reads it anew.
func (r *room) drop() {
	if r.dead.Swap(true) {
		return
	}
	r.p.mu.Lock()
	defer r.p.mu.Unlock()
	if r.p.rooms[r.id] == r {
		delete(r.p.rooms, r.id)
		r.s.metrics.rooms.Dec()
	}
	r.s.graphs.Remove(r)
}

// evictScan is how many rooms are looked at to find one that was not used for long.
const evictScan = 16

// evict keeps the number of rooms in memory within bounds. p.mu is held. Go's maps iterate from a random place, so a
// sample of a few is a fair one.
func (s *Service) evict(p *lease) {
	if len(p.rooms) <= s.roomsPerPart {
		return
	}
	var oldest *room
	n := 0
	for _, r := range p.rooms {
		if r.pending.Load() == 0 && len(r.sem) == 0 && len(r.unlockedSlot) == 0 && r.used.Load() != 0 && (oldest == nil || r.used.Load() < oldest.used.Load()) {
			oldest = r
		}
		if n++; n >= evictScan {
			break
		}
	}
	if oldest == nil {
		return
	}
	select {
	case oldest.sem <- struct{}{}: // nobody is in it
		if oldest.pending.Load() == 0 {
			oldest.dead.Store(true)
			delete(p.rooms, oldest.id)
			s.metrics.rooms.Dec()
			s.graphs.Remove(oldest)
		}
		<-oldest.sem
	default:
	}
}

// load reads the room from PostgreSQL. Nothing of it is provisional then: a room leaves memory only when all of its
// changes are committed or lost.
func (r *room) load(ctx context.Context) error {
	row, err := r.s.db.Room(ctx, r.id)
	if errors.Is(err, roomdb.ErrNotFound) {
		r.begin()
		return nil
	}
	if err != nil {
		return err
	}
	r.begin()
	r.exists, r.nid, r.rules = true, row.NID, row.Rules
	r.lastPos.Store(row.LastPos)
	if row.SID != 0 {
		if r.head.snap, err = r.s.states.Open(ctx, r.s.shards.For(r.p.part), r.p.part, row.SID); err != nil {
			return fmt.Errorf("load room %s: %w", r.id, err)
		}
		r.head.state, r.head.sid = r.head.snap.Map(), row.SID
	}
	extremities, err := r.s.events(ctx, r.p, row.Extremities)
	if err != nil {
		return fmt.Errorf("load room %s: %w", r.id, err)
	}
	h := &r.head
	h.depth, h.firstOrd, h.notifySeq = row.Depth, row.FirstOrd, row.NotifySeq
	h.joined, h.invited, h.joinedLocal = int32(row.Joined), int32(row.Invited), int32(row.JoinedLocal)
	h.fullPos, h.active, h.bumped = row.FullPos, row.Active, row.Bumped
	for _, e := range extremities {
		r.head.extremities = append(r.head.extremities, extremity{e.NID, e.PDU})
	}
	if h.partial() {
		return r.loadPartial(ctx)
	}
	return nil
}

func (r *room) begin() {
	r.loaded = true
	r.causes = newCauses()
	r.recent = newRecent()
	r.receipts = make(map[receiptKey]roomdb.Place)
}

// put queues a change of the locked room and makes its head the room's. The change's fate is in c.done.
func (r *room) put(c *change, h head) error {
	if r.p.lost.Load() {
		return r.p.lostError()
	}
	c.row = h.row()
	c.trace.queued()
	r.pending.Add(1)
	events := c.events // the lane may be done with the change before we are
	r.p.enqueued(events)
	if err := r.p.lane.put(c); err != nil {
		r.pending.Add(-1)
		r.p.written(events)
		c.trace.end(err)
		return err
	}
	if h.joinedLocal != r.head.joinedLocal {
		r.home = "" // who was it may have left
	}
	r.moves(&h)
	r.head = h
	r.last.Store(c)
	return nil
}

// unsettled is a queued change and its events.
type unsettled struct {
	c      *change
	events []*newEvent
}

// queued finds an event of a change that may not be committed yet. The room is locked.
func (r *room) queued(eventID id.Event) (nid int64, ok bool) {
	nid, ok = r.queuedIDs[eventID]
	return nid, ok
}

// noteQueued remembers a change until PostgreSQL has it. The room is locked.
func (r *room) noteQueued(c *change, events []*newEvent) {
	r.unsettled = append(r.unsettled, unsettled{c, events})
	if r.queuedIDs == nil {
		r.queuedIDs = make(map[id.Event]int64, len(events))
	}
	for _, e := range events {
		r.queuedIDs[e.pdu.ID] = e.nid
	}
}

// forgetSettled forgets the changes that PostgreSQL has by now.
func (r *room) forgetSettled() {
	for len(r.unsettled) > 0 {
		select {
		case <-r.unsettled[0].c.settled:
			for _, e := range r.unsettled[0].events {
				delete(r.queuedIDs, e.pdu.ID)
			}
			r.unsettled[0] = unsettled{}
			r.unsettled = r.unsettled[1:]
		default:
			return
		}
	}
	r.unsettled, r.queuedIDs = nil, nil
}

// waitCommitted waits until all that was queued is in PostgreSQL. The room is locked.
func (r *room) waitCommitted(ctx context.Context) error {
	last := r.last.Load()
	if last == nil {
		return nil
	}
	select {
	case <-last.settled:
		if r.dead.Load() {
			return errStale
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// keptAfters bounds the states that a room keeps at hand.
const keptAfters = 64

// keepAfters keeps states after recent events: forks are built on them. A linear room needs none.
func (r *room) keepAfters(afters map[int64]*state.Snapshot) {
	if len(afters) == 0 {
		return
	}
	if r.afters == nil || len(r.afters)+len(afters) > keptAfters {
		r.afters = make(map[int64]*state.Snapshot, len(afters))
	}
	for nid, snap := range afters {
		r.afters[nid] = snap
	}
}

// committed is called by the lane, in the order of the log.
func (r *room) committed(c *change) {
	if len(c.entries) > 0 {
		r.lastPos.Store(c.last)
	}
	r.pending.Add(-1)
}
