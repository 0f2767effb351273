package room

import (
	"hanse/pkg/matrix/id"
)

// recent remembers the newest events of a room by their ids: receipts and retries nearly always name one of them.
type recent struct {
	byID map[id.Event]placed
	ring []id.Event
	next int
}

// placed is an event and the change that gives it its place; the place is known once the change is done.
type placed struct {
	e *newEvent
	c *change
}

// recentEvents is how many are kept for each room.
const recentEvents = 8

func newRecent() *recent { return &recent{byID: make(map[id.Event]placed)} }

func (r *recent) add(e *newEvent, c *change) {
	if len(r.ring) < recentEvents {
		r.ring = append(r.ring, "")
	}
	delete(r.byID, r.ring[r.next])
	r.ring[r.next] = e.pdu.ID
	r.byID[e.pdu.ID] = placed{e, c}
	r.next = (r.next + 1) % recentEvents
}

// causes remembers what recent requests made: a request that comes twice gets the same answer, and waits for the same
// commit if that is still under way. What is forgotten here is found by the unique index on the cause.
type causes struct {
	by   map[string]*done
	ring []string
	next int
}

// recentCauses is how many are kept for each room.
const recentCauses = 32

// done is a request that was taken.
type done struct {
	change   *change // nil if nothing had to be written
	ids      []id.Event
	endpoint string // of a request that has a transaction id
}

func newCauses() *causes {
	return &causes{by: make(map[string]*done)}
}

func (c *causes) add(cause string, d *done) {
	if len(c.ring) < recentCauses {
		c.ring = append(c.ring, "")
	}
	delete(c.by, c.ring[c.next])
	c.ring[c.next] = cause
	c.by[cause] = d
	c.next = (c.next + 1) % recentCauses
}
