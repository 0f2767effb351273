package roomdb

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrPartialState says that members are missing from the state of a room, and did not come soon enough.
var ErrPartialState = errors.New("members of the room are not known yet")

const (
	// wholeWait is how long AwaitWhole waits: most rooms are whole in seconds, and clients and proxies give up on what
	// takes much longer.
	wholeWait = 25 * time.Second
	// wholeFirst and wholeStep are how often it looks, at first and later.
	wholeFirst, wholeStep = 50 * time.Millisecond, time.Second
)

// WholeAt says whether a room's state was whole at a log position, by its FullPos.
func WholeAt(fullPos, pos int64) bool { return fullPos != PartialState && fullPos <= pos }

// AwaitWhole returns a room once its members are known, for what cannot be said without them. It waits for a while, and
// then returns ErrPartialState. A room that we are not in any more is returned as it is: nobody fetches its members.
func (d *DB) AwaitWhole(ctx context.Context, room *Room) (*Room, error) {
	ctx, cancel := context.WithTimeout(ctx, wholeWait)
	defer cancel()
	for wait := wholeFirst; room.Partial() && room.JoinedLocal > 0; wait = min(2*wait, wholeStep) {
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, fmt.Errorf("room %s: %w", room.ID, ErrPartialState)
		}
		now, err := d.Room(ctx, room.ID)
		if err != nil {
			if ctx.Err() != nil {
				err = ErrPartialState
			}
			return nil, fmt.Errorf("room %s: %w", room.ID, err)
		}
		room = now
	}
	return room, nil
}
