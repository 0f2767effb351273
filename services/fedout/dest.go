package fedout

import (
	"sync"
	"time"

	"hanse/pkg/matrix/id"
	logv1 "hanse/proto/log/v1"
)

// dest is a destination of ours. It keeps up, with a queue of references; or it is behind, with a position for each
// log partition that has something for it.
type dest struct {
	f      *sender
	p      *destPart
	server id.Server

	mu       sync.Mutex
	queue    []*item
	inflight []*item
	// behind is how far each log partition was delivered; a partition that is missing has nothing that was missed.
	behind map[uint32]int64
	// rows are the positions that destination_behind has (or unsure), whatever behind says meanwhile; they belong to
	// flush and lookBehind.
	rows map[uint32]int64
	// extras are rooms that it is not in but must hear of while it is behind; the value says whether it is stored.
	extras map[roomKey]bool
	// newest is the last entry of a partition that was for this destination while it was behind.
	newest  map[uint32]int64
	retryAt time.Time
	retry   *time.Timer
	revived int  // how often revive was called
	running bool // a goroutine sends
	gone    bool // the partition belongs to somebody else
	used    time.Time

	// hasEDUs: rows of fed_edu may be there; eduWake counts the hints.
	hasEDUs bool
	eduWake int
	typing  map[typingKey]*logv1.Typing
	// presence is the newest of each user.
	presence map[id.User]*logv1.Presence
	// refused is what it refused and does not get any more; fresh is what of that is not stored. refusedAnew says that the stored
	// rows are of no use any more.
	refused     map[refusalKey]bool
	fresh       []refusalKey
	refusedAnew bool

	// These belong to the goroutine that sends.
	told   map[deviceChange]struct{}
	catch  map[uint32]*catchUp
	broken int // attempts in a row that were answered with 500
	// leaveSlot gives the slot back that the goroutine has; nil: it has none. patient says which kind of slot it takes.
	leaveSlot func()
	patient   bool
}

type typingKey struct {
	room string
	user id.User
}

// Bounds of what may be lost.
const (
	maxTyping   = 500
	maxPresence = 1000
)

func (d *dest) isBehind() bool { return len(d.behind) > 0 }

// state is for metrics. d.mu is held.
func (d *dest) state(now time.Time) string {
	switch {
	case now.Before(d.retryAt):
		return "backing_off"
	case d.isBehind():
		return "behind"
	}
	return "healthy"
}

// offer gives the destination an entry: into its queue, or as something that it will read from the log.
func (d *dest) offer(it *item, inRoom bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gone {
		return
	}
	if !d.isBehind() && !time.Now().Before(d.retryAt) {
		if len(d.queue) < d.f.s.cfg.QueueEvents && d.f.bytes.Load() < d.f.s.cfg.QueueBytes {
			d.f.retain(it)
			d.queue = append(d.queue, it)
			d.start()
			return
		}
		d.f.s.metrics.overflows.Inc()
		d.fallBehind(d.queue)
		d.queue = nil
	}
	d.missed(it, inRoom)
	d.start()
}

// missed notes that an entry is not in the queue. d.mu is held.
func (d *dest) missed(it *item, inRoom bool) {
	d.lagAt(it.logPart, it.pos-1)
	d.newest[it.logPart] = max(d.newest[it.logPart], it.pos)
	key := roomKey{it.logPart, it.entry.RoomNid}
	if _, ok := d.extras[key]; !inRoom && !ok {
		d.addExtra(key, false)
	}
}

// addExtra notes a room that the destination must hear of. d.mu is held.
func (d *dest) addExtra(key roomKey, stored bool) {
	if d.extras == nil {
		d.extras = make(map[roomKey]bool)
	}
	d.extras[key] = stored
}

// lagAt marks a log partition as delivered up to pos, if it is not marked as less already. d.mu is held.
func (d *dest) lagAt(part uint32, pos int64) {
	if d.behind == nil {
		d.behind, d.newest = make(map[uint32]int64), make(map[uint32]int64)
	}
	if at, ok := d.behind[part]; !ok || at > pos {
		d.behind[part] = pos
	}
}

// fallBehind turns what waits into positions of the log. d.mu is held.
func (d *dest) fallBehind(items []*item) {
	for _, it := range items {
		d.lagAt(it.logPart, it.pos-1)
		d.newest[it.logPart] = max(d.newest[it.logPart], it.pos)
		if ev := it.event(); ev != nil && len(ev.AlsoTo) > 0 {
			// It may have been for a server outside of the room; then the room would not be found.
			for _, s := range ev.AlsoTo {
				if s == string(d.server) {
					d.missed(it, false)
				}
			}
		}
		d.f.release(it)
	}
}

// start sends, if there is something to send and nobody does. d.mu is held.
func (d *dest) start() {
	if d.running || d.gone || !d.hasWork() || time.Now().Before(d.retryAt) {
		return
	}
	d.running, d.used = true, time.Now()
	d.p.work.Add(1)
	d.f.work.Go(func() {
		defer d.p.work.Done()
		d.run()
	})
}

func (d *dest) hasWork() bool {
	return len(d.queue) > 0 || d.isBehind() || d.hasEDUs || len(d.typing) > 0 || len(d.presence) > 0
}

// kick starts to send after something changed elsewhere.
func (d *dest) kick() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.start()
}

// wakeEDUs says that there may be rows of fed_edu.
func (d *dest) wakeEDUs() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hasEDUs = true
	d.eduWake++
	d.start()
}

// wait stops sending until a time. d.mu is held.
func (d *dest) wait(until time.Time) {
	pause := time.Until(until)
	d.retryAt = time.Now().Add(pause) // on the timer's clock: it is not early when the timer ends
	if d.retry != nil {
		d.retry.Stop()
	}
	d.retry = time.AfterFunc(pause, d.kick)
}

// revive ends a pause: the destination was heard of, or somebody reached it.
func (d *dest) revive() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.revived++
	if d.retryAt.IsZero() {
		return
	}
	d.retryAt = time.Time{}
	if d.retry != nil {
		d.retry.Stop()
	}
	d.start()
}

// revivals counts the calls of revive.
func (d *dest) revivals() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.revived
}

// failed ends an attempt: what was on its way and what waits is read from the log later.
func (d *dest) failed(until time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fallBehind(d.inflight)
	d.fallBehind(d.queue)
	d.inflight, d.queue, d.typing, d.presence = nil, nil, nil, nil
	// What was told of device lists may not have arrived.
	d.catch, d.told = nil, nil
	d.wait(until)
}

// delivered drops what was acknowledged.
func (d *dest) delivered() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, it := range d.inflight {
		d.f.release(it)
	}
	d.inflight = nil
	d.retryAt = time.Time{}
}

// pins lowers the positions up to which the cursors of the partition may go. d.mu is held.
func (d *dest) pins(upTo []int64) {
	for _, items := range [][]*item{d.inflight, d.queue} {
		for _, it := range items {
			upTo[it.logPart] = min(upTo[it.logPart], it.pos-1)
		}
	}
	for part, pos := range d.behind {
		if row, ok := d.rows[part]; !ok || row > pos {
			upTo[part] = min(upTo[part], pos)
		}
	}
	for key, stored := range d.extras {
		if pos, ok := d.behind[key.part]; ok && !stored {
			upTo[key.part] = min(upTo[key.part], pos)
		}
	}
}

// idle says whether nothing is lost by forgetting the destination. d.mu is held.
func (d *dest) idle(now time.Time) bool {
	return !d.running && !d.hasWork() && len(d.inflight) == 0 && len(d.rows) == 0 && len(d.fresh) == 0 && !now.Before(d.retryAt) && now.Sub(d.used) > time.Minute
}

// touch keeps the destination from being idle for a while.
func (d *dest) touch() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.used = time.Now()
}

// leave stops the destination for good.
func (d *dest) leave() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gone = true
	if d.retry != nil {
		d.retry.Stop()
	}
}
