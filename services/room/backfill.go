package room

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
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
	from, servers, err := in.backwards(ctx)
	if err != nil {
		return nil, err
	}
	if len(from) == 0 {
		return &roomv1.BackfillResponse{Complete: true}, nil
	}
	limit := min(max(int(req.Limit), 1), backfillLimit)
	for ctx, server := range inTurn(ctx, servers) {
		in.origin = server
		stored, err := in.backfillFrom(ctx, from, limit)
		if retry(err) || ctx.Err() != nil {
			return nil, again(err)
		}
		if err != nil {
			s.log.Info("backfill", "room", in.roomID, "server", server, "err", err)
			continue
		}
		if stored > 0 {
			return &roomv1.BackfillResponse{Stored: int32(stored)}, nil
		}
	}
	return &roomv1.BackfillResponse{Complete: true}, nil
}

// backwards returns the newest events that we lack, and who may have them.
func (in *intake) backwards(ctx context.Context) ([]id.Event, []id.Server, error) {
	r, err := in.s.joinedRoom(ctx, in.roomID)
	if err != nil {
		return nil, nil, err
	}
	defer r.unlock()
	if err := r.settle(ctx); err != nil {
		return nil, nil, again(err)
	}
	rows, err := in.s.shards.For(r.p.part).Query(ctx, sqlBackwards, int32(r.p.part), r.nid, backfillFrom)
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
func (in *intake) backfillFrom(ctx context.Context, from []id.Event, limit int) (int, error) {
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
	return in.storeHistory(ctx, pdus, states)
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

// prepareHistory gets auth events, and the state before those events whose prev events do not come with them.
func (in *intake) prepareHistory(ctx context.Context, pdus []*event.PDU) (map[id.Event]fetchedState, error) {
	chunk := make(map[id.Event]bool, len(pdus))
	for _, p := range pdus {
		chunk[p.ID] = true
	}
	states := make(map[id.Event]fetchedState)
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
			st, err := in.stateBefore(ctx, p.ID)
			if err != nil {
				in.s.log.Debug("state of history", "event", p.ID, "err", err)
			} else {
				states[p.ID] = st
			}
			break
		}
	}
	return states, nil
}

// storeHistory gives the events places before all that we have, in one change.
func (in *intake) storeHistory(ctx context.Context, pdus []*event.PDU, states map[id.Event]fetchedState) (int, error) {
	var c *change
	accepted := 0
	err := in.s.draft(ctx, in.admitted, in.admitted, func(w *writer) (err error) {
		accepted, err = in.placeHistory(ctx, w, pdus, states)
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
func (in *intake) placeHistory(ctx context.Context, w *writer, pdus []*event.PDU, states map[id.Event]fetchedState) (accepted int, err error) {
	if err := w.lookUp(ctx, pdus...); err != nil {
		return 0, err
	}
	var placed []*newEvent
	for _, p := range pdus {
		var at []fetchedState
		if st, ok := states[p.ID]; ok {
			at = append(at, st)
		}
		e, err := w.receive(ctx, p, at, true, false)
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
		if e == nil || e.flags != 0 {
			continue
		}
		if accepted++; e.withheld {
			continue
		}
		placed = append(placed, e)
		for _, by := range w.release(e) { // there is no better place for them
			by.history = true
			placed = append(placed, by)
		}
	}
	for i, e := range placed { // the oldest comes first
		e.ord = w.h.firstOrd - int64(len(placed)-i)
	}
	w.h.firstOrd -= int64(len(placed))
	return accepted, nil
}
