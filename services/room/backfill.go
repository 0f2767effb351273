package room

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	roomv1 "hanse/proto/room/v1"
)

// Bounds of a backfill.
const (
	backfillLimit   = 100 // events asked for at once
	backfillFrom    = 20  // events asked from
	backfillServers = 5   // servers asked
)

// Backfill implements roomv1.RoomServer (server-server API, "Backfilling and retrieving missing events").
func (s *Service) Backfill(ctx context.Context, req *roomv1.BackfillRequest) (*roomv1.BackfillResponse, error) {
	in, leave, err := s.enterRoom(ctx, req.RoomId, "")
	if err != nil {
		return nil, err
	}
	defer leave()
	hole, err := in.holeToFill(ctx, req.Hole)
	if err != nil {
		return nil, err
	}
	from, servers, err := in.backwards(ctx, hole)
	if err != nil {
		return nil, err
	}
	if len(from) == 0 {
		return &roomv1.BackfillResponse{Complete: true}, nil
	}
	limit := min(max(int(req.Limit), 1), backfillLimit)
	answered := len(servers) == 0
	for ctx, server := range inTurn(ctx, servers) {
		in.origin = server
		stored, err := in.backfillFrom(ctx, hole, from, limit)
		if retry(err) || ctx.Err() != nil {
			return nil, again(err)
		}
		if err != nil {
			s.log.Info("backfill", "room", in.roomID, "server", server, "err", err)
			continue
		}
		answered = true
		if stored > 0 {
			return &roomv1.BackfillResponse{Stored: int32(stored)}, nil
		}
	}
	return &roomv1.BackfillResponse{Complete: answered}, nil
}

// holeToFill returns the position of a hole; of the newest one for callers that do not know any.
func (in *intake) holeToFill(ctx context.Context, hole int64) (int64, error) {
	if hole != 0 {
		return hole, nil
	}
	r, err := in.s.joinedRoom(ctx, in.roomID)
	if err != nil {
		return 0, err
	}
	part, nid := r.p.part, r.nid
	r.unlock()
	newest, err := in.s.db.HoleBefore(ctx, part, nid, roomdb.End, math.MaxInt64)
	if err != nil || newest == nil {
		return 0, err
	}
	return newest.Pos, nil
}

// backwards returns the newest events that a hole lacks, and who may have them.
func (in *intake) backwards(ctx context.Context, hole int64) ([]id.Event, []id.Server, error) {
	r, err := in.s.joinedRoom(ctx, in.roomID)
	if err != nil {
		return nil, nil, err
	}
	defer r.unlock()
	if err := r.waitCommitted(ctx); err != nil {
		return nil, nil, again(err)
	}
	rows, err := in.s.shards.For(r.p.part).Query(ctx, sqlBackwards, int32(r.p.part), r.nid, backfillFrom, hole)
	if err != nil {
		return nil, nil, fmt.Errorf("backward extremities: %w", err)
	}
	from, err := pgx.CollectRows(rows, pgx.RowTo[id.Event])
	if err != nil {
		return nil, nil, fmt.Errorf("backward extremities: %w", err)
	}
	all, err := in.s.db.Servers(ctx, r.p.part, r.nid)
	if err != nil {
		return nil, nil, err
	}
	var servers []id.Server
	for _, server := range all {
		if !in.s.servers.IsLocal(server) && len(servers) < backfillServers {
			servers = append(servers, server)
		}
	}
	return from, servers, nil
}

// backfillFrom stores what one server has; it returns how many events found their place.
func (in *intake) backfillFrom(ctx context.Context, hole int64, from []id.Event, limit int) (int, error) {
	raw, err := in.s.fetchBackfill(ctx, in.home, in.origin, in.roomID, from, limit)
	if err != nil {
		return 0, err
	}
	pdus, err := in.s.parseAll(ctx, raw, in.rules, in.roomID)
	if err != nil {
		return 0, err
	}
	pdus = ordered(reachable(pdus, from, limit), func(p *event.PDU) []id.Event { return p.PrevEvents })
	states, err := in.prepareHistory(ctx, pdus)
	if err != nil {
		return 0, err
	}
	return in.storeHistory(ctx, hole, pdus, states)
}

// reachable leaves out events that are no ancestors of those that we lack, and the farthest if they are too many.
func reachable(pdus []*event.PDU, from []id.Event, limit int) []*event.PDU {
	byID := make(map[id.Event]*event.PDU, len(pdus))
	for _, p := range pdus {
		byID[p.ID] = p
	}
	seen := make(map[id.Event]bool, len(pdus))
	next := append([]id.Event(nil), from...)
	var out []*event.PDU
	for len(next) > 0 && len(out) < limit {
		at := next[0]
		next = next[1:]
		if p := byID[at]; p != nil && !seen[at] {
			seen[at] = true
			out = append(out, p)
			next = append(next, p.PrevEvents...)
		}
	}
	return out
}

// prepareHistory gets auth events, and the state before those events whose prev events do not come with them, as most of the servers
// asked tell it (opinions.go).
func (in *intake) prepareHistory(ctx context.Context, pdus []*event.PDU) (map[id.Event][]fetchedState, error) {
	chunk := make(map[id.Event]bool, len(pdus))
	for _, p := range pdus {
		chunk[p.ID] = true
	}
	states := make(map[id.Event][]fetchedState)
	for _, p := range pdus {
		g, err := in.look(ctx, p)
		if err != nil {
			return nil, err
		}
		if len(g.auth) > 0 {
			if err := in.fetchAuth(ctx, p, g.auth); err != nil {
				in.s.log.Debug("auth events of history", "event", p.ID, "err", err)
			}
		}
		for _, prev := range g.prev {
			if chunk[prev] || g.partial {
				continue
			}
			states[p.ID], err = in.told(ctx, p.ID, (*intake).stateBefore)
			if retry(err) || ctx.Err() != nil {
				return nil, err
			}
			if err != nil {
				in.s.log.Debug("state of history", "event", p.ID, "err", err)
			}
			break
		}
	}
	return states, nil
}

// storeHistory gives the events places in the hole, in one change.
func (in *intake) storeHistory(ctx context.Context, hole int64, pdus []*event.PDU, states map[id.Event][]fetchedState) (int, error) {
	var c *change
	accepted := 0
	err := in.s.buildChange(ctx, in.admitted, in.admitted, func(w *writer) (err error) {
		accepted, err = in.placeHistory(ctx, w, hole, pdus, states)
		if len(w.c.events) > 0 {
			c = w.c
		}
		return err
	})
	if err == nil && c != nil {
		err = c.wait(ctx)
	}
	return accepted, err
}

// placeHistory drafts history, and returns how many events of it are accepted. What cannot be judged is left out.
func (in *intake) placeHistory(ctx context.Context, w *writer, hole int64, pdus []*event.PDU, states map[id.Event][]fetchedState) (accepted int, err error) {
	if err := w.lookUp(ctx, pdus...); err != nil {
		return 0, err
	}
	holes := w.holesOf(pdus, hole)
	var placed []*newEvent
	for _, p := range pdus {
		e, err := w.receive(ctx, p, arrival{states: states[p.ID], history: true})
		var needs *largeFork
		if errors.As(err, &needs) || retry(err) {
			return 0, err
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if err != nil {
			in.s.log.Debug("event of history", "event", p.ID, "err", err)
			continue
		}
		if e == nil {
			continue
		}
		if e.hole = holes[p.ID]; e.flags != 0 {
			continue
		}
		if accepted++; e.withheld {
			continue
		}
		placed = append(placed, e)
		for _, by := range w.release(e) { // there is no better place for them
			by.history, by.hole = true, e.hole
			placed = append(placed, by)
		}
	}
	return accepted, w.fill(ctx, placed)
}

// holesOf finds out which holes events of the history belong into, each of which comes behind those that it names: that of
// what names them, the oldest if there are several, and the one that was asked for if there is none.
func (w *writer) holesOf(pdus []*event.PDU, asked int64) map[id.Event]int64 {
	holes := make(map[id.Event]int64, len(pdus))
	for _, p := range slices.Backward(pdus) {
		hole := w.awaits[p.ID].hole
		if by, ok := holes[p.ID]; ok && (hole == 0 || by < hole) {
			hole = by
		}
		if hole == 0 {
			hole = asked
		}
		holes[p.ID] = hole
		for _, prev := range p.PrevEvents {
			if by, ok := holes[prev]; !ok || hole < by {
				holes[prev] = hole
			}
		}
	}
	return holes
}

// errFull says that a hole has no place left.
var errFull = errors.New("more events before an event than there are places")

// fill gives events of the history, of which the oldest comes first, the places at the lower ends of their holes.
func (w *writer) fill(ctx context.Context, placed []*newEvent) error {
	if len(placed) == 0 {
		return nil
	}
	if err := w.r.waitCommitted(ctx); err != nil { // what has filled the holes so far
		return err
	}
	holes := make(map[int64]*roomdb.Hole, 1)
	for _, e := range slices.Backward(placed) {
		h := holes[e.hole]
		if h == nil {
			var err error
			if h, err = w.s.db.HoleAt(ctx, w.r.p.part, w.r.nid, e.hole); err != nil {
				return err
			}
			holes[e.hole] = h
		}
		if h.Low = h.Low.Before(); h.Low <= h.Floor {
			return fmt.Errorf("hole at %d: %w", e.hole, errFull)
		}
		e.ord, e.notifySeq = h.Low.LateOrd(), h.NotifySeq
		e.relate(gjson.ParseBytes(e.pdu.Content))
	}
	return nil
}
