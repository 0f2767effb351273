package sync

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/trace"

	"hanse/pkg/admission"
	"hanse/pkg/grpcx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/session"
	"hanse/pkg/token"
)

// poll is one request of /sync.
type poll struct {
	who        *session.Identity
	device     id.Device
	since      *token.Sync // nil: initial
	sinceText  string
	filter     *filter
	fullState  bool
	stateAfter bool
	unstable   bool // state_after was asked for by the name that it had in MSC4222
	timeout    time.Duration
	presence   string
	user       *user
	roomData   map[id.Room][][]byte // account data of rooms that the answer brings
	filled     map[id.Room]bool     // rooms whose state has become whole since the token
	held       *admission.Entry     // what a first answer takes of the budget; nil if it is none
	endLarge   func()               // gives its slot for a large answer back, if it has one
	lazyKnown  bool                 // the answer has looked at what the device has been sent
	waited     int64                // since when the poll has waited, in microseconds since 1970; 0 if it does not
	first      *entry               // the first event that ended the wait
	traced     []*entry             // events of the answer whose way is traced
	woken      chan struct{}        // something that may concern the poll has happened
}

// maxTimeout bounds how long a poll is held, whatever the client asks for.
const maxTimeout = 5 * time.Minute

// handleSync is GET /_matrix/client/v3/sync (client-server API, section "Syncing").
func (s *Service) handleSync(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	p, err := s.parsePoll(r)
	if err != nil {
		return err
	}
	if p.user, err = s.users.get(ctx, p.who.User, p); err != nil {
		return err
	}
	defer s.users.done(p.user, p)
	defer func() {
		if p.endLarge != nil {
			p.endLarge()
		}
		if p.held != nil {
			p.held.Release()
		}
	}()
	if err := s.beginFirst(ctx, p); err != nil {
		return err
	}
	if err := s.checkToken(ctx, p); err != nil {
		return err
	}
	if err := s.acknowledge(ctx, p); err != nil {
		return err
	}
	s.presence.ready(ctx)
	defer s.presence.begin(ctx, p.who.User, p.device, p.presence)()
	body, err := s.wait(ctx, p)
	if err != nil {
		return err
	}
	err = s.send(ctx, w, p, body)
	if body.json != nil {
		recycle(body.json)
	}
	s.observe(ctx, p)
	return err
}

// delivered notes an event that goes into the answer.
func (p *poll) delivered(e *entry) {
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
func (s *Service) observe(ctx context.Context, p *poll) {
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

func (s *Service) parsePoll(r *http.Request) (*poll, error) {
	who := session.From(r)
	q := r.URL.Query()
	p := &poll{who: who, device: who.Device, woken: make(chan struct{}, 1), presence: q.Get("set_presence")}
	var err error
	if p.fullState, err = boolParam(q.Get("full_state"), "full_state"); err != nil {
		return nil, err
	}
	if p.stateAfter, err = boolParam(q.Get("use_state_after"), "use_state_after"); err != nil {
		return nil, err
	}
	if name := "org.matrix.msc4222.use_state_after"; !p.stateAfter {
		if p.unstable, err = boolParam(q.Get(name), name); err != nil {
			return nil, err
		}
		p.stateAfter = p.unstable
	}
	switch p.presence {
	case "", "online", "offline", "unavailable":
	default:
		return nil, merr.InvalidParam("set_presence is not one of offline, online, unavailable")
	}
	if t := q.Get("timeout"); t != "" {
		ms, err := strconv.ParseInt(t, 10, 64)
		if err != nil || ms < 0 {
			return nil, merr.InvalidParam("timeout is not a number of milliseconds")
		}
		p.timeout = min(time.Duration(min(ms, int64(maxTimeout/time.Millisecond)))*time.Millisecond, maxTimeout)
	}
	if t := q.Get("since"); t != "" {
		since, err := token.ParseSync(t, who.User)
		if err != nil {
			return nil, merr.InvalidParam("since: " + err.Error())
		}
		p.since, p.sinceText = &since, t
	}
	if p.filter, err = s.filterOf(r.Context(), who.User, q.Get("filter")); err != nil {
		return nil, err
	}
	return p, nil
}

func boolParam(v, name string) (bool, error) {
	switch v {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	}
	return false, merr.InvalidParam(name + " is neither true nor false")
}

// noFilter lets everything pass.
var noFilter = new(filter)

// filterOf returns an inline filter, or one that the client has stored.
func (s *Service) filterOf(ctx context.Context, user id.User, param string) (*filter, error) {
	if param == "" {
		return noFilter, nil
	}
	if param[0] == '{' {
		return s.filters.parse(param)
	}
	n, err := strconv.ParseInt(param, 10, 64)
	if err != nil {
		return nil, merr.InvalidParam("filter is neither JSON nor the id of a filter")
	}
	return s.filters.get(ctx, user, n)
}

// wait answers as soon as there is something, or when the time is over. The token of an empty answer is as good as any:
// nothing between the two concerns the user.
func (s *Service) wait(ctx context.Context, p *poll) (*body, error) {
	deadline := time.Now().Add(p.timeout)
	if p.timeout == 0 || p.since == nil || p.fullState {
		// Who does not wait is told what PostgreSQL knows now, even if the bus is late with it or has lost it.
		if _, err := s.seqs.newer(ctx, p.user); err != nil {
			return nil, err
		}
	}
	var timer *time.Timer
	for first := true; ; first = false {
		if err := s.users.refresh(ctx, p.user); err != nil {
			return nil, err
		}
		a, err := s.answer(ctx, p)
		if err != nil {
			return nil, err
		}
		left := time.Until(deadline)
		if !a.empty() || p.since == nil || p.fullState || left <= 0 || s.draining() {
			return a.encode(), nil
		}
		if first {
			s.seqs.soon(p.user)
			timer = time.NewTimer(left)
			defer timer.Stop()
		}
		if p.waited == 0 {
			p.waited = time.Now().UnixMicro()
		}
		s.metrics.open.Inc()
		select {
		case <-p.woken:
		case <-timer.C:
		case <-s.drain:
		case <-ctx.Done():
			s.metrics.open.Dec()
			return nil, ctx.Err()
		}
		s.metrics.open.Dec()
	}
}

// checkToken refuses tokens of the future, and waits for what this worker has not seen yet.
func (s *Service) checkToken(ctx context.Context, p *poll) error {
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
			return merr.InvalidParam("since: partition")
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

var errFuture = merr.InvalidParam("since: this token lies in the future")

// acknowledge deletes the to-device messages that the token proves to have arrived.
func (s *Service) acknowledge(ctx context.Context, p *poll) error {
	if p.since == nil || p.device == "" || !p.user.acknowledge(p.device, p.since.DeviceSeq()) {
		return nil
	}
	_, err := s.userdb.AckToDevice(ctx, p.who.User, p.device, p.since.DeviceSeq())
	return err
}
