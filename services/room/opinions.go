package room

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
)

// What one server says of a room may be wrong, by a fault or by intent. Where an event follows events that we lack, other
// servers in the room are asked as well: for the missing events, so that the state is worked out from them, and for the state
// where the events cannot be had. What most of them say counts. If no state has a majority, all of them are resolved: so what
// one server leaves out is not lost. Whatever was believed is judged again once the missing events are here (told.go). The state
// that came with a join is compared with what others tell (told_join.go).

const (
	// otherOpinions is how many servers are asked beside the one that sent the event.
	otherOpinions = 2
	// opinionTime bounds how long the sender waits for another server's opinion.
	opinionTime = 20 * time.Second
)

// others returns servers in the room that may know better than the origin.
func (in *intake) others(ctx context.Context) ([]id.Server, error) {
	r, err := in.s.joinedRoom(ctx, in.roomID)
	if err != nil {
		return nil, err
	}
	part, room := r.p.part, r.nid
	r.unlock()
	others, err := in.s.db.Servers(ctx, part, room)
	if err != nil {
		return nil, err
	}
	others = slices.DeleteFunc(others, func(server id.Server) bool { return server == in.origin || in.s.servers.IsLocal(server) })
	rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	return others[:min(len(others), otherOpinions)], nil
}

// from returns the intake with another server in the place of the origin, and a budget of its own.
func (in *intake) from(server id.Server) *intake {
	other := *in
	other.origin, other.fetched = server, new(int)
	return &other
}

// fillFromAny asks the origin for the events before one event, and then others as long as prev events are missing. It returns
// what is still missing.
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
		if err := in.opinion(ctx, server, func(ctx context.Context, other *intake) error { return other.fillGap(ctx, pdu, g) }); err != nil {
			return g, err
		}
		if g, err = in.look(ctx, pdu); err != nil || g.known || len(g.prev) == 0 {
			return g, err
		}
	}
	return g, nil
}

// opinion asks another server. What that server does wrong is no error.
func (in *intake) opinion(ctx context.Context, server id.Server, ask func(ctx context.Context, other *intake) error) error {
	asking, cancel := context.WithTimeout(unlessAway(ctx), opinionTime)
	defer cancel()
	err := ask(asking, in.from(server))
	if err == nil || asking.Err() != nil && ctx.Err() == nil {
		return nil
	}
	if retry(err) || ctx.Err() != nil {
		return err
	}
	in.s.log.Debug("another server's opinion", "room", in.roomID, "server", server, "err", err)
	return nil
}

// asks is a question about the state at an event: intake.stateBefore or intake.stateAfter.
type asks func(in *intake, ctx context.Context, at id.Event) (fetchedState, error)

// told returns the state at an event that most of the servers asked tell, or all that they tell.
func (in *intake) told(ctx context.Context, at id.Event, ask asks) ([]fetchedState, error) {
	var told []fetchedState
	st, failed := ask(in, ctx, at)
	switch {
	case failed == nil:
		told = append(told, st)
	case retry(failed) || ctx.Err() != nil:
		return nil, failed
	}
	more, err := in.opinions(ctx, at, ask)
	if err != nil {
		return nil, err
	}
	if told = append(told, more...); len(told) == 0 {
		return nil, fmt.Errorf("state at %s: %w", at, failed)
	}
	states := prevailing(told)
	if len(states) > 1 {
		in.s.log.Info("servers disagree about the state at an event", "room", in.roomID, "event", at, "server", in.origin, "states", len(states))
	}
	return states, nil
}

// opinions returns what servers other than the origin tell of the state at an event.
func (in *intake) opinions(ctx context.Context, at id.Event, ask asks) (told []fetchedState, err error) {
	others, err := in.others(ctx)
	if err != nil {
		return nil, err
	}
	for _, server := range others {
		err := in.opinion(ctx, server, func(ctx context.Context, other *intake) error {
			st, err := ask(other, ctx, at)
			if err == nil {
				told = append(told, st)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return told, nil
}

// prevailing returns the state that more than half of some states are, or each state once.
func prevailing(told []fetchedState) []fetchedState {
	var states []fetchedState
	for _, st := range told {
		same := func(other fetchedState) bool { return other.Equal(st.Map) }
		if !slices.ContainsFunc(states, same) {
			states = append(states, st)
		}
		votes := 0
		for _, other := range told {
			if same(other) {
				votes++
			}
		}
		if 2*votes > len(told) {
			return []fetchedState{st}
		}
	}
	return states
}
