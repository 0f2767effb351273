package sync

import (
	"context"
	"net/http"

	"hanse/pkg/httpx"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	"hanse/pkg/view"
)

// A device that does not load members lazily is told the whole state of a room in one answer, be it the network's largest
// room, with hundreds of megabytes. Such a state is not part of the answer that is made: it is read and sent, some events at
// a time, when the answer is sent (httpx.Large). An error then breaks the connection off; the device asks again.

// largeState is from how many events on a state is large.
const largeState = 20_000

// isLarge says whether a state is large for the poll's device. Without members none is.
func (p *poll) isLarge(m state.Map) bool {
	return !p.filter.Room.State.LazyLoadMembers && m.Len() > largeState
}

// beginLarge waits for a slot, which the poll keeps until it is answered.
func (s *Service) beginLarge(ctx context.Context, p *poll) error {
	if p.endLarge != nil {
		return nil
	}
	var err error
	p.endLarge, err = s.large.Begin(ctx, string(p.who.User))
	return err
}

// rest is what is sent of a large state when the answer is sent.
type rest struct {
	room *roomView
	at   int  // its place in the room's JSON, or in the answer
	more bool // other events of the state stand before it
}

// send answers a poll.
func (s *Service) send(ctx context.Context, w http.ResponseWriter, p *poll, b *body) error {
	if b.first != nil {
		return s.sendFirst(ctx, w, p, b.first)
	}
	if len(b.rests) == 0 {
		return httpx.Raw(w, http.StatusOK, *b.json)
	}
	stream := httpx.NewStream(w)
	return stream.Send(func() error {
		json, from := *b.json, 0
		for _, r := range b.rests {
			stream.B = append(stream.B, json[from:r.at]...)
			from = r.at
			if err := s.sendRest(ctx, stream, p, r); err != nil {
				return err
			}
		}
		stream.B = append(stream.B, json[from:]...)
		return nil
	})
}

func (s *Service) sendRest(ctx context.Context, stream *httpx.Stream, p *poll, r rest) error {
	room := r.room.r
	f := p.filter
	list := &view.StateList{DB: s.rooms, Format: p.format(), Room: roomdb.RoomKey{Part: room.RoomPart, NID: room.RoomNID}}
	plain := f.EventFormat != formatFederation && len(f.EventFields) == 0 && f.Room.State.onlyTypes()
	return httpx.StreamList(stream, r.more, view.Steps(r.room.later), func(b []byte, nids []int64) ([]byte, error) {
		done, err := s.large.Step(ctx)
		if err != nil {
			return nil, err
		}
		defer done()
		if plain { // by type they were chosen already
			return list.Append(ctx, b, nids)
		}
		return s.appendFiltered(ctx, p, b, room.RoomPart, nids)
	})
}

// appendFiltered appends what the filter leaves of state events.
func (s *Service) appendFiltered(ctx context.Context, p *poll, b []byte, part uint32, nids []int64) ([]byte, error) {
	found, err := s.rooms.EventsOnce(ctx, part, nids)
	if err != nil {
		return nil, err
	}
	events := make([]*roomdb.Event, 0, len(nids))
	for _, nid := range nids {
		if e := found[nid]; e != nil {
			events = append(events, e)
		}
	}
	return s.appendTold(ctx, p, b, filterState(&p.filter.Room.State, events), nil)
}
