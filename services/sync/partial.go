package sync

import (
	"context"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/userdb"
)

// A room that was joined over federation has no state of its members at first (server-server API, PUT /v2/send_join,
// "omit_members"). As other servers do, we show it at once to devices that load members lazily, and to others when it is
// whole; then every device is told the whole of the state once.

// fullPositions returns, in the order of the rooms, from which positions on their states are whole: from memory, or with
// one query for all that nobody has asked for yet.
func (s *Service) fullPositions(ctx context.Context, rooms []*userdb.Membership) ([]int64, error) {
	out := make([]int64, len(rooms))
	var unknown []roomdb.RoomKey
	for i, r := range rooms {
		pos, ok := s.tail.fullPos(r.RoomPart, r.RoomNID)
		if out[i] = pos; !ok {
			unknown = append(unknown, roomdb.RoomKey{Part: r.RoomPart, NID: r.RoomNID})
		}
	}
	if len(unknown) == 0 {
		return out, nil
	}
	rows, err := s.rooms.RoomsByNID(ctx, unknown)
	if err != nil {
		return nil, err
	}
	for i, r := range rooms {
		if row := rows[r.Room]; row != nil {
			out[i] = s.tail.setFullPos(r.RoomPart, r.RoomNID, row.FullPos)
		}
	}
	return out, nil
}

// fullPos returns from which position on a room's state is whole, if that is known.
func (t *tail) fullPos(part uint32, nid int64) (pos int64, known bool) {
	p := t.parts[part]
	p.mu.RLock()
	defer p.mu.RUnlock()
	if r := p.rooms[nid]; r != nil {
		return r.fullPos, r.fullKnown
	}
	return 0, false
}

// setFullPos notes what PostgreSQL says, unless the log has said it meanwhile.
func (t *tail) setFullPos(part uint32, nid, pos int64) int64 {
	p := t.parts[part]
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.rooms[nid]
	if r == nil {
		return pos
	}
	if !r.fullKnown {
		r.fullPos, r.fullKnown = pos, true
	}
	return r.fullPos
}

// tells says whether there is anything to tell of a room in full: the membership index may be ahead of a row that does not
// exist, and one that lacks members comes when they are known.
func (p *poll) tells(row *roomdb.Room, m *moment) bool {
	return row != nil && (p.filter.Room.State.LazyLoadMembers || roomdb.WholeAt(row.FullPos, m.at(row.Part)))
}

// byFullness sorts rooms of which there is news: those that are told as always, and those whose state has become whole
// since the token. Those that lack members are left out for devices that want them.
func (s *Service) byFullness(ctx context.Context, p *poll, m *moment, rooms []*userdb.Membership) (usual, filled []*userdb.Membership, err error) {
	full, err := s.fullPositions(ctx, rooms)
	if err != nil {
		return nil, nil, err
	}
	for i, r := range rooms {
		after, ok := p.since.At(r.RoomPart)
		switch upTo := m.at(r.RoomPart); {
		case !roomdb.WholeAt(full[i], upTo):
			if p.filter.Room.State.LazyLoadMembers {
				usual = append(usual, r)
			}
		case ok && full[i] > after:
			if p.filled == nil {
				p.filled = make(map[id.Room]bool, 1)
			}
			p.filled[r.Room] = true
			filled = append(filled, r)
		default:
			usual = append(usual, r)
		}
	}
	return usual, filled, nil
}
