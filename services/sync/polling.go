package sync

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"hanse/pkg/matrix/id"
	presencestore "hanse/pkg/presence"
)

// polling is a device that polls here, or did a short while ago.
type polling struct {
	set   string // its last set_presence
	open  int    // polls that wait
	began time.Time
	last  time.Time // when a poll last began or ended
	told  time.Time // when the store was last told
	until int64     // until when the device counts there, in milliseconds since 1970
}

const (
	// renewEvery is how often the store is told that a device is still there. It is less than the minute for which a poll
	// counts as activity.
	renewEvery = 30 * time.Second
	// lookEvery is how often a worker looks whether somebody is still there who does not poll here: who polls elsewhere
	// is taken out by the worker there, unless that was killed.
	lookEvery = 10 * time.Minute
	// sweepEvery is how often devices that have gone are looked for, and sweepers how many are told of at once.
	sweepEvery = 5 * time.Second
	sweepers   = 8
)

// lease is for how long a device counts if this worker dies.
func (ps *presence) lease() time.Duration { return ps.cfg.PresenceTimeout + 2*renewEvery }

// begin says that a device polls (client-server API, set_presence of /sync), until end is called. The store is told if
// that is news to it, and from time to time.
func (ps *presence) begin(ctx context.Context, user id.User, device id.Device, set string) (end func()) {
	if !ps.cfg.Presence || set == presencestore.Offline {
		return func() {}
	}
	if set == "" {
		set = presencestore.Online
	}
	now := time.Now()
	ps.mu.Lock()
	p := ps.of(user)
	d := p.here[device]
	if d == nil {
		if p.here == nil {
			p.here = make(map[id.Device]*polling, 1)
		}
		d = new(polling)
		p.here[device] = d
	}
	d.open++
	d.set, d.began, d.last = set, now, now
	said := presencestore.Device(p.state, device)
	tell := now.Sub(d.told) >= renewEvery || said == nil || said.Presence != set && said.Presence != presencestore.Busy
	if tell {
		d.told = now
	}
	ps.mu.Unlock()
	if tell {
		ps.tell(ctx, user, device, presencestore.Poll(device, set, now, ps.lease()))
	}
	return func() {
		ps.mu.Lock()
		defer ps.mu.Unlock()
		d.open--
		d.last = time.Now()
	}
}

// tell changes what a device says.
func (ps *presence) tell(ctx context.Context, user id.User, device id.Device, change presencestore.Change) {
	ps.mu.Lock()
	heard := ps.of(user).state
	ps.mu.Unlock()
	m, err := ps.store.Change(ctx, user, heard, change)
	if err != nil {
		ps.log.DebugContext(ctx, "presence not stored", "user", user, "err", err)
	}
	if m == nil {
		return
	}
	ps.learn(m, time.Time{}) // who polls elsewhere does so without our hearing of it: to look once is enough for a while
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if d, said := ps.of(user).here[device], presencestore.Device(m, device); d != nil && said != nil {
		d.until = said.UntilMs
	}
}

// sweeping sweeps until ctx ends.
func (ps *presence) sweeping(ctx context.Context) {
	if err := ps.load(ctx); err != nil && ctx.Err() == nil {
		ps.log.WarnContext(ctx, "presence could not be read at start", "err", err)
	}
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			ps.sweep(ctx, time.Now())
		}
	}
}

// due is something to tell the store.
type due struct {
	user   id.User
	device id.Device
	change presencestore.Change
}

// sweep tells the store which devices are still there, which have gone, and to look at those whose time may be over.
func (ps *presence) sweep(ctx context.Context, now time.Time) {
	var g errgroup.Group
	g.SetLimit(sweepers)
	for _, d := range ps.due(now) {
		g.Go(func() error {
			ps.tell(ctx, d.user, d.device, d.change)
			return nil
		})
	}
	_ = g.Wait() // no function returns an error
}

// due returns what is to be told, and forgets of whom there is nothing to say.
func (ps *presence) due(now time.Time) (all []due) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for user, p := range ps.users {
		for device, d := range p.here {
			switch {
			case d.open == 0 && now.Sub(d.last) > ps.cfg.PresenceTimeout:
				delete(p.here, device)
				all = append(all, due{user, device, presencestore.Leave(device, d.until)})
			case d.open > 0 && (now.Sub(d.told) >= renewEvery || presencestore.Device(p.state, device) == nil):
				// Nobody may know of it any more: Redis was wiped, or another worker saw it go.
				d.told = now
				all = append(all, due{user, device, presencestore.Keep(device, d.set, d.began, ps.lease())})
			}
		}
		switch {
		case len(p.here) > 0:
		case p.state == nil || p.state.Presence == presencestore.Offline && now.Sub(time.UnixMilli(p.state.VersionMs)) > 24*time.Hour:
			delete(ps.users, user)
		case p.state.Presence != presencestore.Offline && now.After(p.look):
			p.look = now.Add(lookEvery)
			all = append(all, due{user: user, change: presencestore.Look})
		}
	}
	ps.order = slices.DeleteFunc(ps.order, func(c presenceChange) bool { return !ps.current(c) })
	return all
}
