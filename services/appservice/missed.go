package appservice

import (
	"fmt"
	"slices"

	"hanse/pkg/appservice"
)

const (
	// readAtOnce is how many entries of the log are read at once for a service that is behind.
	readAtOnce = 256
	// scansAtOnce bounds the services for which a worker reads the log at the same time.
	scansAtOnce = 8
	// missedRooms bounds the rooms of which a service that is behind remembers whether it wants their events.
	missedRooms = 20_000
)

// catchUp reads from the log what a service has missed.
type catchUp struct {
	service *appservice.Service // as it was registered when this began
	match   *appservice.Matcher
	in      *interest
	// scanned is how far each log partition was read; found are the entries that wait, in their order.
	scanned []int64
	found   []*item
	last    uint32 // the log partition that was read last
}

// collectMissed takes the next of what was missed. Without any the service is not behind any more.
func (s *stream) collectMissed() (*draft, error) {
	s.mu.Lock()
	service, pos, missed := s.service, slices.Clone(s.pos), slices.Clone(s.missed)
	s.mu.Unlock()
	c := s.catch
	if c == nil || c.service != service {
		c = s.beginCatchUp(service, pos)
		s.catch = c
	}
	for s.fits(c.found) == len(c.found) {
		q, more := c.unread(missed)
		if !more {
			break
		}
		if err := s.scan(c, q, missed[q]); err != nil {
			return nil, err
		}
		s.caughtUp(c)
	}
	if len(c.found) == 0 {
		s.caughtUp(c)
		return nil, nil
	}
	n := s.fits(c.found)
	return &draft{missed: true, items: slices.Clone(c.found[:n]), at: before(slices.Clone(c.scanned), c.found[n:])}, nil
}

func (s *stream) beginCatchUp(service *appservice.Service, pos []int64) *catchUp {
	w := s.b.s
	c := &catchUp{service: service, match: appservice.NewMatcher([]*appservice.Service{service}), scanned: pos,
		in: newInterest(w.rooms, w.aliases, w.names, w.shards.P(), missedRooms)}
	c.in.match.Store(c.match)
	return c
}

// unread returns a log partition of which something was missed that is not read yet: one after the other, so that no room waits until
// all others are done.
func (c *catchUp) unread(missed []int64) (uint32, bool) {
	for i := range missed {
		q := (int(c.last) + 1 + i) % len(missed)
		if c.scanned[q] < missed[q] {
			return uint32(q), true
		}
	}
	return 0, false
}

// scan reads entries of a log partition, up to a position.
func (s *stream) scan(c *catchUp, q uint32, upTo int64) error {
	select {
	case s.b.s.scans <- struct{}{}:
		defer func() { <-s.b.s.scans }()
	case <-s.going.Done():
		return s.going.Err()
	}
	entries, err := s.b.s.rooms.ReadLog(s.going, q, c.scanned[q]+1, readAtOnce)
	if err != nil {
		return fmt.Errorf("read what was missed: %w", err)
	}
	for _, e := range entries {
		if e.Pos > upTo {
			break
		}
		services, err := c.in.of(s.going, c.match, q, e)
		if err != nil {
			return fmt.Errorf("entry %d: %w", e.Pos, err)
		}
		if len(wanting(c.match, services, e)) > 0 {
			c.found = append(c.found, newItem(q, e))
		}
		c.scanned[q] = e.Pos
	}
	if len(entries) < readAtOnce {
		c.scanned[q] = max(c.scanned[q], upTo) // what is not there any more will not come
	}
	c.last = q
	return nil
}

// caughtUp notes how far the log was read. Once nothing is left of it the service is served from memory again.
func (s *stream) caughtUp(c *catchUp) {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := false
	for q, pos := range before(slices.Clone(c.scanned), c.found) {
		s.pos[q] = max(s.pos[q], pos)
		left = left || s.pos[q] < s.missed[q]
	}
	if !left {
		s.behind, s.catch = false, nil
	}
}
