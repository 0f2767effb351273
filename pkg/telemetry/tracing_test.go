package telemetry

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"hanse/pkg/httpx"
	"hanse/pkg/telemetry/telemetrytest"
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

// A request at the HTTP edge becomes a span at the collector.
func TestRequestIsTraced(t *testing.T) {
	c := telemetrytest.New(t)
	tr, err := OpenTracing(t.Context(), TracingConfig{Endpoint: c.Endpoint, Ratio: 1, Worker: "w"})
	if err != nil {
		t.Fatal(err)
	}
	rt := httpx.NewRouter(httpx.RouterConfig{Tracer: tr.Tracer()})
	rt.Handle("GET /rooms/{room}", func(w http.ResponseWriter, _ *http.Request) error { return httpx.Empty(w) })
	rt.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/rooms/x", nil))
	if err := tr.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := c.Spans(); len(got) != 1 || got[0].Name != "GET /rooms/{room}" || got[0].Worker != "w" {
		t.Errorf("spans %+v", got)
	}
}
