package partition

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/retries"
)

// RoleRoom is the role whose workers own partitions.
const RoleRoom = "room"

// Handler is the side that does something with a partition.
type Handler interface {
	// Acquired is called when the partition's row is ours. The partition is served when it returns
	// nil; an error gives the partition up, and it is tried again a moment later.
	Acquired(ctx context.Context, part uint32, lease Lease) error
	// Lost is called once for each Acquired that returned nil, when the lease is over: another worker
	// has raised the epoch, or the outcome of a write is unknown, or this worker ends. It returns
	// when nothing of that lease is running any more.
	Lost(part uint32, lease Lease)
}

// OwnerConfig is what an Owner needs.
type OwnerConfig struct {
	Members *Members
	Rows    *Rows
	Handler Handler
	// Tethers makes takeovers from killed workers immediate; nil leaves them to the heartbeats.
	Tethers Tethers
	// LeaseTrust is how long a lease is used without looking at the row (default 8 s); VerifyEvery
	// is how often it is looked at (default 2 s). Writes need neither: they pass the fence.
	LeaseTrust, VerifyEvery time.Duration
	// PinInterval is how often the operators' pins are read at the least (default 5 s).
	PinInterval time.Duration
	Log         *slog.Logger
	Registerer  prometheus.Registerer
}

// Owner takes and releases partitions for a room worker. Calls of the handler for one partition
// never overlap.
type Owner struct {
	cfg     OwnerConfig
	metrics ownerMetrics
	poked   chan struct{}
	slots   chan struct{} // bounds concurrent takeovers
	reading retries.Log   // of the rows

	mu       sync.Mutex
	parts    []*holding
	pins     map[uint32]string
	pinned   time.Time // when they were read
	draining bool
	changed  chan struct{} // closed when a partition was acquired or lost, or a takeover failed
}

// holding is the state of one partition in this worker. Owner.mu guards it.
type holding struct {
	part     uint32
	lease    Lease
	held     bool      // served: Acquired has returned, Lost was not called
	busy     bool      // a goroutine is acquiring or releasing
	verified time.Time // when the row last showed our epoch
	lost     bool      // to be released: fenced or in doubt
	fails    int       // takeovers in a row that were of no use
	notUntil time.Time // backoff of the next takeover
}

// takeovers bounds concurrent acquisitions.
const takeovers = 16

// NewOwner makes an Owner that owns nothing until Run.
func NewOwner(cfg OwnerConfig) *Owner {
	if cfg.LeaseTrust <= 0 {
		cfg.LeaseTrust = 8 * time.Second
	}
	if cfg.VerifyEvery <= 0 {
		cfg.VerifyEvery = 2 * time.Second
	}
	if cfg.PinInterval <= 0 {
		cfg.PinInterval = 5 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	o := &Owner{cfg: cfg, metrics: newOwnerMetrics(cfg.Registerer), poked: make(chan struct{}, 1),
		slots: make(chan struct{}, takeovers), reading: retries.Log{To: cfg.Log, What: "reading who owns the partitions"}, changed: make(chan struct{})}
	for part := range Count() {
		o.parts = append(o.parts, &holding{part: part})
	}
	return o
}

// Run owns partitions until ctx ends; then it releases what is left and returns when the handler
// has. A graceful end calls Drain first.
func (o *Owner) Run(ctx context.Context) error {
	tether := newTether(o.cfg)
	defer tether.close()
	defer o.releaseAll()
	verify := time.NewTicker(o.cfg.VerifyEvery)
	defer verify.Stop()
	pins := time.NewTicker(o.cfg.PinInterval)
	defer pins.Stop()
	o.readPins(ctx)
	for ctx.Err() == nil {
		changed := o.cfg.Members.Changed()
		tether.follow(ctx)
		soon := o.reconcile(ctx)
		t := time.NewTimer(soon)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-o.poked:
		case <-t.C:
			o.verify(ctx, true)
		case <-verify.C:
			o.verify(ctx, false)
		case <-pins.C:
			o.readPins(ctx)
		}
		t.Stop()
	}
	return nil
}

// handoverPoll is how often the rows of partitions are read that another worker should take.
const handoverPoll = 100 * time.Millisecond

// reconcile starts what has to be done and returns when to look again at the latest.
func (o *Owner) reconcile(ctx context.Context) time.Duration {
	wanted := o.wanted()
	soon := time.Minute
	now := time.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, h := range o.parts {
		switch mine := wanted[h.part] && !o.draining; {
		case h.busy:
		case h.held && h.lost:
			h.busy = true
			go o.release(h, "lost")
		case h.held && !mine:
			soon = min(soon, handoverPoll) // serve it until the row shows that another has taken it
		case !h.held && mine:
			if wait := h.notUntil.Sub(now); wait > 0 {
				soon = min(soon, wait)
				continue
			}
			h.busy = true
			go o.acquire(ctx, h)
		}
	}
	return max(soon, time.Millisecond)
}

// wanted is what this worker should own: pins to ready workers first, rendezvous hashing after.
func (o *Owner) wanted() []bool {
	ready := o.cfg.Members.Of(RoleRoom)
	self := o.cfg.Members.Self().ID
	ids := make([]string, len(ready))
	isReady := make(map[string]bool, len(ready))
	for i := range ready {
		ids[i] = ready[i].ID
		isReady[ids[i]] = true
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	wanted := make([]bool, len(o.parts))
	for i := range wanted {
		if pin := o.pins[uint32(i)]; pin != "" && isReady[pin] {
			wanted[i] = pin == self
		} else if best := rendezvous(uint32(i), ids); best >= 0 {
			wanted[i] = ids[best] == self
		}
	}
	return wanted
}

func (o *Owner) acquire(ctx context.Context, h *holding) {
	defer o.poke()
	o.slots <- struct{}{}
	defer func() { <-o.slots }()
	start := time.Now()
	self := o.cfg.Members.Self()
	lease, err := o.cfg.Rows.Acquire(ctx, h.part, self.ID, self.Addr)
	if err == nil {
		if err = o.cfg.Handler.Acquired(ctx, h.part, lease); err != nil {
			o.cfg.Log.Error("partition could not be taken over", "part", h.part, "epoch", lease.Epoch, "err", err)
		}
	} else if ctx.Err() == nil {
		o.cfg.Log.Warn("partition could not be acquired", "err", err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	h.busy = false
	o.announce()
	if err != nil {
		h.backOff(0)
		o.metrics.failures.Inc()
		return
	}
	h.lease, h.held, h.lost, h.verified = lease, true, false, start
	o.metrics.takeovers.Inc()
	o.metrics.seconds.Observe(time.Since(start).Seconds())
	o.metrics.epoch(h.part, lease.Epoch)
	o.metrics.owned.Inc()
	o.cfg.Log.Debug("partition acquired", "part", h.part, "epoch", lease.Epoch, "head", lease.Head)
}

// release ends a lease. h.busy is set; afterwards the partition may be acquired again.
func (o *Owner) release(h *holding, why string) {
	defer o.poke()
	o.mu.Lock()
	lease := h.lease
	h.held = false
	o.announce()
	o.mu.Unlock()
	o.cfg.Handler.Lost(h.part, lease)
	o.metrics.owned.Dec()
	o.metrics.epoch(h.part, 0)
	o.cfg.Log.Debug("partition released", "part", h.part, "epoch", lease.Epoch, "why", why)
	o.mu.Lock()
	defer o.mu.Unlock()
	h.lost, h.busy = false, false
	o.announce()
}

// backOff delays the next takeover: 50 ms, doubling up to 5 s, and at least about 'least'. Two workers that both believe to be
// the owner would take the partition from each other without end.
func (h *holding) backOff(least time.Duration) {
	d := max(least, min(50*time.Millisecond<<min(h.fails, 10), 5*time.Second))
	h.fails++
	h.notUntil = time.Now().Add(d/2 + rand.N(d))
}

// news is how long a worker waits before it takes back what another has taken from it. That one serves the partition meanwhile, and
// most likely knows of a change of the members that this one is about to hear of.
func (o *Owner) news() time.Duration { return o.cfg.Members.cfg.Timing.Beat }

// Fenced tells the Owner that an append at epoch found no row: somebody else owns the partition.
func (o *Owner) Fenced(part uint32, epoch int64) {
	o.end(part, epoch, func(h *holding) {
		if time.Since(h.verified) > 10*time.Second {
			h.fails = 0
		}
		h.backOff(o.news())
	})
}

// Doubt tells the Owner that the outcome of a write at epoch is unknown. The partition is lost and
// acquired anew at once, so that what was written can be read (law 3).
func (o *Owner) Doubt(part uint32, epoch int64) { o.end(part, epoch, func(*holding) {}) }

func (o *Owner) end(part uint32, epoch int64, then func(*holding)) {
	if part >= uint32(len(o.parts)) {
		return
	}
	o.mu.Lock()
	h := o.parts[part]
	if h.held && h.lease.Epoch == epoch && !h.lost {
		h.lost = true
		then(h)
		o.announce()
	}
	o.mu.Unlock()
	o.poke()
}

// verify compares our leases with the rows: those that somebody else took are lost. onlyLeaving
// restricts the look to partitions that others should take, and reads nothing if there are none.
func (o *Owner) verify(ctx context.Context, onlyLeaving bool) {
	wanted := o.wanted()
	o.mu.Lock()
	any := false
	for _, h := range o.parts {
		any = any || h.held && (!onlyLeaving || !wanted[h.part] || o.draining)
	}
	o.mu.Unlock()
	if !any {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, o.cfg.VerifyEvery)
	defer cancel()
	start := time.Now()
	rows, err := o.readRows(ctx)
	if err != nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.takePins(rows, start)
	for _, row := range rows {
		if row.Part >= uint32(len(o.parts)) {
			continue
		}
		h := o.parts[row.Part]
		switch {
		case !h.held || h.verified.After(start):
		case row.Epoch == h.lease.Epoch:
			h.verified = start
			if wanted[row.Part] && start.Sub(h.notUntil) > 10*time.Second {
				h.fails = 0
			}
		case row.Epoch > h.lease.Epoch && !h.lost:
			h.lost = true
			if wanted[row.Part] {
				h.backOff(o.news())
			}
		}
	}
}

// readPins reads the operators' pins, unless verify has just done so.
func (o *Owner) readPins(ctx context.Context) {
	start := time.Now()
	o.mu.Lock()
	known := start.Sub(o.pinned) < o.cfg.PinInterval
	o.mu.Unlock()
	if known {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, o.cfg.PinInterval)
	defer cancel()
	rows, err := o.readRows(ctx)
	if err != nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.takePins(rows, start)
}

// readRows reads the rows of all partitions. It logs the error.
func (o *Owner) readRows(ctx context.Context) ([]Row, error) {
	rows, err := o.cfg.Rows.List(ctx)
	if !errors.Is(err, context.Canceled) {
		o.reading.Note(err)
	}
	return rows, err
}

// takePins takes the pins out of rows that were read at a time. o.mu is held.
func (o *Owner) takePins(rows []Row, read time.Time) {
	o.pins, o.pinned = make(map[uint32]string), read
	for _, row := range rows {
		if row.Pinned != "" {
			o.pins[row.Part] = row.Pinned
		}
	}
}

func (o *Owner) poke() { poke(o.poked) }

// announce wakes Await and Drain. o.mu is held.
func (o *Owner) announce() {
	close(o.changed)
	o.changed = make(chan struct{})
}
