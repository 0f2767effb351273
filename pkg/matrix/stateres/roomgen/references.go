package roomgen

import (
	"fmt"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
)

// references completes what a draft says of the events before it, for the room
// versions whose events carry their hashes.
func (r *Room) references(d *event.Draft) error {
	if r.Rules.EventFormat != 1 {
		return nil
	}
	var err error
	if d.PrevHashes, err = r.hashes(d.PrevEvents); err != nil {
		return err
	}
	d.AuthHashes, err = r.hashes(d.AuthEvents)
	return err
}

func (r *Room) hashes(events []id.Event) ([][32]byte, error) {
	hashes := make([][32]byte, len(events))
	for i, e := range events {
		ev := r.byID[e]
		if ev == nil {
			continue // an event that nobody has
		}
		var err error
		if hashes[i], err = event.ReferenceHash(ev.JSON, r.Rules); err != nil {
			return nil, fmt.Errorf("reference hash of %s: %w", e, err)
		}
	}
	return hashes, nil
}
