package roomdb

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"hanse/pkg/roomdb/eventsql"
)

// Raw is a row of a state event, for answers with hundreds of thousands of them: nothing of it is parsed, copied or
// cached. Its bytes are valid until the call that got it returns.
type Raw struct {
	NID int64
	// ID is the event id, JSON the event as it came: who wants it as it is now looks at RedactedBy.
	ID, JSON []byte
	// Replaces and RedactedBy are as in Event.
	Replaces, RedactedBy int64
}

const (
	// rawStep is how many events EachRaw asks for at a time. The connection is busy with them while each is called.
	rawStep = 2000
	// rawSpare is how many rows are read for one that is wanted, at most: about as many cost what a look-up does.
	rawSpare = 4
)

// EachRaw calls each for those of a room's state events that exist, in the order of their numbers, in which nids must be.
// It holds a connection while it calls each.
//
// Most of the state events of a large room are in its state: they are read as they lie in the index of the room's state
// events (and mostly in the table, too), which costs a tenth of looking up each.
func (d *DB) EachRaw(ctx context.Context, room RoomKey, nids []int64, each func(*Raw) error) error {
	for step := range slices.Chunk(nids, rawStep) {
		rest := step
		if len(step) > fewMembers {
			var err error
			if rest, err = d.scanRaw(ctx, room, step, each); err != nil {
				return err
			}
		}
		if len(rest) == 0 {
			continue
		}
		rows, err := d.shards.For(room.Part).Query(ctx, eventsql.RawByNID, int32(room.Part), rest)
		if err != nil {
			return fmt.Errorf("read state events: %w", err)
		}
		if err := forEachRaw(rows, each); err != nil {
			return err
		}
	}
	return nil
}

// scanRaw reads the room's state events around those that are wanted. It gives up when there are too many others between
// them, and returns what is left to be looked up.
func (d *DB) scanRaw(ctx context.Context, room RoomKey, nids []int64, each func(*Raw) error) (rest []int64, err error) {
	limit := rawSpare * len(nids)
	rows, err := d.shards.For(room.Part).Query(ctx, eventsql.RawRange, int32(room.Part), room.NID, nids[0], nids[len(nids)-1], limit)
	if err != nil {
		return nil, fmt.Errorf("read state events: %w", err)
	}
	read := 0
	err = forEachRaw(rows, func(r *Raw) error {
		read++
		for len(nids) > 0 && nids[0] < r.NID {
			nids = nids[1:]
		}
		if len(nids) == 0 || nids[0] != r.NID {
			return nil
		}
		nids = nids[1:]
		return each(r)
	})
	if read < limit {
		nids = nil // there are no more
	}
	return nids, err
}

func forEachRaw(rows pgx.Rows, each func(*Raw) error) error {
	var r Raw
	var eventID, json pgtype.DriverBytes // not copied
	var redactedBy pgtype.Int8
	_, err := pgx.ForEachRow(rows, []any{&r.NID, &eventID, &r.Replaces, &redactedBy, &json}, func() error {
		r.ID, r.JSON, r.RedactedBy = eventID, json, redactedBy.Int64
		return each(&r)
	})
	if err != nil {
		return fmt.Errorf("read state events: %w", err)
	}
	return nil
}
