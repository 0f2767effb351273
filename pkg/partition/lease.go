package partition

import (
	"context"
	"time"
)

// Lease returns the lease of a partition if this worker serves it now.
func (o *Owner) Lease(part uint32) (Lease, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.leaseLocked(part)
}

func (o *Owner) leaseLocked(part uint32) (Lease, bool) {
	if part >= uint32(len(o.parts)) {
		return Lease{}, false
	}
	h := o.parts[part]
	// A process that stood still wakes up with leases that others have taken long ago: until the row
	// was looked at again they are not used, not even for reading.
	if !h.held || h.lost || time.Since(h.verified) > o.cfg.LeaseTrust {
		return Lease{}, false
	}
	return h.lease, true
}

// awaitLimit bounds how long Await waits for a takeover that is under way.
const awaitLimit = 2 * time.Second

// Await is Lease for the handler of a request: if this worker is about to serve the partition it
// waits for that, otherwise it returns *NotOwner.
func (o *Owner) Await(ctx context.Context, part uint32) (Lease, error) {
	var limit <-chan time.Time
	for {
		o.mu.Lock()
		l, ok := o.leaseLocked(part)
		coming := !ok && part < uint32(len(o.parts)) && o.comingLocked(o.parts[part])
		changed := o.changed
		o.mu.Unlock()
		if ok {
			return l, nil
		}
		if !coming {
			return Lease{}, o.NotOwner(part)
		}
		if limit == nil {
			t := time.NewTimer(awaitLimit)
			defer t.Stop()
			limit = t.C
		}
		select {
		case <-changed:
		case <-limit:
			return Lease{}, o.NotOwner(part)
		case <-ctx.Done():
			return Lease{}, ctx.Err()
		}
	}
}

// comingLocked reports whether a takeover by this worker is under way.
func (o *Owner) comingLocked(h *holding) bool {
	return !o.draining && !h.held && h.busy
}

// NotOwner is the error for a request about a partition that is not served here, with a guess of
// who serves it.
func (o *Owner) NotOwner(part uint32) *NotOwner {
	e := &NotOwner{Part: part}
	self := o.cfg.Members.Self().ID
	o.mu.Lock()
	pin := o.pins[part]
	o.mu.Unlock()
	for _, m := range o.cfg.Members.Of(RoleRoom) {
		if m.ID == pin && pin != self {
			e.Worker, e.Addr = m.ID, m.Addr
			return e
		}
	}
	if m, ok := o.cfg.Members.OwnerOf(part, RoleRoom); ok && m.ID != self {
		e.Worker, e.Addr = m.ID, m.Addr
	}
	return e
}

// Owned returns the partitions that are served now.
func (o *Owner) Owned() map[uint32]Lease {
	o.mu.Lock()
	defer o.mu.Unlock()
	owned := make(map[uint32]Lease)
	for _, h := range o.parts {
		if l, ok := o.leaseLocked(h.part); ok {
			owned[h.part] = l
		}
	}
	return owned
}

// Settled waits until this worker serves all that it should own and nothing else: tests and
// readiness use it.
func (o *Owner) Settled(ctx context.Context) error {
	for {
		wanted := o.wanted()
		members := o.cfg.Members.Changed()
		o.mu.Lock()
		settled := o.cfg.Members.Known()
		for _, h := range o.parts {
			settled = settled && !h.busy && h.held == (wanted[h.part] && !o.draining) && !h.lost
		}
		changed := o.changed
		o.mu.Unlock()
		if settled {
			return nil
		}
		select {
		case <-changed:
		case <-members:
		case <-time.After(handoverPoll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Drain hands everything over: the worker announces that it is draining, keeps serving each
// partition until another worker has raised its epoch, and returns when the last one is gone. When
// ctx ends, or if there is nobody to take them, the partitions are released as they are. Run must
// still be running.
func (o *Owner) Drain(ctx context.Context) error {
	o.cfg.Members.SetState(Draining)
	o.mu.Lock()
	o.draining = true
	o.announce()
	o.mu.Unlock()
	o.poke()
	for {
		members := o.cfg.Members.Changed()
		o.mu.Lock()
		left := 0
		for _, h := range o.parts {
			if h.held || h.busy {
				left++
			}
		}
		changed := o.changed
		o.mu.Unlock()
		switch {
		case left == 0:
			return nil
		case len(o.cfg.Members.Of(RoleRoom)) == 0:
			o.releaseAll()
			return nil
		}
		select {
		case <-changed:
		case <-members:
		case <-time.After(handoverPoll):
		case <-ctx.Done():
			o.releaseAll()
			return ctx.Err()
		}
	}
}

// releaseAll ends every lease and says so in the rows.
func (o *Owner) releaseAll() {
	o.mu.Lock()
	o.draining = true
	o.mu.Unlock()
	o.waitIdle()
	o.mu.Lock()
	for _, h := range o.parts {
		if !h.held || h.busy {
			continue
		}
		h.busy = true
		lost, lease := h.lost, h.lease
		go func() {
			defer o.release(h, "end")
			if lost {
				return
			}
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			defer cancel()
			if err := o.cfg.Rows.Release(ctx, h.part, lease.Epoch); err != nil {
				o.cfg.Log.Warn("partition row could not be released", "err", err)
			}
		}()
	}
	o.mu.Unlock()
	o.waitIdle()
}

// waitIdle returns when nothing is being acquired or released.
func (o *Owner) waitIdle() {
	for {
		o.mu.Lock()
		busy := false
		for _, h := range o.parts {
			busy = busy || h.busy
		}
		changed := o.changed
		o.mu.Unlock()
		if !busy {
			return
		}
		<-changed
	}
}
