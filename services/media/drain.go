package media

import (
	"context"
	"sync"
	"time"
)

// serving counts what is under way, for who waits for its end.
type serving struct {
	mu   sync.Mutex
	last *wave
}

// wave is what began since somebody waited the last time.
type wave struct {
	under int
	ended chan struct{} // closed when it is waited for and nothing is left
	over  bool          // no more begins
}

// enter notes that something began.
func (s *serving) enter() (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil {
		s.last = &wave{ended: make(chan struct{})}
	}
	w := s.last
	w.under++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if w.under--; w.under == 0 && w.over {
			close(w.ended)
		}
	}
}

// wait waits for the end of all that has begun so far, not for what begins meanwhile.
func (s *serving) wait(ctx context.Context) error {
	s.mu.Lock()
	w := s.last
	s.last = nil
	if w == nil || w.under == 0 {
		s.mu.Unlock()
		return nil
	}
	w.over = true
	s.mu.Unlock()
	select {
	case <-w.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// DrainTime is how long Drain may take.
func (m *Media) DrainTime() time.Duration { return m.cfg.Drain }

// Drain waits for the end of the uploads and downloads under way. New ones are taken meanwhile: no other worker may be there.
func (m *Media) Drain(ctx context.Context) error { return m.serving.wait(ctx) }
