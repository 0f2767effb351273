package room

import (
	"context"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
)

// What one server says of a room may be wrong, by a fault of its or with intent. Where we have nothing but such words,
// other servers in the room are asked as well: for the events that are missing, so that the state is worked out from
// them, and for the state where the events cannot be had. States that differ are resolved, so that what one of them
// leaves out is not lost.

// otherOpinions is how many servers are asked beside the one that sent the event.
const otherOpinions = 2

// others are servers in the room that may know better than the origin.
func (in *intake) others(ctx context.Context) ([]id.Server, error) {
	r, err := in.s.joinedRoom(ctx, in.roomID)
	if err != nil {
		return nil, err
	}
	part, room := r.p.part, r.nid
	r.unlock()
	all, err := in.s.db.Servers(ctx, part, room)
	if err != nil {
		return nil, err
	}
	var others []id.Server
	for _, server := range all {
		if server != in.origin && !in.s.servers.IsLocal(server) && len(others) < otherOpinions {
			others = append(others, server)
		}
	}
	return others, nil
}

// from is the intake with another server in the place of the origin, and a budget of its own.
func (in *intake) from(server id.Server) *intake {
	other := *in
	other.origin, other.fetched = server, new(int)
	return &other
}

// fillFromAny asks the origin for the events before one, and then others as long as its prev events are missing. It
// returns what is still missing.
func (in *intake) fillFromAny(ctx context.Context, pdu *event.PDU, g gaps) (gaps, error) {
	if err := in.fillGap(ctx, pdu, g); err != nil {
		return g, err
	}
	g, err := in.look(ctx, pdu)
	if err != nil || g.known || g.partial || len(g.prev) == 0 {
		return g, err
	}
	others, err := in.others(ctx)
	if err != nil {
		return g, err
	}
	for _, server := range others {
		if err := in.from(server).fillGap(ctx, pdu, g); err != nil {
			return g, err
		}
		if g, err = in.look(ctx, pdu); err != nil || g.known || len(g.prev) == 0 {
			return g, err
		}
	}
	return g, nil
}

// opinions are the states after an event that other servers tell, if they differ from the one that the origin told.
func (in *intake) opinions(ctx context.Context, at id.Event, told fetchedState) ([]fetchedState, error) {
	others, err := in.others(ctx)
	if err != nil {
		return nil, err
	}
	var differ []fetchedState
	for _, server := range others {
		st, err := in.from(server).stateAfter(ctx, at)
		if retry(err) || ctx.Err() != nil {
			return nil, err
		}
		if err != nil {
			in.s.log.Debug("another server's state", "room", in.roomID, "server", server, "event", at, "err", err)
			continue
		}
		if !st.Equal(told.Map) {
			in.s.log.Info("servers disagree about the state after an event", "room", in.roomID, "event", at, "server", in.origin, "other", server)
			differ = append(differ, st)
		}
	}
	return differ, nil
}
