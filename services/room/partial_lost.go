package room

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/roomdb"
)

// A room may be left before its members are known. The events of that stay keep states that lack members, and their rows
// in partial_event: what is built upon them must not be judged by these. Once the room is joined again, the state before
// that join stands for the state before each of them.

// endStay notes the join of a stay that ends, or is over, among its events.
func (w *writer) endStay() {
	if p := w.r.partial; p != nil {
		w.c.partial.unsure = append(w.c.partial.unsure, unsureEvent{n: p.joinNID, nid: p.joinNID})
	}
}

const sqlAbandoned = `
SELECT event_nid FROM partial_event WHERE part = $1 AND room_nid = $2 AND n <= $3 ORDER BY n`

// abandoned returns the events of earlier stays that were never judged by a whole state, as they are upon another one.
func (w *writer) abandoned(ctx context.Context, upTo, sid int64) ([]*roomdb.Event, error) {
	rows, err := w.s.shards.For(w.r.p.part).Query(ctx, sqlAbandoned, int32(w.r.p.part), w.r.nid, upTo)
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	nids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	var out []*roomdb.Event
	for chunk := range slices.Chunk(nids, redoChunk) {
		events, err := w.s.readEvents(ctx, w.r.p, chunk, false)
		if err != nil {
			return nil, err
		}
		for _, e := range events {
			out = append(out, upon(e, sid))
		}
	}
	return out, nil
}

// adopt gives the events of earlier stays the state before a join with all members.
func (w *writer) adopt(ctx context.Context, join *newEvent) error {
	if err := w.r.waitCommitted(ctx); err != nil {
		return err
	}
	lost, err := w.abandoned(ctx, join.nid, join.sid)
	if err != nil {
		return err
	}
	if p := w.r.partial; p != nil {
		old, err := w.s.event(ctx, w.r.p, p.joinNID)
		if err != nil {
			return err
		}
		lost = append(lost, upon(old, join.sid))
	}
	for _, e := range lost {
		w.c.partial.redone = append(w.c.partial.redone, *redoneOf(e))
	}
	return nil
}

// upon is a stored event upon another state. Nothing is before the create event.
func upon(e *roomdb.Event, sid int64) *roomdb.Event {
	out := e.Copy()
	if e.SID != 0 {
		out.SID = sid
	}
	return out
}

func redoneOf(e *roomdb.Event) *redoneEvent {
	return &redoneEvent{nid: e.NID, sid: e.SID, replaces: e.Replaces, flags: e.Flags, prev: e.Prev}
}
