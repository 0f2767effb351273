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
	slots := rt.busy
	if route.long {
		slots = rt.polls
	}
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	default:
		rt.metrics.refused.Inc()
		_ = merr.WriteHTTP(w, merr.LimitExceeded(1000))
		route.metric.observe(w.status, start, route.long)
		return
	}
	s := &state{route: route, names: l.names, values: values, w: w}
	s.client = clientAddr(r, rt.cfg.TrustedProxies)
	r = withState(r, s)
	var span trace.Span
	if rt.cfg.Tracer != nil {
		r, span = rt.startSpan(r, route)
	}
	route.metric.inFlight.Inc()
	defer func() {
		if v := recover(); v != nil {
			if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				route.metric.inFlight.Dec()
				panic(v)
			}
			rt.panicked(w, r, v)
		}
		route.metric.inFlight.Dec()
		route.metric.observe(w.status, start, route.long)
		if span != nil {
			endSpan(span, w.status)
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
	gone := r.Context().Err() != nil
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

// writeTimeout bounds the sending of an answer, from its first byte.
const writeTimeout = 60 * time.Second

// response knows whether the answer has begun, and gives its sending a deadline. Long polls have
// none while they wait.
type response struct {
	http.ResponseWriter
	status int
	head   bool
}

// WriteHeader implements http.ResponseWriter.
func (w *response) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
		// An error means that the connection cannot have deadlines, as in tests.
		_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(writeTimeout))
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer.
func (w *response) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(b)
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
