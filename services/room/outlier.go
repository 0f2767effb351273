package room

import (
	"context"
	"fmt"
	"slices"

	"github.com/tidwall/gjson"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
)

// Bounds of what is stored without a place.
const (
	// One change stores at most outlierChunk outliers, of outlierBytes together, and a request queues at most outlierChunks
	// such changes at a time, so that others have their turn in between. A chunk fits into bulkRows.
	outlierChunk, outlierBytes, outlierChunks = 100, 512 << 10, 4
	// maxOutliers bounds the events that one answer of another server may cause to be stored: the state and auth chain of a
	// large room.
	maxOutliers = 1_000_000
	// maxChain bounds the auth chain of one event.
	maxChain = 50_000
)

// fetchAuth gets missing auth events: the whole auth chain, most of which is usually stored.
func (in *intake) fetchAuth(ctx context.Context, pdu *event.PDU, missing []id.Event) error {
	if err := in.fetch(); err != nil {
		return err
	}
	ctx, leave := in.s.withSlot(ctx)
	defer leave()
	raw, err := in.s.fetchAuth(ctx, in.home, in.origin, in.roomID, pdu.ID)
	if err == nil && len(raw) > maxChain {
		return fmt.Errorf("%s: an auth chain of %d events", in.origin, len(raw))
	}
	if err != nil {
		in.s.log.Debug("event_auth", "room", in.roomID, "server", in.origin, "err", err)
	} else {
		if err := in.storeRaw(ctx, raw); err != nil {
			return err
		}
		if missing, err = in.lacking(ctx, missing); err != nil {
			return err
		}
	}
	raw = nil
	for _, a := range missing[:min(len(missing), event.MaxAuthEvents)] {
		if in.foreign[a] != "" {
			continue
		}
		one, err := in.s.fetchEvent(ctx, in.home, in.origin, a)
		if err != nil {
			return fmt.Errorf("auth event %s: %w", a, err)
		}
		raw = append(raw, one...)
	}
	return in.storeRaw(ctx, raw)
}

// noteForeign notes which of some events are events of other rooms: who cites one is rejected (auth rule 2.5), but not
// unknown. What an event's id is the hash of cannot be claimed falsely; where ids are made up, the signature of the server
// that the id names proves it.
func (in *intake) noteForeign(ctx context.Context, raw rawPDUs) error {
	var pdus []*event.PDU
	for _, b := range raw {
		if room := gjson.GetBytes(b, "room_id").Str; room == "" || room == string(in.roomID) {
			continue
		}
		if pdu, err := event.Parse(b, in.rules); err == nil && pdu.RoomID != in.roomID {
			pdus = append(pdus, pdu)
		}
	}
	if in.rules.EventID == 1 {
		var err error
		if pdus, err = in.s.genuine(ctx, pdus); err != nil {
			return err
		}
	}
	for _, pdu := range pdus {
		if in.foreign == nil {
			in.foreign = make(map[id.Event]id.Room)
		}
		in.foreign[pdu.ID] = pdu.RoomID
	}
	return nil
}

// storeRaw stores those of the events that we lack, without a place. Only these are verified.
func (in *intake) storeRaw(ctx context.Context, raw rawPDUs) error {
	if err := in.noteForeign(ctx, raw); err != nil {
		return err
	}
	pdus := in.s.parse(raw, in.rules, in.roomID)
	ids := make([]id.Event, len(pdus))
	for i, p := range pdus {
		ids[i] = p.ID
	}
	lacking, err := in.lacking(ctx, ids)
	if err != nil {
		return err
	}
	isNew := make(map[id.Event]bool, len(lacking))
	for _, e := range lacking {
		isNew[e] = true
	}
	pdus = slices.DeleteFunc(pdus, func(p *event.PDU) bool { return !isNew[p.ID] })
	if pdus, err = in.s.genuine(ctx, pdus); err != nil {
		return err
	}
	_, err = in.storeOutliers(ctx, pdus)
	return err
}

// storeOutliers stores events without a place, each after those that it cites. Such an event is judged by its auth
// events only; those whose auth events we lack are left out, and returned. All others are written when it returns.
func (in *intake) storeOutliers(ctx context.Context, pdus []*event.PDU) (incomplete []*event.PDU, err error) {
	if len(pdus) > maxOutliers {
		return nil, fmt.Errorf("%s sent %d events", in.origin, len(pdus))
	}
	var queued []*change
	for left := byAuth(pdus); len(left) > 0; {
		n := chunkOf(left)
		c, without, err := in.storeChunk(ctx, left[:n])
		if err != nil {
			return nil, err
		}
		left, incomplete = left[n:], append(incomplete, without...)
		if c != nil {
			queued = append(queued, c)
		}
		if len(queued) >= outlierChunks {
			if err := queued[0].wait(ctx); err != nil {
				return nil, err
			}
			queued = queued[1:]
		}
	}
	for _, c := range queued {
		if err := c.wait(ctx); err != nil {
			return nil, err
		}
	}
	return incomplete, nil
}

// chunkOf is how many of the events one change may store.
func chunkOf(pdus []*event.PDU) int {
	n, size := 0, 0
	for n < len(pdus) && n < outlierChunk && (n == 0 || size+len(pdus[n].JSON) <= outlierBytes) {
		size += len(pdus[n].JSON)
		n++
	}
	return n
}

// storeChunk queues some outliers; nil if all are known.
func (in *intake) storeChunk(ctx context.Context, pdus []*event.PDU) (c *change, incomplete []*event.PDU, err error) {
	r, err := in.s.lockRoom(ctx, in.roomID)
	if err != nil {
		return nil, nil, err
	}
	defer r.unlock()
	w := in.s.newWriter(ctx, r)
	w.c.bulk, w.foreign = true, in.foreign
	if incomplete, err = w.outliers(ctx, pdus); err != nil || len(w.c.events) == 0 {
		return nil, incomplete, err
	}
	return w.c, incomplete, w.put()
}

// outliers drafts outliers, in an order in which none cites a later one. It returns those that cite what we lack.
func (w *writer) outliers(ctx context.Context, pdus []*event.PDU) (incomplete []*event.PDU, err error) {
	var names []id.Event
	for _, p := range pdus {
		names = append(append(names, p.ID), p.AuthEvents...)
	}
	found, err := w.stored(ctx, dedupe(names))
	if err != nil {
		return nil, err
	}
	for _, p := range pdus {
		if found[p.ID] != nil {
			continue
		}
		if err := w.unclaimed(ctx, p.ID); err != nil {
			w.s.log.Debug("outlier refused", "event", p.ID, "err", err)
			continue
		}
		e := &newEvent{pdu: p, nid: w.nid(), flags: flagOutlier}
		cited, foreign := make([]*roomdb.Event, 0, len(p.AuthEvents)), 0
		for _, a := range p.AuthEvents {
			if ev := found[a]; ev != nil {
				cited = append(cited, ev)
				e.auth = append(e.auth, ev.NID)
			} else if w.foreign[a] != "" {
				foreign++
			}
		}
		if len(cited)+foreign < len(p.AuthEvents) {
			w.s.log.Debug("outlier without its auth events", "event", p.ID)
			incomplete = append(incomplete, p)
			continue
		}
		create, err := w.createOf(ctx, found)
		if err != nil {
			return nil, err
		}
		refusal := w.citesForeign(p)
		if refusal == nil {
			refusal = w.s.checkCited(p, cited, create)
		}
		if refusal != nil {
			w.s.log.Debug("outlier refused", "event", p.ID, "err", refusal)
			e.flags |= flagRejected
		}
		w.s.remember(w.r, e)
		w.add(e)
		found[p.ID] = e.stored
	}
	return incomplete, nil
}

// createOf returns the create event for checks of events that do not cite it (version 12).
func (w *writer) createOf(ctx context.Context, found map[id.Event]*roomdb.Event) (*event.PDU, error) {
	if !w.r.rules.RoomIDIsCreateHash {
		return nil, nil
	}
	name := id.Event("$" + string(w.r.id[1:]))
	if ev := found[name]; ev != nil {
		return ev.PDU, nil
	}
	more, err := w.stored(ctx, []id.Event{name})
	if err != nil || more[name] == nil {
		return nil, err
	}
	found[name] = more[name]
	return more[name].PDU, nil
}

// byAuth orders events so that each comes after those of them that it cites; the create event comes first, as from
// version 12 on nobody cites it.
func byAuth(pdus []*event.PDU) []*event.PDU {
	first := make([]*event.PDU, 0, len(pdus))
	for _, p := range pdus {
		if p.Type == typeCreate {
			first = append(first, p)
		}
	}
	for _, p := range pdus {
		if p.Type != typeCreate {
			first = append(first, p)
		}
	}
	return ordered(first, func(p *event.PDU) []id.Event { return p.AuthEvents })
}

// ordered sorts events so that each comes after those of them that it names, and otherwise as they came. Events in a
// cycle, which only forged ones can be, come in some order.
func ordered(pdus []*event.PDU, names func(*event.PDU) []id.Event) []*event.PDU {
	return namedFirst(pdus, func(p *event.PDU) (id.Event, []id.Event) { return p.ID, names(p) })
}

// namedFirst is ordered for whatever stands for events: their ids, and those of the events that they name.
func namedFirst[E any](events []E, of func(E) (id.Event, []id.Event)) []E {
	byID := make(map[id.Event]E, len(events))
	for _, e := range events {
		eventID, _ := of(e)
		byID[eventID] = e
	}
	out := make([]E, 0, len(events))
	visited := make(map[id.Event]bool, len(events))
	type frame struct {
		event E
		names []id.Event
	}
	for _, e := range events {
		var stack []frame
		if eventID, names := of(e); !visited[eventID] {
			visited[eventID] = true
			stack = append(stack, frame{e, names})
		}
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			if len(top.names) == 0 {
				out = append(out, top.event)
				stack = stack[:len(stack)-1]
				continue
			}
			name := top.names[0]
			top.names = top.names[1:]
			if named, ok := byID[name]; ok && !visited[name] {
				visited[name] = true
				_, names := of(named)
				stack = append(stack, frame{named, names})
			}
		}
	}
	return out
}

func dedupe(ids []id.Event) []id.Event {
	seen := make(map[id.Event]bool, len(ids))
	out := ids[:0:0]
	for _, e := range ids {
		if !seen[e] {
			seen[e] = true
			out = append(out, e)
		}
	}
	return out
}
