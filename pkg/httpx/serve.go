package httpx

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"hanse/pkg/merr"
)

// The recommended headers of the client-server API, "Web browser clients".
const (
	corsMethods = "GET, POST, PUT, DELETE, OPTIONS"
	corsHeaders = "X-Requested-With, Content-Type, Authorization"
)

// ServeHTTP implements http.Handler.
func (rt *Router) ServeHTTP(hw http.ResponseWriter, r *http.Request) {
	start := time.Now()
	if rt.cfg.CORS {
		h := hw.Header()
		h["Access-Control-Allow-Origin"] = corsOriginValue
		h["Access-Control-Allow-Methods"] = corsMethodsValue
		h["Access-Control-Allow-Headers"] = corsHeadersValue
		if r.Method == http.MethodOptions {
			hw.WriteHeader(http.StatusNoContent)
			return
		}
	}
	w := &response{ResponseWriter: hw, head: r.Method == http.MethodHead}
	l, values, notFound := rt.match(r)
	if notFound != nil {
		_ = merr.WriteHTTP(w, notFound)
		rt.metrics.unmatched.observe(w.status, start, false)
		return
	}
	route := l.route
	s := &state{route: route, names: l.names, values: values, w: w, intake: rt.cfg.Intake, slots: rt.busy, refused: rt.metrics.refused}
	if route.long {
		s.slots = rt.polls
	}
	s.client = clientAddr(r, rt.cfg.TrustedProxies)
	r = withState(r, s)
	if err := s.takeSlot(); err != nil {
		_ = merr.WriteHTTP(w, err)
		route.metric.observe(w.status, start, route.long)
		return
	}
	defer s.release()
	var span trace.Span
	if rt.cfg.Tracer != nil {
		r, span = rt.startSpan(r, route)
	}
	route.metric.inFlight.Inc()
	defer func() {
		v := recover()
		err, _ := v.(error)
		aborted := errors.Is(err, http.ErrAbortHandler)
		if v != nil && !aborted {
			rt.panicked(w, r, v)
		}
		route.metric.inFlight.Dec()
		route.metric.observe(w.status, start, route.long)
		if span != nil {
			endSpan(span, w.status)
		}
		if aborted || w.status == statusClientGone {
			// Nobody takes what was not sent for an empty answer.
			panic(http.ErrAbortHandler)
		}
	}()
	if err := route.handler(w, r); err != nil {
		rt.fail(w, r, err)
	}
}

var (
	corsOriginValue  = []string{"*"}
	corsMethodsValue = []string{corsMethods}
	corsHeadersValue = []string{corsHeaders}
)

// fail answers with an error, and logs those that are ours.
func (rt *Router) fail(w *response, r *http.Request, err error) {
	e := errorOf(err)
	// A body that comes too slowly ends the request's context, too, but its sender waits for the answer.
	gone := r.Context().Err() != nil && !stateOf(r).bodyFailed.Load()
	if e.Status >= http.StatusInternalServerError && !gone {
		rt.cfg.Log.ErrorContext(r.Context(), "request failed", "method", r.Method,
			"route", stateOf(r).route.pattern, "status", e.Status, "err", err)
	}
	if w.status != 0 {
		return // the answer is under way; the peer sees it cut short
	}
	if gone {
		w.status = statusClientGone
		return
	}
	_ = merr.WriteHTTP(w, e)
}

// statusClientGone is what metrics show for a client that did not wait for the answer.
const statusClientGone = 499

func (rt *Router) panicked(w *response, r *http.Request, v any) {
	rt.metrics.panics.Inc()
	rt.cfg.Log.ErrorContext(r.Context(), "panic in handler", "method", r.Method,
		"route", stateOf(r).route.pattern, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
	if w.status == 0 {
		_ = merr.WriteHTTP(w, merr.Unknown("Internal server error"))
	}
}

func (rt *Router) startSpan(r *http.Request, route *Route) (*http.Request, trace.Span) {
	ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	ctx, span := rt.cfg.Tracer.Start(ctx, r.Method+" "+route.pattern, trace.WithSpanKind(trace.SpanKindServer))
	return r.WithContext(ctx), span
}

func endSpan(span trace.Span, status int) {
	span.SetAttributes(attribute.Int("http.response.status_code", status))
	if status >= http.StatusInternalServerError {
		span.SetStatus(codes.Error, http.StatusText(status))
	}
	span.End()
}

const (
	// writeTimeout bounds the sending of each writeStep of an answer: it is cut off when its reader makes no progress.
	writeTimeout = 60 * time.Second
	writeStep    = 256 << 10
)

// response knows whether the answer has begun, and gives its sending a deadline that moves with it. Long polls have none
// while they wait.
type response struct {
	http.ResponseWriter
	status int
	head   bool
}

// WriteHeader implements http.ResponseWriter.
func (w *response) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
		w.progress()
	}
	w.ResponseWriter.WriteHeader(status)
}

// progress gives the next step of the answer its time.
func (w *response) progress() {
	// An error means that the connection cannot have deadlines, as in tests.
	_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(writeTimeout))
}

// Write implements io.Writer.
func (w *response) Write(b []byte) (n int, err error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	for {
		w.progress()
		sent, err := w.ResponseWriter.Write(b[:min(len(b), writeStep)])
		n += sent
		if b = b[sent:]; err != nil || len(b) == 0 {
			return n, err
		}
	}
}

// Unwrap lets http.ResponseController reach the connection.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Flush implements http.Flusher.
func (w *response) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }

// DetachedContext is for work that must go on when the client hangs up: a write that has begun. It
// keeps the values (trace) and gets a deadline of its own.
func DetachedContext(r *http.Request, timeout time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(r.Context()), timeout)
}
