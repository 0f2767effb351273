package fedout

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// manyServers is from how many servers on what is sent to them counts as being for many.
	manyServers = 100
	// soon is how long a transaction may wait for its answer in a slot. After that it waits among the slow ones.
	soon = time.Second
	// swiftAnswer is the longest time to an answer after which a server still counts as one that answers well.
	swiftAnswer = 5 * time.Second
	// swiftFor is how long it counts as such.
	swiftFor = time.Hour
	// slowTimes is how many transactions may wait among the slow ones, for each slot; slowQueues bounds their bodies, in
	// multiples of the memory for queues.
	slowTimes, slowQueues = 4, 4
)

// errOverloaded ends the slow transaction that has waited longest, when there are too many.
var errOverloaded = errors.New("too many servers are slow to answer, and this one had the longest time")

// slots bounds the transactions on their way, and keeps servers that hang from delaying those that answer well. These
// have slots of their own; nobody keeps a slot for longer than soon. What is on its way for longer waits among the
// slow ones, which are bounded too: beyond the bound the one that has waited longest fails.
type slots struct {
	swift, others lane
	slow          slow
}

func newSlots(n int, slowBytes int64) *slots {
	return &slots{swift: newLane(n), others: newLane(max(1, n/2)), slow: slow{most: n * slowTimes, mostBytes: slowBytes}}
}

// lane is a number of slots. Patient transactions, those that have nothing but what goes to many servers or what comes
// late anyway, have three quarters of them. A message in a room of thousands of servers takes all of these for a while;
// what is said in other rooms has the rest meanwhile.
type lane struct{ all, patient chan struct{} }

func newLane(n int) lane {
	return lane{all: make(chan struct{}, n), patient: make(chan struct{}, max(1, n*3/4))}
}

// enter waits for a slot; leave gives it back.
func (l *lane) enter(ctx context.Context, patient bool) (leave func(), err error) {
	if !patient {
		return func() { <-l.all }, take(ctx, l.all)
	}
	if err := take(ctx, l.patient); err != nil {
		return nil, err
	}
	if err := take(ctx, l.all); err != nil {
		<-l.patient
		return nil, err
	}
	return func() { <-l.all; <-l.patient }, nil
}

func take(ctx context.Context, from chan struct{}) error {
	select {
	case from <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// slow holds the transactions that have waited for an answer for longer than soon, in the order in which they came.
type slow struct {
	most      int
	mostBytes int64

	mu      sync.Mutex
	waiting list.List // of *slowOne
	bytes   int64
}

// slowOne is a transaction that may become a slow one.
type slowOne struct {
	bytes  int64
	cancel context.CancelCauseFunc
	at     *list.Element // nil: not among the slow ones
	over   bool
}

// move lets a transaction give up its slot if it is still under way after soon. end says that the transaction is over,
// and whether the slot is still held.
func (s *slots) move(leave func(), bytes int, cancel context.CancelCauseFunc) (end func() (held bool)) {
	one := &slowOne{bytes: int64(bytes), cancel: cancel}
	timer := time.AfterFunc(soon, func() {
		s.slow.add(one)
		leave()
	})
	return func() bool {
		if timer.Stop() {
			return true
		}
		s.slow.remove(one)
		return false
	}
}

func (s *slow) add(one *slowOne) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if one.over {
		return
	}
	one.at = s.waiting.PushBack(one)
	s.bytes += one.bytes
	for s.waiting.Len() > s.most || s.bytes > s.mostBytes && s.waiting.Len() > 1 {
		oldest := s.waiting.Front().Value.(*slowOne)
		s.drop(oldest)
		oldest.cancel(fmt.Errorf("no answer: %w", errOverloaded))
	}
}

func (s *slow) remove(one *slowOne) {
	s.mu.Lock()
	defer s.mu.Unlock()
	one.over = true
	if one.at != nil {
		s.drop(one)
	}
}

// drop takes a transaction out. s.mu is held.
func (s *slow) drop(one *slowOne) {
	s.waiting.Remove(one.at)
	one.at = nil
	s.bytes -= one.bytes
}
