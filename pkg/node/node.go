// Package node is what one process is, as its roles see it: its databases, its bus, the other workers, the APIs that
// it listens on. services/app builds it once; each role takes from it what it needs.
package node

import (
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/trace"

	"hanse/pkg/bus"
	"hanse/pkg/grpcx"
	"hanse/pkg/httpx"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
	"hanse/pkg/servers"
)

// Node is one process. All fields are set before the first role is built, and none changes afterwards.
type Node struct {
	// WorkerID names the process among the workers.
	WorkerID string
	Log      *slog.Logger
	Metrics  prometheus.Registerer
	// Tracer is nil if nothing is traced.
	Tracer trace.TracerProvider

	PG    *pg.Shards
	Bus   *bus.Bus
	Redis redis.UniversalClient
	// Servers are the names that the cluster serves, and their signing keys.
	Servers *servers.Registry

	// Members are the workers; Router calls the owners of partitions, Conns any worker by address.
	Members *partition.Members
	Rows    *partition.Rows
	Router  *partition.Router
	Conns   *grpcx.Conns

	// GRPC, ClientAPI and FederationAPI take the registrations of the roles; they serve only when all roles are built.
	GRPC          *grpcx.Server
	ClientAPI     *httpx.Router
	FederationAPI *httpx.Router
}

// TracerOf is the tracer of a role, nil if nothing is traced.
func (n *Node) TracerOf(role string) trace.Tracer {
	if n.Tracer == nil {
		return nil
	}
	return n.Tracer.Tracer("hanse/" + role)
}
