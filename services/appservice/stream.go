package appservice

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/appservice"
	"hanse/pkg/follow"
	"hanse/pkg/matrix/id"
	"hanse/pkg/retries"
)

const (
	// again is the pause after an error that is not the service's.
	again = time.Second
	// behindEvery is how often it is stored where a service stands that is behind and gets nothing.
	behindEvery = time.Minute
)

// stream is a service, and what it is to get. Its loop runs while there is something to do.
type stream struct {
	b      *box
	id     string
	going  context.Context // ends when the service or the partition is left
	end    context.CancelFunc
	stores retries.Log

	mu      sync.Mutex
	service *appservice.Service // as it is registered now
	gone    bool
	running bool
	timer   *time.Timer // wakes the loop
	until   time.Time   // the loop rests

	// queue are entries that came since those in pos, in their order.
	queue []*item
	size  int64
	// epoch counts how often the queue was dropped.
	epoch int
	// pos has, for each log partition, a position up to which all is in stored transactions, or is not for the service.
	pos []int64
	// behind says that the queue was dropped. missed has the last position of what must be read from the log instead.
	behind bool
	missed []int64
	since  time.Time // how long the oldest thing has waited that the service lacks; zero: none

	// heard is what is in no log, by what it is about. inbox are users for whose devices something may wait; look says that all users
	// with devices are to be looked at.
	heard map[string][]byte
	inbox map[id.User]struct{}
	look  bool

	txn     int64
	pending bool   // the newest transaction is not acknowledged
	body    []byte // of it; nil: it is read when it is sent
	marks   []byte // of the to-device messages in it, with the body
	acked   bool   // it was acknowledged, and the table does not know yet
	lastOK  time.Time
	health  health

	// These belong to the loop. keys is what the service was told last of its devices' keys.
	catch *catchUp
	keys  map[deviceKey]keyState

	// These belong to who flushes.
	rowBehind bool // what the table says
	rowPos    []int64
	rowAt     time.Time
}

func newStream(b *box, service *appservice.Service, r *row) *stream {
	s := &stream{b: b, id: service.ID, service: service, txn: r.txn, pending: r.pending, pos: make([]int64, b.s.shards.P()),
		missed: make([]int64, b.s.shards.P()), lastOK: fromMillis(r.lastOK), since: fromMillis(r.since), rowBehind: r.behind,
		heard: make(map[string][]byte), inbox: make(map[id.User]struct{}), look: service.ToDevice || service.Encryption, keys: make(map[deviceKey]keyState),
		health: health{failures: r.failures, since: fromMillis(r.failing), lastError: r.lastError}}
	s.stores = retries.Log{To: b.s.log.With("service", service.ID), What: "preparing what an application service gets"}
	s.going, s.end = context.WithCancel(b.Context())
	copy(s.pos, r.pos)
	if r.failures > 0 {
		s.until = fromMillis(r.next)
	}
	for q := range s.pos {
		handed := b.Handed(uint32(q))
		switch {
		case s.pos[q] >= handed:
		case r.behind:
			s.missed[q], s.behind = handed, true
		default:
			s.pos[q] = handed
		}
	}
	s.rowPos = slices.Clone(s.pos)
	return s
}

// offer gives the service an entry. Those that come twice are ignored.
func (s *stream) offer(it *item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone || it.pos <= s.pos[it.logPart] {
		return
	}
	if s.since.IsZero() {
		s.since = it.came
	}
	cfg := &s.b.s.cfg
	if !s.behind && (s.health.failures > 0 || len(s.queue) >= cfg.QueueEvents || s.b.s.queued.Load()+it.size > cfg.QueueBytes) {
		s.fallBehind()
	}
	if s.behind {
		s.missed[it.logPart] = max(s.missed[it.logPart], it.pos)
	} else {
		s.queue = append(s.queue, it)
		s.size += it.size
		s.b.s.queued.Add(it.size)
	}
	s.start()
}

// fallBehind drops the queue: what was in it is read from the log. s.mu is held.
func (s *stream) fallBehind() {
	s.pos = s.reached(s.queue)
	for _, it := range s.queue {
		s.missed[it.logPart] = max(s.missed[it.logPart], it.pos)
	}
	s.behind = true
	s.drop()
}

// drop forgets the queue. s.mu is held.
func (s *stream) drop() {
	s.b.s.queued.Add(-s.size)
	s.queue, s.size = nil, 0
	s.epoch++
}

// reached returns how far the service has got in each log partition, if these items wait and nothing else was missed: up to the
// first of them, or as far as the log was handed over. s.mu is held.
func (s *stream) reached(waiting []*item) []int64 {
	at := slices.Clone(s.pos)
	for q := range at {
		if s.missed[q] <= at[q] {
			at[q] = max(at[q], s.b.Handed(uint32(q)))
		}
	}
	return before(at, waiting)
}

// through takes positions forward to those of some items. While entries are handed over they may be sent already, and do not count as
// handed over yet.
func through(at []int64, items []*item) []int64 {
	for _, it := range items {
		at[it.logPart] = max(at[it.logPart], it.pos)
	}
	return at
}

// before takes positions back to before some items.
func before(at []int64, items []*item) []int64 {
	for _, it := range items {
		at[it.logPart] = min(at[it.logPart], it.pos-1)
	}
	return at
}

// wake lets the loop run if there may be something to do.
func (s *stream) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.start()
}

// start lets the loop run, now or when it has rested. s.mu is held.
func (s *stream) start() {
	if s.gone || s.running || s.timer != nil {
		return
	}
	if rest := time.Until(s.until); rest > 0 {
		s.timer = time.AfterFunc(rest, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.timer = nil
			s.start()
		})
		return
	}
	s.running = true
	s.b.work.Go(s.run)
}

// revive ends a pause: the service has shown itself.
func (s *stream) revive() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.health.failures == 0 {
		return
	}
	s.until = time.Time{}
	if s.timer != nil && s.timer.Stop() {
		s.timer = nil
	}
	s.start()
}

// rest ends the loop for a while. s.mu is held.
func (s *stream) rest(pause time.Duration) {
	s.until = time.Now().Add(pause)
}

// register takes over a changed registration. Its url may work where the old one did not.
func (s *stream) register(service *appservice.Service) {
	s.mu.Lock()
	changed := s.service != service
	s.service = service
	s.mu.Unlock()
	if changed {
		s.revive()
	}
}

// leave ends the service's work here; what is on its way ends by itself. What waits still counts when it is stored where the service
// stands.
func (s *stream) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
	s.end()
}

// run does what there is to do.
func (s *stream) run() {
	for {
		more, err := s.step()
		if s.going.Err() == nil && !errors.Is(err, follow.ErrLost) {
			s.stores.Note(err)
		}
		s.mu.Lock()
		if err != nil {
			s.rest(again)
		}
		if (more || s.waiting()) && !s.gone && !time.Now().Before(s.until) {
			s.mu.Unlock()
			continue
		}
		s.running = false
		if s.waiting() {
			s.start() // when it has rested
		}
		s.mu.Unlock()
		return
	}
}

// waiting says whether there is something for the loop to do. s.mu is held.
func (s *stream) waiting() bool {
	return s.pending || s.acked || s.behind || len(s.queue) > 0 || len(s.heard) > 0 || len(s.inbox) > 0 || s.look
}

// step sends a transaction, or makes the next one. It returns false if there is nothing to do now.
func (s *stream) step() (bool, error) {
	s.mu.Lock()
	pending, gone, rests := s.pending, s.gone, time.Now().Before(s.until)
	s.mu.Unlock()
	switch {
	case gone || rests:
		return false, nil
	case pending:
		return s.send()
	}
	return s.next()
}

// next stores the next transaction, if there is anything for one.
func (s *stream) next() (bool, error) {
	d, err := s.collect()
	if err != nil {
		return false, err
	}
	if d == nil {
		return false, s.saveAcknowledged()
	}
	body, err := s.render(d)
	if err == nil {
		err = s.store(d, body)
	}
	if users := d.users(); err != nil && len(users) > 0 {
		s.poke(users...) // what waits for them is where it was
	}
	return err == nil, err
}

// store stores a transaction. If it cannot be known whether that was done, the next one takes its place: it was not sent.
func (s *stream) store(d *draft, body []byte) error {
	s.mu.Lock()
	txn, lastOK := s.txn+1, s.lastOK
	s.mu.Unlock()
	var batch pgx.Batch
	marks, err := d.marks()
	if err != nil {
		return err
	}
	batch.Queue(sqlCut, int32(s.b.N), s.id, txn, body, marks, d.at, millis(lastOK), millis(d.since()))
	if err := s.b.Store(s.b.Context(), &batch); err != nil {
		return err
	}
	s.b.s.metrics.size.Observe(float64(len(body)))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.txn, s.pending, s.body, s.marks, s.acked = txn, true, body, marks, false
	s.since = d.since()
	maps.Copy(s.keys, d.keys)
	for q, pos := range d.at {
		s.pos[q] = max(s.pos[q], pos)
	}
	if d.missed {
		s.catch.found = s.catch.found[len(d.items):]
	} else if d.epoch == s.epoch {
		for _, it := range d.items {
			s.size -= it.size
			s.b.s.queued.Add(-it.size)
		}
		s.queue = s.queue[len(d.items):]
	}
	return nil
}

// flush adds what is to be stored of where the service stands, and lowers upTo to what it has. It returns what notes that it was
// stored.
//
// The table says either that the service is behind and where it stands, or that it has all up to the cursors of the partition.
func (s *stream) flush(batch *pgx.Batch, upTo []int64) func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.behind {
		if s.rowBehind && len(s.queue) == 0 {
			batch.Queue(sqlBehind, int32(s.b.N), s.id, false, s.pos)
			return func() { s.rowBehind = false }
		}
		before(upTo, s.queue)
		return nil
	}
	at := s.reached(nil)
	if s.rowBehind && (slices.Equal(at, s.rowPos) || time.Since(s.rowAt) < behindEvery) {
		return nil
	}
	for q, pos := range at {
		if s.missed[q] <= pos {
			s.pos[q] = pos
		}
	}
	batch.Queue(sqlBehind, int32(s.b.N), s.id, true, at)
	return func() { s.rowBehind, s.rowPos, s.rowAt = true, at, time.Now() }
}

// unsaved says whether flush has something to store.
func (s *stream) unsaved() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.behind || s.rowBehind
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}
