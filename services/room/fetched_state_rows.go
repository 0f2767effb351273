package room

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb/eventsql"
)

const (
	// lookupChunk is how many events are looked up at a time: what a peer claims may be long.
	lookupChunk = 2000
	// scanFrom is from how many events on they are looked for among the state events of the room, in the order in which those
	// lie in the table: one by one, in the order of their hashes, they cost ten times as much.
	scanFrom = lookupChunk
	// scanFactor is how many state events are read for each that is looked for, at most.
	scanFactor = 4
	// scanChunk is how many are read at a time.
	scanChunk = 10_000
)

// claimed finds those of the events that are stored. The room is not locked meanwhile: what is stored stays.
func (in *intake) claimed(ctx context.Context, ids []id.Event) ([]claimed, error) {
	r, err := in.s.lockRoom(ctx, in.roomID)
	if err != nil {
		return nil, err
	}
	part, room := r.p.part, r.nid
	err = r.waitCommitted(ctx)
	r.unlock()
	if err != nil {
		return nil, err
	}
	var out []claimed
	if len(ids) >= scanFrom {
		if out, err = in.s.scanClaimed(ctx, part, room, ids); err != nil {
			return nil, err
		}
		ids = without(ids, out)
	}
	for len(ids) > 0 {
		n := min(len(ids), lookupChunk)
		found, err := in.s.queryClaimed(ctx, part, eventsql.Entries, int32(part), room, ids[:n])
		if err != nil {
			return nil, err
		}
		out, ids = append(out, found...), ids[n:]
	}
	return out, nil
}

// scanClaimed reads state events of a room from the oldest on, and returns those that are asked for. It ends when it has
// them all, or has read too many others.
func (s *Service) scanClaimed(ctx context.Context, part uint32, room int64, ids []id.Event) ([]claimed, error) {
	wanted := make(map[id.Event]bool, len(ids))
	for _, eventID := range ids {
		wanted[eventID] = true
	}
	out := make([]claimed, 0, len(wanted))
	behind := int64(0)
	for read := 0; read < scanFactor*len(ids) && len(out) < len(wanted); read += scanChunk {
		rows, err := s.queryClaimed(ctx, part, eventsql.EntriesAfter, int32(part), room, behind, scanChunk)
		if err != nil {
			return nil, err
		}
		for _, e := range rows {
			behind = e.nid
			if wanted[e.id] {
				out = append(out, e)
			}
		}
		if len(rows) < scanChunk {
			break
		}
	}
	return out, nil
}

func (s *Service) queryClaimed(ctx context.Context, part uint32, sql string, args ...any) ([]claimed, error) {
	rows, err := s.shards.For(part).Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("look up events: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c claimed, err error) {
		var stateKey *string
		err = row.Scan(&c.id, &c.nid, &c.key.Type, &stateKey, &c.flags)
		if c.state = stateKey != nil; c.state {
			c.key.StateKey = *stateKey
		}
		return c, err
	})
	if err != nil {
		return nil, fmt.Errorf("look up events: %w", err)
	}
	return found, nil
}
