package room

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
)

// gaps is what we lack to judge an event.
type gaps struct {
	known bool // the event is here, in its place
	auth  []id.Event
	prev  []id.Event
	have  []id.Event // prev events that we have, and forward extremities of the room: what is before them is not asked for
	// partial says that members are missing from the room's state: the state before an event is not asked for then.
	partial bool
	// since is the depth at which we have come into the room: what is less deep is history, and no news.
	since int64
}

// look finds out what is missing. No network is asked while the room is locked.
func (in *intake) look(ctx context.Context, pdu *event.PDU) (gaps, error) {
	r, err := in.s.joinedRoom(ctx, in.roomID)
	if err != nil {
		return gaps{}, err
	}
	defer r.unlock()
	names := append(append([]id.Event{pdu.ID}, pdu.AuthEvents...), pdu.PrevEvents...)
	found, _, err := r.usable(ctx, names)
	if err != nil {
		return gaps{}, err
	}
	g := gaps{partial: r.head.partial()}
	if e := found[pdu.ID]; e != nil && e.Flags&flagOutlier == 0 {
		g.known = true
		return g, nil
	}
	for _, a := range pdu.AuthEvents {
		if found[a] == nil {
			g.auth = append(g.auth, a)
		}
	}
	for _, p := range pdu.PrevEvents {
		if e := found[p]; e == nil || e.Flags&flagOutlier != 0 {
			g.prev = append(g.prev, p)
		} else {
			g.have = append(g.have, p)
		}
	}
	if len(g.prev) > 0 {
		for _, t := range r.head.extremities[:min(len(r.head.extremities), maxPrev)] {
			g.have = append(g.have, t.pdu.ID)
		}
		if g.since, err = r.since(ctx); err != nil {
			return gaps{}, err
		}
	}
	return g, nil
}

// since returns the depth of the event with which the room begins for us, fetched history apart: the local join that began
// this stay, or its creation; of a room whose members are being fetched the join that they were omitted from.
func (r *room) since(ctx context.Context) (depth int64, err error) {
	if r.partial != nil {
		join, err := r.s.event(ctx, r.p, r.partial.joinNID)
		if err != nil {
			return 0, err
		}
		return join.Depth, nil
	}
	rows, err := r.s.shards.For(r.p.part).Query(ctx, sqlSince, int32(r.p.part), r.nid)
	if err != nil {
		return 0, fmt.Errorf("read room %s: %w", r.id, err)
	}
	var at int64
	var member *string
	_, err = pgx.ForEachRow(rows, []any{&at, &member}, func() error {
		if member == nil || r.s.localUser(id.User(*member)) { // of ours only a join that began a stay follows what is missing
			depth = max(depth, at)
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("read room %s: %w", r.id, err)
	}
	return depth, nil
}

// fillGap asks the origin for the events before this one, and takes them in, oldest first. What is less deep than the event
// with which the room begins for us is left for history, as Synapse does: it would look new in a timeline.
func (in *intake) fillGap(ctx context.Context, pdu *event.PDU, g gaps) error {
	pdus, err := in.missing(ctx, pdu, g)
	if err != nil {
		return err
	}
	before := *in
	before.shallow = true
	return before.takeAll(ctx, pdus, func(i int, _ verdict, err error) {
		if err != nil {
			in.s.log.Debug("missing event", "event", pdus[i].ID, "err", err)
		}
	})
}

// missing gets the events before one, the newest if they are too many, in their order. A server tells so many at once: it is
// asked again for what is before these.
func (in *intake) missing(ctx context.Context, pdu *event.PDU, g gaps) ([]*event.PDU, error) {
	got := make(map[id.Event]*event.PDU)
	heard, names := []id.Event{pdu.ID}, pdu.PrevEvents
	for range missingAsks {
		raw, err := in.s.fetchMissing(ctx, in.home, in.origin, in.roomID, g.have, heard, g.since)
		if err != nil {
			in.s.log.Debug("get_missing_events", "room", in.roomID, "server", in.origin, "err", err)
			break // the state at the gap may still be had
		}
		if len(raw) > missingLimit {
			raw = raw[:missingLimit]
		}
		pdus, err := in.s.parseAll(ctx, raw, in.rules, in.roomID)
		if err != nil {
			return nil, err
		}
		more := reachable(pdus, names, missingLimit)
		more = slices.DeleteFunc(more, func(p *event.PDU) bool { return p.ID == pdu.ID || got[p.ID] != nil || p.Depth < g.since })
		for _, p := range more {
			got[p.ID] = p
		}
		if heard, names, err = in.unanswered(ctx, more, got); err != nil {
			return nil, err
		}
		if len(heard) == 0 {
			break
		}
	}
	// What their depths say is the business of who made them up.
	return ordered(slices.Collect(maps.Values(got)), func(p *event.PDU) []id.Event { return p.PrevEvents }), nil
}

// unanswered returns which of some missing events follow others that are missing still, and those.
func (in *intake) unanswered(ctx context.Context, pdus []*event.PDU, got map[id.Event]*event.PDU) (heard, names []id.Event, err error) {
	for _, p := range pdus {
		names = append(names, p.PrevEvents...)
	}
	names = slices.DeleteFunc(dedupe(names), func(name id.Event) bool { return got[name] != nil })
	if len(names) == 0 {
		return nil, nil, nil
	}
	r, err := in.s.joinedRoom(ctx, in.roomID)
	if err != nil {
		return nil, nil, err
	}
	found, _, err := r.usable(ctx, names)
	r.unlock()
	if err != nil {
		return nil, nil, err
	}
	names = slices.DeleteFunc(names, func(name id.Event) bool { return found[name] != nil && found[name].Flags&flagOutlier == 0 })
	for _, p := range pdus {
		if slices.ContainsFunc(p.PrevEvents, func(name id.Event) bool { return slices.Contains(names, name) }) && len(heard) < maxPrev {
			heard = append(heard, p.ID)
		}
	}
	return heard, names, nil
}
