package telemetry

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"

	"hanse/pkg/httpx"
)

func TestNoEndpointNoTracer(t *testing.T) {
	tr, err := OpenTracing(t.Context(), TracingConfig{})
	if err != nil || tr.Tracer() != nil || tr.Provider() != nil || tr.Close(t.Context()) != nil {
		t.Fatal("a tracer without an endpoint")
	}
	for _, cfg := range []TracingConfig{{Endpoint: "localhost:4317"}, {Endpoint: "http://h:1", Ratio: 2}} {
		if _, err := OpenTracing(t.Context(), cfg); err == nil {
			t.Errorf("accepted %+v", cfg)
		}
	}
}

// collector is the receiving side of OTLP.
type collector struct {
	collectorv1.UnimplementedTraceServiceServer
	spans chan string
}

func (c *collector) Export(_ context.Context, req *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	for _, rs := range req.ResourceSpans {
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				c.spans <- s.Name
			}
		}
	}
	return &collectorv1.ExportTraceServiceResponse{}, nil
}

// A request at the HTTP edge becomes a span at the collector.
func TestRequestIsTraced(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv, c := grpc.NewServer(), &collector{spans: make(chan string, 8)}
	collectorv1.RegisterTraceServiceServer(srv, c)
	go func() { _ = srv.Serve(l) }() // ends with Stop
	defer srv.Stop()
	tr, err := OpenTracing(t.Context(), TracingConfig{Endpoint: "http://" + l.Addr().String(), Ratio: 1, Worker: "w"})
	if err != nil {
		t.Fatal(err)
	}
	rt := httpx.NewRouter(httpx.RouterConfig{Tracer: tr.Tracer()})
	rt.Handle("GET /rooms/{room}", func(w http.ResponseWriter, _ *http.Request) error { return httpx.Empty(w) })
	rt.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/rooms/x", nil))
	if err := tr.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := <-c.spans; got != "GET /rooms/{room}" {
		t.Errorf("span %q", got)
	}
}
