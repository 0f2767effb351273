package app

import (
	"context"
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/bus"
	"hanse/pkg/grpcx"
	"hanse/pkg/metric"
	"hanse/pkg/node"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
	"hanse/pkg/retries"
	"hanse/pkg/servers"
	"hanse/pkg/telemetry"
)

func (p *process) openTracing(ctx context.Context) error {
	id := p.cfg.workerID()
	tracing, err := telemetry.OpenTracing(ctx, telemetry.TracingConfig{
		Endpoint: p.cfg.Tracing.Endpoint, Ratio: p.cfg.Tracing.Ratio, Worker: id, Version: p.version})
	if err != nil {
		return err
	}
	p.onEnd("tracing", tracing.Close)
	p.node = &node.Node{WorkerID: id, Log: p.log, Metrics: p.metrics, Tracer: tracing.Provider()}
	p.tracer = tracing.Tracer()
	return nil
}

func (p *process) openPostgres(ctx context.Context) error {
	if len(p.cfg.PostgreSQL.Shards) == 0 || p.cfg.NATS.URL == "" {
		lock, err := lockData(p.cfg.DataDir)
		if err != nil {
			return err
		}
		p.onEnd("data directory", func(context.Context) error { return lock.Close() })
	}
	if len(p.cfg.PostgreSQL.Shards) == 0 {
		srv, err := startPostgres(ctx, p.cfg, p.log)
		if err != nil {
			return err
		}
		p.onEnd("private PostgreSQL", func(context.Context) error { return srv.Stop() })
		go func() {
			<-srv.Exited()
			p.fail("private PostgreSQL", errors.New("it has ended"))
		}()
	}
	shards, err := pg.Open(ctx, p.cfg.PostgreSQL)
	if err != nil {
		return err
	}
	p.onEnd("PostgreSQL", func(context.Context) error { shards.Close(); return nil })
	p.metrics.MustRegister(shards.Collector())
	p.node.PG, p.node.Rows = shards, partition.NewRows(shards)
	if err := partition.Fix(shards.P()); err != nil {
		return err
	}
	return checkNames(ctx, shards, p.cfg.names(), p.log)
}

func (p *process) openBus(ctx context.Context) error {
	b, err := bus.Open(ctx, bus.Config{URL: p.cfg.NATS.URL, StoreDir: p.cfg.natsDir(), Name: p.node.WorkerID,
		Log: p.log, Registerer: p.metrics})
	if err != nil {
		return err
	}
	p.onEnd("NATS", func(context.Context) error { b.Close(); return nil })
	p.node.Bus = b
	return nil
}

func (p *process) openRedis(context.Context) error {
	client, stop, err := openRedis(p.cfg.Redis)
	if err != nil {
		return err
	}
	p.onEnd("Redis", stop)
	p.node.Redis = client
	return nil
}

// openWorkers makes this process known to the others, as one that starts.
func (p *process) openWorkers(ctx context.Context) error {
	protection, err := p.cfg.Listen.GRPC.mutualTLS(p.log)
	if err != nil {
		return err
	}
	gc := grpcx.Config{Listen: p.cfg.Listen.GRPC.Address, Advertise: p.cfg.Listen.GRPC.Advertise,
		TLS: protection, Tracer: p.node.Tracer, Log: p.log, Registerer: p.metrics}
	server, err := grpcx.NewServer(gc)
	if err != nil {
		return err
	}
	conns := grpcx.NewConns(gc, server)
	p.onEnd("gRPC connections", func(context.Context) error { conns.Close(); return nil })
	members, err := partition.Join(partition.MembersConfig{
		Bus: p.node.Bus, Log: p.log, Registerer: p.metrics, Replicas: p.cfg.NATS.Replicas,
		Self: partition.Member{ID: p.node.WorkerID, Addr: server.Addr(), Roles: p.roleNames()},
	})
	if err != nil {
		return err
	}
	p.onEnd("membership", members.Leave)
	router := partition.NewRouter(partition.RouterConfig{Members: members, Rows: p.node.Rows, Conns: conns, Log: p.log, Registerer: p.metrics})
	p.background(ctx, "router", router.Run)
	// It ends before what it needs: calls under way call other workers, and callers cut off calls to one that has left.
	p.onEnd("gRPC", func(ctx context.Context) error { server.Stop(ctx); return nil })
	p.node.GRPC, p.node.Conns, p.node.Members, p.node.Router = server, conns, members, router
	return nil
}

// openServers loads the signing keys of local server names, and makes those that there are not.
func (p *process) openServers(ctx context.Context) error {
	registry, err := servers.Open(ctx, p.node.PG, p.cfg.names(), p.log)
	if err != nil {
		return err
	}
	p.node.Servers = registry
	p.background(ctx, "signing keys", registry.Run)
	return nil
}

// meetWorkers makes sure that this process can call the others before it takes requests.
func (p *process) meetWorkers(ctx context.Context) error {
	if p.cfg.Listen.GRPC.Address == "" {
		return nil
	}
	p.mesh = &mesh{members: p.node.Members, conns: p.node.Conns, log: retries.Log{To: p.log, What: "calling other workers"},
		lost: metric.Register(p.metrics, prometheus.NewGauge(prometheus.GaugeOpts{Name: "hanse_workers_unreachable",
			Help: "Other workers that did not answer when some of them were last called."}))}
	if err := p.mesh.meet(ctx); err != nil {
		return err
	}
	p.background(ctx, "other workers", p.mesh.Run)
	return nil
}
