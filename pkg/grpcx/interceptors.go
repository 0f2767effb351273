package grpcx

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hanse/pkg/metric"
)

func serverUnary(log *slog.Logger, m *callMetrics) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
		start := time.Now()
		defer func() {
			if v := recover(); v != nil {
				err = panicked(ctx, log, m, info.FullMethod, v)
			}
			m.observe(info.FullMethod, status.Code(err), start)
		}()
		resp, err = handler(ctx, req)
		return resp, finish(ctx, log, info.FullMethod, err)
	}
}

func serverStream(log *slog.Logger, m *callMetrics) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
		start := time.Now()
		defer func() {
			if v := recover(); v != nil {
				err = panicked(ss.Context(), log, m, info.FullMethod, v)
			}
			m.observe(info.FullMethod, status.Code(err), start)
		}()
		return finish(ss.Context(), log, info.FullMethod, handler(srv, ss))
	}
}

func finish(ctx context.Context, log *slog.Logger, method string, err error) error {
	if err == nil {
		return nil
	}
	out, internal := toStatus(err)
	if internal {
		log.ErrorContext(ctx, "grpc call failed", "method", method, "err", err)
	}
	return out
}

func panicked(ctx context.Context, log *slog.Logger, m *callMetrics, method string, v any) error {
	m.panics.Inc()
	log.ErrorContext(ctx, "panic in grpc handler", "method", method, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
	return status.Error(codes.Internal, "internal error")
}

func clientUnary(m *callMetrics) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		start := time.Now()
		err := invoker(ctx, method, req, reply, cc, opts...)
		m.observe(method, status.Code(err), start)
		return fromStatus(err)
	}
}

func clientStream(m *callMetrics) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		start := time.Now()
		cs, err := streamer(ctx, desc, cc, method, opts...)
		m.observe(method, status.Code(err), start)
		if err != nil {
			return nil, fromStatus(err)
		}
		return &clientStreamErrors{cs}, nil
	}
}

// clientStreamErrors restores Matrix errors at the end of a stream. io.EOF passes unchanged.
type clientStreamErrors struct{ grpc.ClientStream }

func (s *clientStreamErrors) RecvMsg(m any) error { return fromStatus(s.ClientStream.RecvMsg(m)) }

// callMetrics are resolved once per method and code: a label look-up would cost more than the rest
// of the interceptor.
type callMetrics struct {
	calls   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
	panics  prometheus.Counter
	known   sync.Map // callKey → *callMetric
}

type callKey struct {
	method string
	code   codes.Code
}

type callMetric struct {
	calls   prometheus.Counter
	seconds prometheus.Observer
}

func newCallMetrics(reg prometheus.Registerer, side string) *callMetrics {
	labels := prometheus.Labels{"side": side}
	return &callMetrics{
		calls: metric.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hanse_grpc_calls_total",
			Help: "gRPC calls by method and status code.", ConstLabels: labels}, []string{"method", "code"})),
		seconds: metric.Register(reg, prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "hanse_grpc_seconds",
			Help: "Duration of gRPC calls.", ConstLabels: labels,
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5}}, []string{"method"})),
		panics: metric.Register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "hanse_grpc_panics_total",
			Help: "Panics in gRPC handlers.", ConstLabels: labels})),
	}
}

func (m *callMetrics) observe(method string, code codes.Code, start time.Time) {
	key := callKey{method, code}
	v, ok := m.known.Load(key)
	if !ok {
		v, _ = m.known.LoadOrStore(key, &callMetric{
			calls: m.calls.WithLabelValues(method, code.String()), seconds: m.seconds.WithLabelValues(method)})
	}
	c := v.(*callMetric)
	c.calls.Inc()
	c.seconds.Observe(time.Since(start).Seconds())
}

// TraceParent returns the W3C trace context of ctx for an entry of the log, empty if nothing is traced.
func TraceParent(ctx context.Context) string {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ""
	}
	c := carrier{}
	propagator.Inject(ctx, &c)
	return c.parent
}

// WithTraceParent returns ctx with the remote span that an entry of the log names.
func WithTraceParent(ctx context.Context, parent string) context.Context {
	if parent == "" {
		return ctx
	}
	return propagator.Extract(ctx, &carrier{parent})
}

// carrier is a text map with the one key traceparent.
type carrier struct{ parent string }

func (c *carrier) Get(key string) string {
	if key == "traceparent" {
		return c.parent
	}
	return ""
}

func (c *carrier) Set(key, value string) {
	if key == "traceparent" {
		c.parent = value
	}
}

func (c *carrier) Keys() []string { return []string{"traceparent"} }
