package fedout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"hanse/pkg/destination"
	"hanse/pkg/matrix/id"
)

// databasePause is how long a destination waits when our own database does not answer.
const databasePause = time.Second

// errStopped ends a destination's goroutine: the worker ends, or has lost the partition.
var errStopped = errors.New("stopped")

// run sends until nothing is left, the destination fails, or the partition is lost.
func (d *dest) run() {
	for {
		if _, ok := d.next(); !ok {
			return
		}
		began := time.Now()
		err := d.enterSlot() // first: what waits for a slot is not in memory twice
		if err == nil {
			work, ok := d.next()
			if !ok {
				return
			}
			began = time.Now()
			err = work(d.p.Context())
		}
		if err != nil {
			d.end(err, began)
			return
		}
		d.giveSlot()
	}
}

// next decides what comes next, or ends the run.
func (d *dest) next() (work func(context.Context) error, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gone || !d.hasWork() || time.Now().Before(d.retryAt) || d.p.Context().Err() != nil {
		d.giveSlot()
		d.running, d.used = false, time.Now()
		return nil, false
	}
	if d.isBehind() {
		d.patient = true
		return d.catchUpOnce, true
	}
	d.patient = !d.hasEDUs && !slices.ContainsFunc(d.queue, func(it *item) bool { return !it.many })
	return d.sendQueued, true
}

// enterSlot waits for a slot, if the goroutine has none.
func (d *dest) enterSlot() error {
	if d.leaveSlot != nil {
		return nil
	}
	lane := &d.f.slots.others
	if _, ok := d.f.swift.Peek(d.server); ok {
		lane = &d.f.slots.swift
	}
	leave, err := lane.enter(d.p.Context(), d.patient)
	if err != nil {
		return err
	}
	d.leaveSlot = leave
	return nil
}

// giveSlot gives back the slot that the goroutine has.
func (d *dest) giveSlot() {
	if d.leaveSlot != nil {
		d.leaveSlot()
		d.leaveSlot = nil
	}
}

// end stops after an error of what was begun: that of the destination makes it back off, our own makes it wait a little.
func (d *dest) end(err error, began time.Time) {
	var own *ownError
	switch {
	case errors.Is(err, errStopped) || d.p.Context().Err() != nil:
		d.mu.Lock()
		d.fallBehind(d.inflight) // stays in front of the cursor
		d.inflight = nil
		d.mu.Unlock()
	case errors.As(err, &own):
		d.f.s.log.Warn("sending stopped", "destination", d.server, "err", err)
		d.failed(time.Now().Add(databasePause))
	default:
		d.f.s.metrics.transactions.WithLabelValues("failed").Inc()
		revived := d.revivals()
		st := d.f.s.noteFailure(d.f.ctx, d.server, began)
		if soon := time.Now().Add(destination.First); st.RetryAfter.Before(soon) || d.revivals() != revived {
			st.RetryAfter = soon // it may have been heard of after it failed, by somebody who could not know of this pause
		}
		d.f.s.log.Info("destination failed", "destination", d.server, "failures", st.Failures, "retry", st.RetryAfter, "err", err)
		d.failed(st.RetryAfter)
	}
	d.mu.Lock()
	d.giveSlot()
	d.running, d.used = false, time.Now()
	d.start() // it may have been revived meanwhile
	d.mu.Unlock()
}

// ownError is an error of ours, for which the destination is not to blame.
type ownError struct{ err error }

func (e *ownError) Error() string { return e.err.Error() }
func (e *ownError) Unwrap() error { return e.err }

func own(err error) error {
	if err == nil {
		return nil
	}
	return &ownError{err}
}

// sendQueued sends one transaction of what waits.
func (d *dest) sendQueued(ctx context.Context) error {
	rows, more, wake, err := d.readEDUs(ctx)
	if err != nil {
		return own(err)
	}
	t := &transaction{}
	if len(rows) > 0 {
		t.origin = rows[0].origin
	}
	batch := d.pop(t, len(rows) > 0)
	if t.origin == "" {
		if t.origin = d.ephemeralOrigin(); t.origin == "" {
			d.noMoreEDUs(wake)
			return nil
		}
	}
	if err := d.fill(ctx, t, batch); err != nil {
		return own(err)
	}
	used := t.addRows(rows)
	if err := d.addEphemeral(t); err != nil {
		return own(err)
	}
	if err := d.deliver(t); err != nil {
		return err
	}
	arrived, err := d.arrived(ctx, batch)
	if err != nil {
		return own(err)
	}
	if err := d.tellDevices(ctx, arrived); err != nil {
		return err
	}
	d.delivered()
	if err := d.dropEDUs(ctx, used); err != nil {
		return own(err) // they come again
	}
	if !more && len(used) == len(rows) {
		d.noMoreEDUs(wake)
	}
	return nil
}

// pop takes the next entries from the queue that one transaction can hold. All are from one local server.
func (d *dest) pop(t *transaction, fixed bool) []*item {
	d.mu.Lock()
	defer d.mu.Unlock()
	pdus, others, bytes, n := 0, 0, 0, 0
	for _, it := range d.queue {
		if !fixed && n == 0 {
			t.origin = it.origin
		}
		if it.origin != t.origin {
			break
		}
		if ev := it.event(); ev != nil {
			if pdus == maxPDUs || bytes+len(ev.Json) > maxTransaction && pdus > 0 {
				break
			}
			pdus, bytes = pdus+1, bytes+len(ev.Json)
		} else if others++; others > maxEDUs/2 {
			break
		}
		n++
	}
	batch := d.queue[:n:n]
	d.queue = d.queue[n:]
	if len(d.queue) == 0 {
		d.queue = nil
	}
	d.inflight = append(d.inflight, batch...)
	return batch
}

// fill puts queued entries into a transaction.
func (d *dest) fill(ctx context.Context, t *transaction, batch []*item) error {
	receipts, devices := newReceipts(), make(deviceChanges)
	for _, it := range batch {
		t.follow(d.f.s.tracer, it.entry.Traceparent)
		if ev := it.event(); ev != nil && !ev.Local {
			continue
		} else if ev != nil {
			t.pdus = append(t.pdus, pdu{id: ev.EventId, json: ev.Json, sent: ev.OriginServerTs, logPart: it.logPart, pos: it.pos})
			t.bytes += len(ev.Json)
		} else if r := it.entry.GetReceipt(); r != nil {
			receipts.add(it.entry.RoomId, id.User(r.UserId), r.ThreadId, r.EventId, r.Ts)
		} else if c := it.entry.GetDeviceChange(); c != nil {
			devices.add(c)
		}
	}
	if err := receipts.into(t); err != nil {
		return err
	}
	return d.addDevices(ctx, t, devices)
}

// deliver sends a transaction, in several if it has more EDUs than one may have. What the destination refuses of it for
// good is passed over.
func (d *dest) deliver(t *transaction) error {
	d.withoutRefused(t)
	for len(t.edus) > maxEDUs {
		some := &transaction{origin: t.origin, edus: t.edus[:maxEDUs], bytes: t.bytes, traces: t.traces}
		if err := d.deliver(some); err != nil {
			return err
		}
		t.edus = t.edus[maxEDUs:]
	}
	if t.empty() {
		return nil
	}
	end := d.f.s.traceTransaction(d.server, t)
	err := d.send(t)
	answered := time.Now()
	end(err)
	var refused *refusal
	switch {
	case err == nil:
		d.f.s.metrics.transactions.WithLabelValues("ok").Inc()
	case !errors.As(err, &refused):
		return err
	case refused.serverError() && d.broken+1 < stubborn:
		d.broken++
		return fmt.Errorf("%s: %s", d.server, refused.Error())
	default:
		d.f.s.metrics.transactions.WithLabelValues("refused").Inc()
		if err := d.search(t, refused); err != nil {
			return err
		}
	}
	d.broken = 0
	d.f.s.noteSuccess(d.f.ctx, d.server, answered)
	return nil
}
