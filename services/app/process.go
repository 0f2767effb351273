package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.opentelemetry.io/otel/trace"

	"hanse/pkg/gcpace"
	"hanse/pkg/httpx"
	"hanse/pkg/node"
	"hanse/pkg/partition"
)

// process is what Run builds up and takes down.
type process struct {
	cfg     *Config
	specs   []roleSpec
	log     *slog.Logger
	metrics *prometheus.Registry
	node    *node.Node
	tracer  trace.Tracer // nil if nothing is traced
	version string
	running []runningRole
	ready   atomic.Bool
	mesh    *mesh      // nil without other workers
	failed  chan error // an error of something that should run until the end

	closers []closer // in the order in which things were opened
}

type closer struct {
	name  string
	close func(ctx context.Context) error
}

type runningRole struct {
	name string
	role Role
	stop context.CancelFunc
	done chan struct{}
}

// Run runs roles, all of them if none is named, until the context ends or something fails. The version is for traces.
func Run(ctx context.Context, cfg *Config, names []string, version string, log *slog.Logger) error {
	specs, err := pick(names)
	if err != nil {
		return err
	}
	if err := embeddedFits(cfg, specs); err != nil {
		return err
	}
	p := &process{cfg: cfg, specs: specs, version: version, log: log, metrics: prometheus.NewRegistry(), failed: make(chan error, 16)}
	p.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	defer gcpace.Keep(cfg.Memory.Garbage)()
	err = p.start(ctx)
	if err == nil {
		select {
		case <-ctx.Done():
		case err = <-p.failed:
		}
	} else if ctx.Err() != nil {
		err = nil // told to end while it started
	}
	return errors.Join(err, p.end())
}

// embeddedFits refuses servers inside the process for a process that is one of many: the others would not see them.
func embeddedFits(cfg *Config, specs []roleSpec) error {
	if len(specs) == len(roles) && cfg.Listen.GRPC.Address == "" {
		return nil
	}
	var missing []string
	if cfg.NATS.URL == "" {
		missing = append(missing, "nats.url")
	}
	if cfg.Redis.URL == "" {
		missing = append(missing, "redis.url")
	}
	if len(cfg.PostgreSQL.Shards) == 0 {
		missing = append(missing, "postgresql.shards")
	}
	if len(specs) < len(roles) && cfg.Listen.GRPC.Address == "" {
		missing = append(missing, "listen.grpc.address")
	}
	if cfg.Media.Store.URL == "" && slices.ContainsFunc(specs, func(s roleSpec) bool { return s.name == node.RoleMedia }) {
		missing = append(missing, "media.store.url")
	}
	if missing != nil {
		return fmt.Errorf("a process that is one of many needs %q", missing)
	}
	return nil
}

func (p *process) start(ctx context.Context) error {
	for _, step := range []struct {
		name string
		do   func(ctx context.Context) error
	}{
		{"monitoring", p.openMonitoring},
		{"tracing", p.openTracing},
		{"PostgreSQL", p.openPostgres},
		{"NATS", p.openBus},
		{"Redis", p.openRedis},
		{"workers", p.openWorkers},
		{"server names", p.openServers},
		{"roles", p.buildRoles},
		{"other workers", p.meetWorkers},
		{"listeners", p.openAPIs},
	} {
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("start: %s: %w", step.name, err)
		}
	}
	p.node.Members.SetState(partition.Ready)
	p.ready.Store(true)
	p.log.Info("ready", "worker", p.node.WorkerID, "roles", p.roleNames(), "servers", p.cfg.ServerNames)
	return nil
}

func (p *process) roleNames() []string {
	names := make([]string, len(p.specs))
	for i, s := range p.specs {
		names[i] = s.name
	}
	return names
}

// onEnd has something closed when the process ends, before all that was opened earlier.
func (p *process) onEnd(name string, f func(ctx context.Context) error) {
	p.closers = append(p.closers, closer{name, f})
}

// fail ends the process because of an error in something that should run on.
func (p *process) fail(what string, err error) {
	select {
	case p.failed <- fmt.Errorf("%s: %w", what, err):
	default: // it ends already
	}
}

// background runs something for as long as the process does.
func (p *process) background(ctx context.Context, name string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := run(ctx); err != nil && ctx.Err() == nil {
			p.fail(name, err)
		}
	}()
	p.onEnd(name, func(context.Context) error { cancel(); <-done; return nil })
}

// buildRoles builds the roles and lets them run; requests come later.
func (p *process) buildRoles(ctx context.Context) error {
	intake := httpx.NewIntake(p.cfg.Bodies, p.metrics)
	api := func(name string, cors bool) *httpx.Router {
		return httpx.NewRouter(httpx.RouterConfig{Name: name, CORS: cors, TrustedProxies: p.cfg.Listen.TrustedProxies, Intake: intake,
			MaxConcurrent: p.cfg.Listen.Requests, MaxPolls: p.cfg.Listen.Polls, Tracer: p.tracer, Log: p.log, Registerer: p.metrics})
	}
	p.node.ClientAPI, p.node.FederationAPI = api("client", true), api("federation", false)
	b, err := newBuilder(ctx, p.cfg, p.node)
	if err != nil {
		return err
	}
	p.background(ctx, "application services", b.apps.Run)
	p.background(ctx, "sessions", b.sessions.Run)
	p.background(ctx, "redacted events", func(ctx context.Context) error { return b.rooms.Run(ctx, p.node.Bus) })
	for _, spec := range p.specs {
		role, err := spec.build(ctx, b)
		if err != nil {
			return fmt.Errorf("%s: %w", spec.name, err)
		}
		p.running = append(p.running, runningRole{name: spec.name, role: role, done: make(chan struct{})})
	}
	go func() {
		if err := p.node.GRPC.Serve(); err != nil {
			p.fail("gRPC", err)
		}
	}()
	for i := range p.running {
		p.runRole(context.WithoutCancel(ctx), &p.running[i])
	}
	return nil
}

func (p *process) runRole(ctx context.Context, r *runningRole) {
	ctx, r.stop = context.WithCancel(ctx)
	go func() {
		defer close(r.done)
		err := r.role.Run(ctx)
		if ctx.Err() == nil {
			if err == nil {
				err = errors.New("it has ended by itself")
			}
			p.fail("role "+r.name, err)
		} else if err != nil && !errors.Is(err, context.Canceled) {
			p.log.Error("role ended", "role", r.name, "err", err)
		}
	}()
	p.onEnd("role "+r.name, func(ctx context.Context) error {
		r.stop()
		select {
		case <-r.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

// end takes everything down in the reverse order of the start.
func (p *process) end() error {
	if p.ready.Swap(false) {
		p.node.Members.SetState(partition.Draining)
		p.log.Info("draining")
		time.Sleep(p.cfg.DrainDelay) // load balancers learn from /readyz; meanwhile everything works
		p.drain()
	}
	err := closeAll(p.closers, p.cfg.DrainTimeout, leastEnd)
	p.log.Info("ended")
	return err
}

// leastEnd is how long each part has to end at least, also if those before it have used the time up.
const leastEnd = 2 * time.Second

// closeAll closes what was opened, the last first, within a time for all. What does not end in time is left behind: a
// process that was told to end does.
func closeAll(closers []closer, all, least time.Duration) error {
	deadline := time.Now().Add(all)
	var errs []error
	for _, c := range slices.Backward(closers) {
		ctx, cancel := context.WithTimeout(context.Background(), max(time.Until(deadline), least))
		done := make(chan error, 1)
		go func() { done <- c.close(ctx) }()
		var err error
		select {
		case err = <-done:
		case <-ctx.Done():
			// It may hear of the end of its time itself, and say more.
			select {
			case err = <-done:
			case <-time.After(least):
				err = errors.New("does not end; it is left behind")
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("end: %s: %w", c.name, err))
		}
		cancel()
	}
	return errors.Join(errs...)
}

// drain lets the roles hand over what they have, within a time for all. First those that take a time of their own: meanwhile
// the others work.
func (p *process) drain() {
	for _, r := range slices.Backward(p.running) {
		if d, ok := r.role.(patientDrainer); ok {
			ctx, cancel := context.WithTimeout(context.Background(), d.DrainTime())
			p.drainRole(ctx, r.name, d)
			cancel()
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), p.cfg.DrainTimeout)
	defer cancel()
	for _, r := range slices.Backward(p.running) {
		_, patient := r.role.(patientDrainer)
		if d, ok := r.role.(drainer); ok && !patient {
			p.drainRole(ctx, r.name, d)
		}
	}
}

func (p *process) drainRole(ctx context.Context, name string, d drainer) {
	start := time.Now()
	if err := d.Drain(ctx); err != nil {
		p.log.Warn("not all was handed over", "role", name, "err", err)
		return
	}
	p.log.Info("drained", "role", name, "took", time.Since(start).String())
}
