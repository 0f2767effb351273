package partition

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hanse/pkg/metric"
)

// Conns are the connections to other workers (grpcx.Conns).
type Conns interface {
	// To returns the connection to the worker at addr.
	To(addr string) (grpc.ClientConnInterface, error)
	// Keep closes connections to workers that were not alive in this call and the one before.
	Keep(alive func(addr string) bool)
	Tethers
}

// RouterConfig is what a Router needs.
type RouterConfig struct {
	Members *Members
	Rows    *Rows
	Conns   Conns
	// Timeout bounds a call whose context has no deadline (default 20 s).
	Timeout    time.Duration
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Router calls the owner of a partition, whoever that is by now.
type Router struct {
	cfg     RouterConfig
	retries *prometheus.CounterVec

	routes []route

	mu   sync.Mutex
	gone map[string]*presence // by address
}

// route is what is known of a partition's owner.
type route struct {
	mu     sync.Mutex
	addr   string    // learnt from a NotOwner or the row; empty: guess
	looked time.Time // when the row was last read
}

// presence ends the calls to a worker that has left the view.
type presence struct {
	ctx    context.Context
	cancel context.CancelFunc
}

// NewRouter makes a Router; Run it for as long as it is used.
func NewRouter(cfg RouterConfig) *Router {
	if cfg.Timeout <= 0 {
		cfg.Timeout = 20 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	r := &Router{cfg: cfg, routes: make([]route, Count()), gone: make(map[string]*presence),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hanse_router_retries_total",
			Help: "Calls to partition owners that had to be repeated."}, []string{"why"})}
	r.retries = metric.Register(cfg.Registerer, r.retries)
	return r
}

// keepEvery is how often connections to workers that are gone are closed.
const keepEvery = 30 * time.Second

// Run follows the membership until ctx ends: calls to a worker that is gone are ended, so that they
// are repeated elsewhere. Without it calls still work, but wait for their own deadline.
func (r *Router) Run(ctx context.Context) error {
	keep := time.NewTicker(keepEvery)
	defer keep.Stop()
	for {
		changed := r.cfg.Members.Changed()
		r.mu.Lock()
		for addr, p := range r.gone {
			if !r.cfg.Members.Alive(addr) {
				p.cancel()
				delete(r.gone, addr)
			}
		}
		r.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-keep.C:
			r.cfg.Conns.Keep(r.cfg.Members.Alive)
		}
	}
}

// Call calls fn with a connection to the owner of a partition, again and again until somebody who
// is the owner has answered or ctx ends: it follows NotOwner, and repeats what was Unavailable,
// Aborted, or canceled by somebody else. fn may therefore be executed more than once, also after a first execution that had its
// effect; writes carry an idempotency key.
func (r *Router) Call(ctx context.Context, part uint32, fn func(ctx context.Context, conn grpc.ClientConnInterface) error) error {
	if part >= uint32(len(r.routes)) {
		return fmt.Errorf("call partition %d: %w", part, ErrNoPartition)
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.cfg.Timeout)
		defer cancel()
	}
	var last error
	for attempt := 0; ; attempt++ {
		if attempt > 0 {
			if err := sleep(ctx, backoff(attempt)); err != nil {
				return r.exhausted(part, err, last)
			}
		}
		addr := r.addr(ctx, part, attempt)
		if addr == "" {
			last = &NotOwner{Part: part}
			r.retries.WithLabelValues("no_owner").Inc()
			continue
		}
		err := r.try(ctx, addr, fn)
		// Following once costs no pause; a chain of owners that each name another does.
		if no, ok := AsNotOwner(err); ok && no.Part == part && attempt == 0 && no.Addr != "" && no.Addr != addr {
			r.learn(part, no.Addr)
			r.retries.WithLabelValues("not_owner").Inc()
			addr = no.Addr
			err = r.try(ctx, addr, fn)
		}
		why, again := r.judge(ctx, part, addr, err)
		if !again {
			return err
		}
		last = err
		r.retries.WithLabelValues(why).Inc()
		if ctx.Err() != nil {
			return r.exhausted(part, ctx.Err(), last)
		}
	}
}

// Tethers watches the connections that the Router uses, for an Owner in the same process.
func (r *Router) Tethers() Tethers {
	if r == nil || r.cfg.Conns == nil {
		return nil
	}
	return r.cfg.Conns
}

// Owner returns the address at which the owner of a partition is believed to be.
func (r *Router) Owner(ctx context.Context, part uint32) (string, error) {
	if part >= uint32(len(r.routes)) {
		return "", ErrNoPartition
	}
	if addr := r.addr(ctx, part, 0); addr != "" {
		return addr, nil
	}
	return "", &NotOwner{Part: part}
}

// try makes one attempt, which ends early if the worker leaves the view.
func (r *Router) try(ctx context.Context, addr string, fn func(context.Context, grpc.ClientConnInterface) error) error {
	conn, err := r.cfg.Conns.To(addr)
	if err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	p := r.presence(addr)
	if p == nil {
		return fn(ctx, conn)
	}
	attempt, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(p.ctx, cancel)
	err = fn(attempt, conn)
	stop()
	cancel()
	if err != nil && ctx.Err() == nil && p.ctx.Err() != nil {
		return status.Errorf(codes.Unavailable, "worker at %s is gone: %v", addr, err)
	}
	return err
}

// presence returns what ends with a member, nil for an address that no member has.
func (r *Router) presence(addr string) *presence {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.gone[addr]; p != nil {
		return p
	}
	if !r.cfg.Members.Alive(addr) {
		return nil
	}
	p := &presence{}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	r.gone[addr] = p
	return p
}

// judge decides whether err means "try again", and unlearns what led there.
func (r *Router) judge(ctx context.Context, part uint32, addr string, err error) (why string, again bool) {
	if err == nil {
		return "", false
	}
	if no, ok := AsNotOwner(err); ok && no.Part == part {
		next := no.Addr
		if next == addr {
			next = ""
		}
		r.learn(part, next)
		return "not_owner", true
	}
	switch status.Code(err) {
	case codes.Unavailable:
		r.learn(part, "")
		return "unavailable", true
	case codes.Aborted:
		return "aborted", true
	case codes.Canceled:
		// Not by us: a worker that ends has cut off what it, or we, had under way.
		if ctx.Err() == nil {
			r.learn(part, "")
			return "canceled", true
		}
	}
	return "", false
}

func (r *Router) learn(part uint32, addr string) {
	rt := &r.routes[part]
	rt.mu.Lock()
	defer rt.mu.Unlock()
	rt.addr = addr
}

// rowPatience bounds how often a partition's row is read, however many calls wait for its owner.
const rowPatience = 20 * time.Millisecond

// addr returns where to try next: what was learnt, then the guess, then in turn the row and the
// guess.
func (r *Router) addr(ctx context.Context, part uint32, attempt int) string {
	rt := &r.routes[part]
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if attempt > 0 && time.Since(rt.looked) > rowPatience {
		rt.looked = time.Now()
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		row, err := r.cfg.Rows.Get(ctx, part)
		cancel()
		if err != nil {
			r.cfg.Log.Warn("owner of a partition could not be read", "part", part, "err", err)
		} else if row.OwnerAddr != "" && r.cfg.Members.Alive(row.OwnerAddr) {
			rt.addr = row.OwnerAddr
		}
	}
	if rt.addr != "" {
		return rt.addr
	}
	if m, ok := r.cfg.Members.OwnerOf(part, RoleRoom); ok {
		return m.Addr
	}
	return ""
}

// exhausted is the error of a call that ran out of time. It does not wrap what the last owner
// said: that was meant for this Router, not for our caller's.
func (r *Router) exhausted(part uint32, err, last error) error {
	if last == nil {
		return fmt.Errorf("call partition %d: %w", part, err)
	}
	return fmt.Errorf("call partition %d: %w (last: %s)", part, err, last.Error())
}

// backoff is 5 ms, doubling up to 160 ms, with jitter.
func backoff(attempt int) time.Duration {
	d := 5 * time.Millisecond << min(attempt-1, 5)
	return d/2 + rand.N(d)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
