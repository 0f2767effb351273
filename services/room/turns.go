package room

import (
	"context"
	"sync"
	"time"
)

// timeSlice is for how long somebody works while others wait.
const timeSlice = 10 * time.Millisecond

// turns shares some processors between large tasks: resolutions, and parsing and verifying events by the hundred. The other
// processors are for requests that somebody waits for. The task that has waited longest comes next, and one that has worked
// longer than a time slice lets the waiting tasks go first. As a room resolves one fork at a time, each room gets the same
// share, however much it has to do.
type turns struct {
	mu    sync.Mutex
	free  int
	queue []chan struct{}
}

func newTurns(n int) *turns { return &turns{free: n} }

// enter waits for a turn.
func (t *turns) enter(ctx context.Context) error {
	t.mu.Lock()
	if t.free > 0 {
		t.free--
		t.mu.Unlock()
		return nil
	}
	mine := make(chan struct{})
	t.queue = append(t.queue, mine)
	t.mu.Unlock()
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, c := range t.queue {
		if c == mine {
			t.queue = append(t.queue[:i], t.queue[i+1:]...)
			return ctx.Err()
		}
	}
	t.next() // it came after all
	return ctx.Err()
}

func (t *turns) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next()
}

func (t *turns) next() {
	if len(t.queue) == 0 {
		t.free++
		return
	}
	close(t.queue[0])
	t.queue = t.queue[1:]
}

// waiting is how many rooms wait for a turn.
func (t *turns) waiting() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.queue)
}

// few is how many things are done without a turn: somebody may wait for them.
const few = 100

// each does something with each of n things. If they are many, others have their turns in between.
func (t *turns) each(ctx context.Context, n int, do func(i int)) error {
	if n <= few {
		for i := range n {
			do(i)
		}
		return nil
	}
	turn, err := t.begin(ctx)
	if err != nil {
		return err
	}
	defer turn.pause()
	for i := range n {
		if err := turn.Err(); err != nil {
			return err
		}
		do(i)
	}
	return nil
}

// turn is the context of a resolution. A resolution asks it all the time whether it should end (package resolve): that is
// when it makes room for others. It is used by one goroutine.
type turn struct {
	context.Context
	turns *turns
	until time.Time
	held  bool
}

func (t *turns) begin(ctx context.Context) (*turn, error) {
	turn := &turn{Context: ctx, turns: t}
	return turn, turn.resume()
}

// resume waits until it is the resolution's turn again.
func (t *turn) resume() error {
	if err := t.turns.enter(t.Context); err != nil {
		return err
	}
	t.held, t.until = true, time.Now().Add(timeSlice)
	return nil
}

// pause lets others work.
func (t *turn) pause() {
	if t.held {
		t.held = false
		t.turns.leave()
	}
}

// Err implements context.Context.
func (t *turn) Err() error {
	if err := t.Context.Err(); err != nil || !t.held || time.Now().Before(t.until) || t.turns.waiting() == 0 {
		return err
	}
	t.pause()
	return t.resume()
}
