package fedin

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"hanse/pkg/httpx"
	"hanse/pkg/roomdb"
)

// streamStep is how many elements of a long answer are read at a time.
const streamStep = 1000

// list streams a list of what add appends for numbers, in ascending order: in that they are read best.
func list(s *httpx.Stream, name string, nids []int64, add func(b []byte, nids []int64) ([]byte, error)) error {
	slices.Sort(nids)
	s.B = append(append(s.B, name...), '[')
	err := httpx.StreamList(s, false, slices.Chunk(nids, streamStep), add)
	s.B = append(s.B, ']')
	return err
}

// appendStored appends state events of a room, all of which must exist, with commas between them. They are copied as
// stored and not cached.
func (f *Fedin) appendStored(ctx context.Context, room roomdb.RoomKey, b []byte, nids []int64) ([]byte, error) {
	var redacted []int64
	start, n := len(b), 0
	add := func(json []byte) {
		if n++; len(b) > start {
			b = append(b, ',')
		}
		b = append(b, json...)
	}
	err := f.rooms.EachRaw(ctx, room, nids, func(r *roomdb.Raw) error {
		if r.RedactedBy != 0 {
			redacted = append(redacted, r.NID)
		} else {
			add(r.JSON)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	events, err := f.rooms.InOrder(ctx, room.Part, redacted)
	if err != nil {
		return nil, err
	}
	for _, e := range events {
		add(e.JSON)
	}
	if n < len(nids) {
		return nil, fmt.Errorf("%d of %d state events of room %d in partition %d: %w", len(nids)-n, len(nids), room.NID, room.Part, roomdb.ErrNotFound)
	}
	return b, nil
}

// writeEvents writes a member that is a list of events.
func writeEvents(b *bytes.Buffer, name string, events []*roomdb.Event) {
	b.WriteString(name)
	b.WriteByte('[')
	for i, e := range events {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(e.JSON)
	}
	b.WriteByte(']')
}
