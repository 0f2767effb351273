package room

import (
	"context"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	logv1 "hanse/proto/log/v1"
)

// change is what one write does to one room: prepared under the room's lock on its provisional state, written by the
// partition's lane. Until then nothing of it exists but in memory.
type change struct {
	room *room
	// row is the room's row after the change; nil if it stays as it is.
	row *roomRow
	// bulk says that it may wait for what others do.
	bulk bool
	// create says that the row does not exist yet. publish sets its place in the directory.
	create  bool
	publish *bool
	// displaced is the room's row before, if that was of another version; 0: none.
	displaced int64

	events     []*newEvent
	resolved   []resolution
	replaced   []int64 // rows of events that came before their auth events, and are among the events now
	entries    []*entry
	states     *state.Batch
	snaps      []offered           // current states, for the readers' cache
	servers    map[id.Server]int32 // joined members more or less, by server
	lacks      []lack
	found      []id.Event // events that are no longer missing
	redactions []redaction
	awaited    []awaited // redactions whose target is not here yet
	receipts   []*receiptRow
	members    []memberRow // local users whose membership changed
	partial    partialRows // of rooms that were joined without their members
	upon       []toldEvent // stored events that were judged upon states that were told
	// joined is a join of the change whose state other servers are to be asked about; nid 0: none.
	joined toldEvent
	// judgedAgain is an event that stood upon a state that was told, and does not any more; 0: none.
	judgedAgain int64
	barsGuests  bool  // local guests must leave afterwards
	nid         int64 // highest numeric id that the change uses

	// last is the position of the change's last entry, or of the partition's last if it has none.
	last int64
	done chan struct{}
	err  error
	// settled is closed with done, or earlier: when the change is committed but not yet projected.
	settled chan struct{}
	trace   *changeTrace
	basis   *basis // of the request; nil if it is none
}

func newChange(ctx context.Context, r *room) *change {
	return &change{room: r, trace: r.s.newTrace(ctx), basis: basisOf(ctx), done: make(chan struct{}), settled: make(chan struct{})}
}

// commit says that the change is in PostgreSQL.
func (c *change) commit() { close(c.settled) }

// finish answers whoever waits. It is called once.
func (c *change) finish(err error) {
	c.err = err
	c.room.p.written(c.events)
	if err != nil {
		for _, e := range c.events {
			c.room.misplaced(e)
		}
	}
	c.trace.end(err)
	select {
	case <-c.settled:
	default:
		close(c.settled)
	}
	// Rooms remember their recent changes: only what became of them, not what they were.
	c.row, c.events, c.entries, c.states, c.snaps, c.servers = nil, nil, nil, nil, nil, nil
	c.lacks, c.found, c.redactions, c.awaited, c.receipts, c.members, c.replaced, c.resolved = nil, nil, nil, nil, nil, nil, nil, nil
	if err == nil && c.basis != nil {
		c.basis.written.Store(true)
	}
	c.partial, c.upon = partialRows{}, nil
	close(c.done)
}

// wait blocks until the change is committed and, for local members, projected. A caller that gives up leaves the
// change to its fate.
func (c *change) wait(ctx context.Context) error {
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// weight bounds a batch: rows, roughly.
func (c *change) weight() int {
	return 1 + len(c.events) + len(c.entries) + len(c.receipts) + len(c.servers) + len(c.partial.redone)
}

// newEvent is an event to be written.
type newEvent struct {
	pdu        *event.PDU
	nid        int64
	sid        int64 // 0: none (outliers)
	flags      int32
	auth, prev []int64
	cause      string
	notifySeq  int64
	replaces   int64
	// prior is what it replaces where the state before the event says so, and not the room's current state.
	prior      int64
	current    bool // it is or was part of the current state
	redactedBy int64
	// ord says where in the timeline the event is (roomdb.PlaceOf); the lane sets it for events that are in the log.
	ord int64
	// lacking says that prev events of it are missing. hole is the position of the hole that history is put into.
	lacking bool
	hole    int64
	// rowExists says that the event is stored already: its row is updated.
	rowExists bool
	// was are the flags in that row.
	was int32
	// told says that other servers told the state before it, as prev events are missing.
	told bool
	// refusal says why the event is rejected or soft-failed.
	refusal error
	// history marks an event that fills a hole; its ord is given out when the draft is complete.
	history bool
	// withheld marks a redaction that clients do not see, as its target is not here: it has no place. releases are the
	// redactions that waited for this event.
	withheld bool
	releases []*newEvent
	why      cause
	// stored is the event as readers see it once it is written.
	stored *roomdb.Event
	// mentions are local users; "" stands for the room.
	mentions []string
	thread   string
	relation *relation // to another event; nil if there is none
}

// reversed says that the verdict on a stored event changes between rejected and not rejected.
func (e *newEvent) reversed() bool { return e.rowExists && (e.was^e.flags)&flagRejected != 0 }

// entry is one position of the log.
type entry struct {
	kind          int16
	event         *newEvent   // roomdb.KindEvent
	receipt       *receiptRow // roomdb.KindReceipt
	before, after int64       // current state
	body          []byte
	bus           *logv1.Entry
}

// offered is a state and one near to it, with which it shares memory.
type offered struct {
	snap *state.Snapshot
	near int64
}

// lack is a prev event that we do not have.
type lack struct {
	event id.Event
	child *newEvent
}

// hole is the position before which the timeline lacks the event; nil if the child has no place in it, so that nobody's garbage
// makes a hole.
func (l lack) hole() *int64 {
	if l.child.hole != 0 {
		return &l.child.hole
	}
	return orNull(l.child.ord)
}

// redaction is one of an event that is here. related says that the event relates to another one.
type redaction struct {
	target, by int64
	related    bool
}

type awaited struct {
	target id.Event
	by     int64
}

// roomRow holds the columns of table room that change.
type roomRow struct {
	sid                          int64
	extremities                  []int64
	depth, firstOrd, notifySeq   int64
	joined, invited, joinedLocal int32
	fullPos                      int64
	active, bumped               int64
}

type receiptRow struct {
	user               id.User
	typ, thread        string
	event              id.Event
	place              roomdb.Place
	ord, notifySeq, ts int64
	pos                int64
	local              bool
}

// memberRow is a row of the membership index.
type memberRow struct {
	user       id.User
	membership string
	eventNID   int64
	eventID    id.Event
	sender     id.User
	entry      *entry
	// fresh: the user was not joined before.
	fresh bool
}
