// Package telemetry sends traces to an OpenTelemetry collector, if there is one. A message can be
// followed from HTTP through gRPC, the append to the log and the bus (Entry.traceparent) to the answer of /sync and to
// the transactions for other servers.
//
// Without an endpoint there is no tracer at all: routers and servers get nil and skip everything, so
// that tracing costs nothing where it is not used.
package telemetry

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// TracingConfig says where traces go.
type TracingConfig struct {
	// Endpoint is the OTLP gRPC endpoint: http://host:4317, or https:// for TLS. Empty: no traces.
	Endpoint string
	// Ratio of the requests that are traced, 0 to 1, unless the caller has decided.
	Ratio float64
	// Worker and Version describe this process.
	Worker, Version string
}

// Tracing are the traces of this process.
type Tracing struct{ provider *sdktrace.TracerProvider }

// OpenTracing connects to the collector in the background; a collector that is away costs spans, and
// nothing else. Queues are bounded: spans beyond them are dropped.
func OpenTracing(ctx context.Context, cfg TracingConfig) (*Tracing, error) {
	if cfg.Endpoint == "" {
		return &Tracing{}, nil
	}
	u, err := url.Parse(cfg.Endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("tracing endpoint %q: want http://host:port or https://host:port", cfg.Endpoint)
	}
	if cfg.Ratio < 0 || cfg.Ratio > 1 {
		return nil, fmt.Errorf("tracing ratio %v: want 0 to 1", cfg.Ratio)
	}
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpointURL(strings.TrimSuffix(cfg.Endpoint, "/")))
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	res := resource.NewSchemaless(
		attribute.String("service.name", "hanse"),
		attribute.String("service.instance.id", cfg.Worker),
		attribute.String("service.version", cfg.Version),
	)
	return &Tracing{sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter, sdktrace.WithMaxQueueSize(4096)),
		sdktrace.WithResource(res),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(cfg.Ratio))),
	)}, nil
}

// Provider is nil if nothing is traced.
func (t *Tracing) Provider() trace.TracerProvider {
	if t.provider == nil {
		return nil
	}
	return t.provider
}

// Tracer is nil if nothing is traced.
func (t *Tracing) Tracer() trace.Tracer {
	if t.provider == nil {
		return nil
	}
	return t.provider.Tracer("hanse")
}

// Close sends what is left, until ctx ends.
func (t *Tracing) Close(ctx context.Context) error {
	if t.provider == nil {
		return nil
	}
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("tracing: %w", err)
	}
	return nil
}
