package room

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/resolve"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

// Events of other servers come by the fifty. Those of which nothing is missing are taken as a batch: looked up at once, drafted
// one upon the other, and written as one change. The largest cost in a room with forks, resolving its current state, then occurs
// once for all of them: an event may wait for that ("held") until another event needs the outcome.
//
// The current state decides whether an event is soft-failed (server-server API, "Soft failure"). For that it is resolved
// where the outcome matters: before an event is judged whose auth event a held one could be, and after each power event,
// because power events decide about others' events. A held event may change more of the state than its own key, by old power
// events that its branch cites. That shows only after the resolution: other events of the transaction are judged as if they had
// come before.

// batchTime bounds the time for drafting a batch. The room's own users wait meanwhile.
const batchTime = 20 * time.Millisecond

// takeAll takes events in, in their order. Each is told what became of it; an error means that all must come again.
func (in *intake) takeAll(ctx context.Context, pdus []*event.PDU, tell func(i int, v verdict, err error)) error {
	for i := 0; i < len(pdus); {
		verdicts, alone, err := in.takeBatch(ctx, pdus[i:])
		if err != nil {
			return err
		}
		for _, v := range verdicts {
			tell(i, v, nil)
			i++
		}
		for ; alone > 0; alone-- {
			v, err := in.take(ctx, pdus[i])
			if retry(err) || ctx.Err() != nil {
				return err
			}
			tell(i, v, err)
			i++
		}
	}
	return nil
}

// takeBatch takes in the first of the events in one draft: up to one that lacks something, or for as long as a draft may
// take. alone is how many events behind these are to be taken alone: the one that ended the run or, if one cannot be
// judged, it and all before it.
func (in *intake) takeBatch(ctx context.Context, pdus []*event.PDU) (verdicts []verdict, alone int, err error) {
	if len(pdus) == 1 {
		return nil, 1, nil
	}
	var taken int
	err = in.buildChange(ctx, func(w *writer) (err error) {
		w.patient = true
		verdicts, taken, err = in.draftBatch(ctx, w, pdus)
		return err
	})
	switch {
	case err == nil:
		return verdicts, min(1, len(pdus)-len(verdicts)), nil
	case retry(err) || ctx.Err() != nil:
		return nil, 0, err
	}
	in.s.log.Debug("events cannot be taken in together", "room", in.roomID, "err", err)
	return nil, taken + 1, nil
}

// draftBatch drafts events. If there is an error it is that of the event behind those that were taken, or of all.
func (in *intake) draftBatch(ctx context.Context, w *writer, pdus []*event.PDU) (verdicts []verdict, taken int, err error) {
	if err := w.lookUp(ctx, pdus...); err != nil {
		return nil, 0, err
	}
	for began := time.Now(); taken < len(pdus); taken++ {
		pdu := pdus[taken]
		complete, err := w.complete(ctx, pdu)
		if err != nil {
			return nil, taken, err
		}
		if !complete {
			break
		}
		e, err := w.receive(ctx, pdu, arrival{relay: in.relay})
		if err != nil {
			w.unlocked.reaches(taken+1, err)
			return nil, taken, err
		}
		if e == nil {
			verdicts = append(verdicts, verdict{known: true})
		} else {
			verdicts = append(verdicts, w.verdict(e))
		}
		if w.enough(taken+1, began) {
			break
		}
	}
	err = w.deliverHeld(ctx, in.relay)
	w.unlocked.reaches(len(verdicts), err)
	return verdicts, len(verdicts) - 1, err
}

// enough says whether a draft of n events is to be written before more are drafted.
func (w *writer) enough(n int, began time.Time) bool {
	if a := w.unlocked; a != nil && a.reach > 0 { // what is resolved for these many would be of no use for others
		return n >= a.reach
	}
	return time.Since(began) > batchTime || len(w.h.extremities) > crowdedExtremities || w.r.allowance.owed(time.Now()) > 0
}

// awaits is what waits for an event.
type awaits struct {
	lacked     bool  // an event that we have names it
	named      bool  // one that was not refused does
	hole       int64 // the position of the oldest hole that it belongs into; 0 if none is known
	redactions []int64
}

// lookUp reads what events name, and what waits for them, once for all of them.
func (w *writer) lookUp(ctx context.Context, pdus ...*event.PDU) error {
	if c := w.r.awaiting; c != nil {
		select {
		case <-c.settled:
		default: // what its events await is not in PostgreSQL yet
			if err := w.r.waitCommitted(ctx); err != nil {
				return err
			}
		}
		w.r.awaiting = nil
	}
	ids := make([]id.Event, len(pdus))
	names := make([]id.Event, 0, 4*len(pdus))
	for i, p := range pdus {
		ids[i] = p.ID
		names = append(append(append(names, p.ID), p.AuthEvents...), p.PrevEvents...)
	}
	names = dedupe(names)
	found, authMissing, err := w.r.usable(ctx, names)
	if err != nil {
		return err
	}
	if w.looked == nil {
		w.looked, w.awaits = make(map[id.Event]*roomdb.Event, len(names)), make(map[id.Event]awaits, len(pdus))
	}
	for _, name := range names {
		w.looked[name] = found[name]
	}
	for eventID, nid := range authMissing {
		w.authMissing[eventID] = nid
	}
	rows, err := w.s.shards.For(w.r.p.part).Query(ctx, sqlAwaited, int32(w.r.p.part), w.r.nid, ids)
	if err != nil {
		return fmt.Errorf("look for events: %w", err)
	}
	var eventID id.Event
	var a awaits
	_, err = pgx.ForEachRow(rows, []any{&eventID, &a.lacked, &a.named, &a.hole, &a.redactions}, func() error {
		w.awaits[eventID], a = a, awaits{}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look for events: %w", err)
	}
	return nil
}

// complete says whether all that an event names is at hand; also if the event itself is.
func (w *writer) complete(ctx context.Context, pdu *event.PDU) (bool, error) {
	found, err := w.stored(ctx, append(append([]id.Event{pdu.ID}, pdu.AuthEvents...), pdu.PrevEvents...))
	if err != nil {
		return false, err
	}
	if e := found[pdu.ID]; e != nil && e.Flags&flagOutlier == 0 {
		return true, nil
	}
	for _, a := range pdu.AuthEvents {
		if found[a] == nil {
			return false, nil
		}
	}
	for _, p := range pdu.PrevEvents {
		if e := found[p]; e == nil || e.Flags&flagOutlier != 0 {
			return false, nil
		}
	}
	return true, nil
}

// hold makes an event part of the draft that is to be delivered when the current state is known.
func (w *writer) hold(e *newEvent) {
	w.add(e)
	w.held = append(w.held, e)
}

// deliverHeld resolves the current state, and delivers the events that waited for it.
func (w *writer) deliverHeld(ctx context.Context, local bool) error {
	held := w.held
	if len(held) == 0 {
		return nil
	}
	next, err := w.resolveSnaps(ctx, w.ready)
	if err != nil {
		var needs *largeFork
		if errors.As(err, &needs) {
			needs.current = true
		}
		return err
	}
	w.held = nil
	return w.deliver(ctx, held, next, local)
}

// touched says whether a held event changes what this one is judged by.
func (w *writer) touched(pdu *event.PDU) bool {
	for _, t := range auth.NeededBy(pdu) {
		for _, e := range w.held {
			if e.pdu.IsState() && e.pdu.Tuple() == t {
				return true
			}
		}
	}
	return false
}

// decides says whether other events of the current state stand or fall with this one.
func decides(pdu *event.PDU) bool { return pdu.IsState() && resolve.IsPower(pdu) }

// isOurMember says whether an event is about the membership of a local user, who is to see it in its place.
func (w *writer) isOurMember(pdu *event.PDU) bool {
	return pdu.Type == typeMember && pdu.StateKey != nil && w.s.localUser(id.User(*pdu.StateKey))
}

// unresolved says whether the resolution of states is not known yet.
func (w *writer) unresolved(snaps []*state.Snapshot) bool {
	maps := distinct(mapsOf(snaps))
	if len(maps) < 2 {
		return false
	}
	_, known := w.r.resolved.get(resolveKey(maps))
	return !known
}

func mapsOf(snaps []*state.Snapshot) []state.Map {
	maps := make([]state.Map, len(snaps))
	for i, snap := range snaps {
		maps[i] = snap.Map()
	}
	return maps
}
