package fedout

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"hanse/pkg/grpcx"
	"hanse/pkg/matrix/id"
)

// follow notes that an entry of the transaction is traced. What is read from PostgreSQL after an outage is not.
func (t *transaction) follow(tracer trace.Tracer, traceparent string) {
	if tracer == nil || traceparent == "" {
		return
	}
	t.traces = append(t.traces, trace.LinkFromContext(grpcx.WithTraceParent(context.Background(), traceparent)))
}

// traceTransaction begins the span of a transaction that has something traced: in the trace of the first entry, linked
// with those of all. end ends it. Other servers are not told of our traces.
func (s *Service) traceTransaction(to id.Server, t *transaction) (end func(error)) {
	if len(t.traces) == 0 {
		return func(error) {}
	}
	_, span := s.tracer.Start(trace.ContextWithRemoteSpanContext(context.Background(), t.traces[0].SpanContext), "fedout.transaction",
		trace.WithSpanKind(trace.SpanKindClient), trace.WithLinks(t.traces...), trace.WithAttributes(
			attribute.String("hanse.destination", string(to)), attribute.Int("hanse.pdus", len(t.pdus)), attribute.Int("hanse.edus", len(t.edus))))
	return func(err error) {
		if err != nil {
			span.SetStatus(codes.Error, err.Error())
		}
		span.End()
	}
}
