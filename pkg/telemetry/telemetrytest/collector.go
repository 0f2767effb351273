// Package telemetrytest is a collector of traces, to which processes under test send their spans as they do to a real
// one.
package telemetrytest

import (
	"context"
	"encoding/hex"
	"net"
	"sync"
	"testing"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	"google.golang.org/grpc"
)

// Span is what a test wants to know of a span. Ids are in hexadecimal digits.
type Span struct {
	Name string
	// Worker is the process that it came from (service.instance.id).
	Worker            string
	Trace, ID, Parent string
	// Links are ids of spans.
	Links []string
}

// Collector is the receiving side of OTLP.
type Collector struct {
	collectorv1.UnimplementedTraceServiceServer
	// Endpoint is where it listens, as configuration wants it.
	Endpoint string

	mu    sync.Mutex
	spans []Span
}

// New starts a collector that ends with the test.
func New(tb testing.TB) *Collector {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	c := &Collector{Endpoint: "http://" + l.Addr().String()}
	srv := grpc.NewServer()
	collectorv1.RegisterTraceServiceServer(srv, c)
	go func() { _ = srv.Serve(l) }() // ends with Stop
	tb.Cleanup(srv.Stop)
	return c
}

// Spans returns those that arrived, in the order in which they came.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.spans[:len(c.spans):len(c.spans)]
}

// Export implements collectorv1.TraceServiceServer.
func (c *Collector) Export(_ context.Context, req *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rs := range req.ResourceSpans {
		worker := instance(rs.GetResource().GetAttributes())
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				span := Span{Name: s.Name, Worker: worker, Trace: hex.EncodeToString(s.TraceId), ID: hex.EncodeToString(s.SpanId),
					Parent: hex.EncodeToString(s.ParentSpanId)}
				for _, link := range s.Links {
					span.Links = append(span.Links, hex.EncodeToString(link.SpanId))
				}
				c.spans = append(c.spans, span)
			}
		}
	}
	return &collectorv1.ExportTraceServiceResponse{}, nil
}

func instance(attributes []*commonv1.KeyValue) string {
	for _, a := range attributes {
		if a.Key == "service.instance.id" {
			return a.Value.GetStringValue()
		}
	}
	return ""
}
