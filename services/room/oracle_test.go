package room

import (
	"context"
	"maps"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/stateres"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

// chains are stored events with all that they cite, for the literal algorithm.
type chains map[id.Event]*roomdb.Event

// Event implements stateres.Source.
func (c chains) Event(eventID id.Event) (*event.PDU, error) {
	if e := c[eventID]; e != nil {
		return e.AsReceived(), nil
	}
	return nil, stateres.ErrMissing
}

// Rejected implements stateres.Source.
func (c chains) Rejected(eventID id.Event) bool {
	e := c[eventID]
	return e != nil && e.Flags&flagRejected != 0
}

// statesAfter are the states after the forward extremities of a room.
func (c *cluster) statesAfter(r *roomdb.Room) (after []state.Map) {
	c.tb.Helper()
	ends, err := c.read.InOrder(context.Background(), r.Part, r.Extremities)
	if err != nil {
		c.tb.Fatal(err)
	}
	for _, e := range ends {
		m, err := c.read.State(context.Background(), r.Part, e.SID)
		if err != nil {
			c.tb.Fatal(err)
		}
		if e.IsState() {
			m = m.Set(state.Key(e.Tuple()), e.NID)
		}
		after = append(after, m)
	}
	return after
}

// checkResolved demands that the current state of a room is that which the specification's algorithm, taken literally,
// makes of the states after its ends (server-server API, "Room State Resolution").
func (c *cluster) checkResolved(roomID string) {
	c.tb.Helper()
	ctx := context.Background()
	r := c.room(roomID)
	known := make(chains)
	var sets []stateres.Set
	var next []int64
	for _, m := range c.statesAfter(r) {
		events, err := c.read.StateEvents(ctx, r.Part, m.All())
		if err != nil {
			c.tb.Fatal(err)
		}
		set := make(stateres.Set, len(events))
		for _, e := range events {
			set[e.Tuple()] = e.ID
			next = append(next, e.NID)
		}
		sets = append(sets, set)
	}
	for len(next) > 0 {
		events, err := c.read.Events(ctx, r.Part, next)
		if err != nil {
			c.tb.Fatal(err)
		}
		next = nil
		for _, e := range events {
			if known[e.ID] == nil {
				known[e.ID] = e
				next = append(next, e.Auth...)
			}
		}
	}
	want, err := stateres.Resolve(r.Rules, sets, known)
	if err != nil {
		c.tb.Fatal(err)
	}
	current, err := c.read.State(ctx, r.Part, r.SID)
	if err != nil {
		c.tb.Fatal(err)
	}
	events, err := c.read.StateEvents(ctx, r.Part, current.All())
	if err != nil {
		c.tb.Fatal(err)
	}
	got := make(stateres.Set)
	for _, e := range events {
		got[e.Tuple()] = e.ID
	}
	if !maps.Equal(got, want) {
		for k, v := range want {
			if got[k] != v {
				c.tb.Errorf("%v: %s, want %s", k, got[k], v)
			}
		}
		c.tb.Fatalf("%d entries, want %d", len(got), len(want))
	}
}
