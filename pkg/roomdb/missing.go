package roomdb

import (
	"context"
	"fmt"
)

// GapBefore says whether an event names others that we lack: something may lie between it and the one before it.
func (d *DB) GapBefore(ctx context.Context, e *Event) (bool, error) {
	var gap bool
	err := d.shards.For(e.Part).QueryRow(ctx, `SELECT EXISTS (SELECT FROM missing_prev WHERE part = $1 AND room_nid = $2 AND child = $3)`,
		int32(e.Part), e.RoomNID, e.NID).Scan(&gap)
	if err != nil {
		return false, fmt.Errorf("read missing history: %w", err)
	}
	return gap, nil
}

// HistoryMissing says whether events of the room name others that we lack, so that other servers may have more of its
// history.
func (d *DB) HistoryMissing(ctx context.Context, room *Room) (bool, error) {
	var missing bool
	err := d.shards.For(room.Part).QueryRow(ctx, `SELECT EXISTS (SELECT FROM missing_prev WHERE part = $1 AND room_nid = $2)`,
		int32(room.Part), room.NID).Scan(&missing)
	if err != nil {
		return false, fmt.Errorf("read missing history: %w", err)
	}
	return missing, nil
}
