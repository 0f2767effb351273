package sync

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/trace"

	"hanse/pkg/grpcx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/session"
	"hanse/pkg/token"
)

// asker is a device that asks for news, in whatever protocol. What the worker knows of users and rooms is told to an asker;
// what one request asks for of a room's timeline stands beside it (wanted). A request of /v3/sync is a poll, and one of sliding
// sync a slide: both have an asker.
type asker struct {
	who       *session.Identity
	device    id.Device
	conn      string // the connection, in sliding sync; else empty
	user      *user
	since     *token.Sync // what was told before; nil: nothing
	sinceText string      // names the answer that told it
	byThread  bool        // unread counts are told by thread

	lazyKnown bool          // the answer has looked at what the device has been sent
	waited    int64         // since when the asker has waited, in microseconds since 1970; 0 if it does not
	first     *entry        // the first event that ended the wait
	traced    []*entry      // events of the answer whose way is traced
	woken     chan struct{} // something that may concern the asker has happened
}

func newAsker(who *session.Identity) asker {
	return asker{who: who, device: who.Device, woken: make(chan struct{}, 1)}
}

// wanted says which events of a timeline somebody asks for: the newest ones that pass a filter.
type wanted struct {
	filter *roomEventFilter
	limit  int
}

// noEvents asks for what else happened in a room.
var noEvents = wanted{filter: &noFilter.Room.Timeline}

// hold waits until something may concern the asker, its time is over or the worker stops.
func (s *Service) hold(ctx context.Context, p *asker, timer *time.Timer) error {
	if p.waited == 0 {
		p.waited = time.Now().UnixMicro()
	}
	s.metrics.open.Inc()
	defer s.metrics.open.Dec()
	select {
	case <-p.woken:
	case <-timer.C:
	case <-s.drain:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// delivered notes an event that goes into the answer.
func (p *asker) delivered(e *entry) {
	if p.first == nil && p.waited > 0 && e.committedUS >= p.waited {
		p.first = e
	}
	if e.traceparent != "" && len(p.traced) < maxTraced {
		p.traced = append(p.traced, e)
	}
}

// maxTraced bounds the traces that one answer ends.
const maxTraced = 20

// observe measures the way of an event that a waiting poll was answered with, and ends the traces of what it was
// answered with.
func (s *Service) observe(ctx context.Context, p *asker) {
	if p.first != nil {
		s.metrics.delivery.Observe(time.Since(time.UnixMicro(p.first.committedUS)).Seconds())
	}
	if s.tracer == nil {
		return
	}
	for _, e := range p.traced {
		s.traceAnswer(ctx, e)
	}
}

// traceAnswer adds to the trace of an event how it came here, and that it was answered with. The request of the poll
// has a trace of its own: the two are linked.
func (s *Service) traceAnswer(ctx context.Context, e *entry) {
	way, span := s.tracer.Start(grpcx.WithTraceParent(ctx, e.traceparent), "bus.deliver",
		trace.WithTimestamp(time.UnixMicro(e.committedUS)), trace.WithSpanKind(trace.SpanKindConsumer))
	span.End(trace.WithTimestamp(e.arrived))
	_, span = s.tracer.Start(way, "sync.answer", trace.WithTimestamp(e.arrived), trace.WithLinks(trace.LinkFromContext(ctx)))
	span.End()
	trace.SpanFromContext(ctx).AddLink(trace.Link{SpanContext: span.SpanContext()})
}

// checkToken refuses tokens of the future, and waits for what this worker has not seen yet.
func (s *Service) checkToken(ctx context.Context, p *asker) error {
	if p.since == nil {
		return nil
	}
	if p.since.UserSeq > p.user.position() {
		raise(&p.user.latest, p.since.UserSeq)
		if err := s.users.refresh(ctx, p.user); err != nil {
			return err
		}
		if p.since.UserSeq > p.user.position() {
			return errFuture
		}
	}
	var heads map[uint32]int64
	for _, at := range p.since.Pos {
		if at.Part >= s.shards.P() {
			return errPartition
		}
		if at.Pos <= s.tail.head(at.Part) {
			continue
		}
		if heads == nil {
			var err error
			if heads, err = s.rooms.Heads(ctx); err != nil {
				return err
			}
		}
		if at.Pos > heads[at.Part] {
			return errFuture
		}
		if err := s.reader.WaitFor(ctx, at.Part, at.Pos); err != nil {
			return err
		}
	}
	return nil
}

var (
	errFuture    = merr.InvalidParam("since: this token lies in the future")
	errPartition = merr.InvalidParam("since: partition")
)

// acknowledge deletes the to-device messages that the token proves to have arrived.
func (s *Service) acknowledge(ctx context.Context, p *asker) error {
	if p.since == nil || p.device == "" || !p.user.acknowledge(p.device, p.since.DeviceSeq()) {
		return nil
	}
	_, err := s.userdb.AckToDevice(ctx, p.who.User, p.device, p.since.DeviceSeq())
	return err
}
