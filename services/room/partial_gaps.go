package room

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

// What an event since our join follows may be missing: the state before such an event is not known, and while the room
// lacked members it was not asked for. Before the event is judged again, the events that are missing or the states after
// them are got as they are for an event that arrives (server-server API, "Checks performed on receipt of a PDU", and
// GET /state_ids), without the room's lock. If nobody tells them, what we know stands in. What others build upon that is
// in doubt: state events are soft-failed, and nothing becomes a forward extremity of the room, so that it changes what the room is only
// if somebody builds upon it whose event is accepted then, and as far as state resolution lets it.

const (
	// gapServers is how many servers are asked for what is missing before an event.
	gapServers = 3
	// gapsTime bounds how long an attempt to make the room whole waits for all of that.
	gapsTime = 10 * time.Minute
)

// gap is an event that follows some that are missing.
type gap struct {
	row     unsureEvent
	event   *roomdb.Event
	missing []id.Event
}

// bridges is what other servers told of states that we cannot work out ourselves.
type bridges struct {
	f     *fill
	in    intake // counts what is asked for
	base  state.Map
	until time.Time
	// upTo is the last row of partial_event when it began: what comes later was asked for when it came.
	upTo   int64
	filled map[id.Event]bool  // events before which the missing ones were asked for
	silent map[id.Server]bool // servers that did not answer
	// after are states after missing events, before those before events of the history. unknown are events before which
	// nobody could tell the state.
	after, before map[id.Event]state.Map
	unknown       map[id.Event]bool
}

func (f *fill) newBridges(ctx context.Context, base state.Map) (*bridges, error) {
	b := &bridges{f: f, in: f.in, base: base, until: time.Now().Add(gapsTime), filled: make(map[id.Event]bool),
		silent: make(map[id.Server]bool), after: make(map[id.Event]state.Map), before: make(map[id.Event]state.Map),
		unknown: make(map[id.Event]bool)}
	b.in.fetched = new(int)
	if prev := f.join.PrevEvents; len(prev) == 1 {
		b.after[prev[0]] = base // whoever was sent here before us
	}
	err := f.s.shards.For(f.p.part).QueryRow(ctx, `SELECT coalesce(max(n), 0) FROM partial_event WHERE part = $1 AND room_nid = $2`,
		int32(f.p.part), f.nid).Scan(&b.upTo)
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	return b, nil
}

// bridge asks for the state before an event, or gives it up.
func (b *bridges) bridge(ctx context.Context, g *gap) error {
	asking, cancel := context.WithDeadline(ctx, b.until)
	defer cancel()
	servers, err := b.servers(ctx, g.event.Sender.Server())
	if err != nil {
		return err
	}
	if len(g.missing) > missingStates {
		servers = nil // as for an event that arrives
	}
	for _, server := range servers {
		b.in.origin = server
		err := b.from(asking, g)
		switch {
		case err == nil:
			return nil
		case retry(err) || ctx.Err() != nil:
			return err
		case errors.Is(err, errTooMuchMissing) || asking.Err() != nil:
			b.unknown[g.event.ID] = true
			return nil
		}
		var answer *fedError
		if !errors.As(err, &answer) {
			b.silent[server] = true
		}
		b.f.s.log.Info("state before an event", "room", b.f.roomID, "event", g.event.ID, "server", server, "err", err)
	}
	b.unknown[g.event.ID] = true
	return nil
}

// servers are those to be asked: who sent the event knows what it follows.
func (b *bridges) servers(ctx context.Context, sender id.Server) ([]id.Server, error) {
	all, err := b.f.servers(ctx)
	if err != nil {
		return nil, err
	}
	var out []id.Server
	for _, server := range append([]id.Server{sender}, all...) {
		if !b.f.s.servers.IsLocal(server) && !b.silent[server] && !slices.Contains(out, server) && len(out) < gapServers {
			out = append(out, server)
		}
	}
	return out, nil
}

// from asks the origin. It returns nil if anything is known now that was not.
func (b *bridges) from(ctx context.Context, g *gap) error {
	if g.row.history {
		st, err := b.in.stateBefore(ctx, g.event.ID)
		if err == nil {
			b.before[g.event.ID] = b.near(st.Map)
		}
		return err
	}
	missing := g.missing
	// What is older than our join is history: its state is enough.
	if !b.filled[g.event.ID] && g.row.n <= b.upTo && g.event.Depth > b.f.join.Depth {
		b.filled[g.event.ID] = true
		left, err := b.fill(ctx, g)
		if err != nil || len(left) < len(missing) {
			return err
		}
	}
	states, err := b.in.statesAt(ctx, missing)
	for _, st := range states {
		b.after[st.after] = b.near(st.Map)
	}
	return err
}

// fill gets missing events themselves, and returns which are missing still.
func (b *bridges) fill(ctx context.Context, g *gap) ([]id.Event, error) {
	leave, err := b.in.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	r, err := b.in.s.joinedRoom(ctx, b.in.roomID)
	if err != nil {
		return nil, err
	}
	var known gaps
	for _, p := range g.event.PrevEvents {
		if !slices.Contains(g.missing, p) {
			known.have = append(known.have, p)
		}
	}
	for _, t := range r.head.extremities[:min(len(r.head.extremities), maxPrev)] {
		known.have = append(known.have, t.pdu.ID)
	}
	r.unlock()
	known.since = b.f.join.Depth
	if err := b.in.fillGap(ctx, g.event.PDU, known); err != nil {
		return nil, err
	}
	return b.in.lacking(ctx, g.missing)
}

// near makes a state share memory with the one before our join, from which it hardly differs.
func (b *bridges) near(m state.Map) state.Map {
	return b.base.Apply(slices.Collect(state.Diff(b.base, m)))
}

// parentsOf finds out where an event stands, as far as that is known: upon events that were judged already. Those that must
// be judged first are returned, or else a gap if somebody may be asked to bridge it.
func (d *redo) parentsOf(ctx context.Context, u unsureEvent, e *newEvent, old *roomdb.Event) (at parents, first []unsureEvent, g *gap, err error) {
	at = parents{history: u.history}
	prev, missing, err := d.follows(ctx, old)
	if err != nil {
		return at, nil, nil, err
	}
	if first, err = d.unjudged(ctx, u, prev); err != nil || len(first) > 0 {
		return at, first, nil, err
	}
	for _, p := range prev {
		e.prev = append(e.prev, p.NID)
		if d.waits[p.NID] && d.w.redone[p.NID] == nil {
			at.guessed = true // they follow each other, which only forged ones do
			continue
		}
		if m, ok := d.told.after[p.ID]; ok { // it came since we were told
			snap, err := d.snapshot(m)
			if err != nil {
				return at, nil, nil, err
			}
			at.also = append(at.also, snap)
			continue
		}
		at.prev = append(at.prev, d.w.present(p))
		at.doubtful = at.doubtful || d.doubt[p.NID]
	}
	if len(missing) == 0 && !at.guessed {
		return at, nil, nil, nil
	}
	if m, ok := d.told.before[old.ID]; ok {
		snap, err := d.snapshot(m)
		at.only, at.also = true, []*state.Snapshot{snap}
		return at, nil, nil, err
	}
	var unknown []id.Event
	for _, p := range missing {
		m, ok := d.told.after[p]
		if !ok {
			unknown = append(unknown, p)
			continue
		}
		snap, err := d.snapshot(m)
		if err != nil {
			return at, nil, nil, err
		}
		at.also = append(at.also, snap)
	}
	if len(unknown) > 0 && !d.told.unknown[old.ID] {
		return at, nil, &gap{row: u, event: old, missing: unknown}, nil
	}
	if at.guessed = at.guessed || len(unknown) > 0; at.guessed {
		at.also = append(at.also, d.standsIn(u.history))
	}
	return at, nil, nil, nil
}

// standsIn is the state that stands for one that nobody knows.
func (d *redo) standsIn(history bool) *state.Snapshot {
	if history {
		return d.base
	}
	return d.w.h.snap
}

// snapshot gives a state that we were told a number, once.
func (d *redo) snapshot(m state.Map) (*state.Snapshot, error) {
	if m.Equal(d.base.Map()) {
		return d.base, nil
	}
	if snap := d.snaps[m.ID()]; snap != nil {
		return snap, nil
	}
	snap, err := d.w.store(m)
	if err == nil {
		d.snaps[m.ID()] = snap
	}
	return snap, err
}

const sqlUnsureOf = `
SELECT n, event_nid, history FROM partial_event WHERE part = $1 AND room_nid = $2 AND event_nid = ANY($3) AND n > $4 ORDER BY n`

// unjudged returns which events must be judged before an event that follows them.
func (d *redo) unjudged(ctx context.Context, u unsureEvent, prev []*roomdb.Event) ([]unsureEvent, error) {
	var nids []int64
	for _, p := range prev {
		if d.w.redone[p.NID] == nil && !d.waits[p.NID] {
			nids = append(nids, p.NID)
		}
	}
	if len(nids) == 0 || d.waits[u.nid] {
		return nil, nil
	}
	d.waits[u.nid] = true
	if err := d.w.r.waitCommitted(ctx); err != nil {
		return nil, err
	}
	rows, err := d.f.s.shards.For(d.f.p.part).Query(ctx, sqlUnsureOf, int32(d.f.p.part), d.f.nid, nids, d.f.join.NID)
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	first, err := pgx.CollectRows(rows, scanUnsure)
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	return first, nil
}
