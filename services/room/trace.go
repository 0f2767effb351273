package room

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"hanse/pkg/grpcx"
)

// A traced request leaves three spans here: room.build (the draft, under the room's lock), room.append (from the queue
// to the commit and, for members, the projection), and room.commit, which is the batch's: it belongs to the first
// traced change of the batch, and is linked with all of them in both directions. Entries on the bus name room.append.

// changeTrace are the spans of one change. nil is that of a change that is not traced.
type changeTrace struct {
	tracer trace.Tracer
	parent trace.SpanContext // of the request
	begun  time.Time
	span   trace.Span // room.append, once the change is queued
}

// newTrace begins the trace of a change if its request is traced.
func (s *Service) newTrace(ctx context.Context) *changeTrace {
	if s.tracer == nil {
		return nil
	}
	parent := trace.SpanContextFromContext(ctx)
	if !parent.IsSampled() {
		return nil
	}
	return &changeTrace{tracer: s.tracer, parent: parent, begun: time.Now()}
}

// queued ends the draft.
func (t *changeTrace) queued() {
	if t == nil {
		return
	}
	ctx := trace.ContextWithSpanContext(context.Background(), t.parent)
	_, build := t.tracer.Start(ctx, "room.build", trace.WithTimestamp(t.begun))
	build.End()
	_, t.span = t.tracer.Start(ctx, "room.append")
}

// end ends the change.
func (t *changeTrace) end(err error) {
	if t == nil || t.span == nil {
		return
	}
	if err != nil {
		t.span.SetStatus(codes.Error, err.Error())
	}
	t.span.End()
}

// traceparent is what the change's entries carry on the bus.
func (t *changeTrace) traceparent() string {
	if t == nil {
		return ""
	}
	return grpcx.TraceParent(trace.ContextWithSpan(context.Background(), t.span))
}

// traceCommit begins the span of a batch, nil if none of its changes is traced.
func (s *Service) traceCommit(b *batch) trace.Span {
	if s.tracer == nil {
		return nil
	}
	var links []trace.Link
	for _, c := range b.changes {
		if c.trace != nil {
			links = append(links, trace.Link{SpanContext: c.trace.span.SpanContext()})
		}
	}
	if len(links) == 0 {
		return nil
	}
	_, span := s.tracer.Start(trace.ContextWithSpanContext(context.Background(), links[0].SpanContext), "room.commit", trace.WithLinks(links...),
		trace.WithAttributes(attribute.Int("hanse.changes", len(b.changes)), attribute.Int("hanse.partitions", len(b.parts))))
	for _, c := range b.changes {
		if c.trace != nil {
			c.trace.span.AddLink(trace.Link{SpanContext: span.SpanContext()})
		}
	}
	return span
}

// endCommit ends the span of a batch, if it has one.
func endCommit(span trace.Span, err error) {
	if span == nil {
		return
	}
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}
