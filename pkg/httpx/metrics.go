package httpx

import (
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/metric"
)

type metrics struct {
	requests  *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	inFlight  *prometheus.GaugeVec
	panics    prometheus.Counter
	refused   prometheus.Counter
	unmatched *routeMetrics
}

func newMetrics(reg prometheus.Registerer, api string) *metrics {
	labels := prometheus.Labels{"api": api}
	m := &metrics{
		requests: metric.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hanse_http_requests_total",
			Help: "Requests by route and status.", ConstLabels: labels}, []string{"method", "route", "status"})),
		seconds: metric.Register(reg, prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "hanse_http_seconds",
			Help: "Duration of requests, long polls apart.", ConstLabels: labels,
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5}}, []string{"method", "route"})),
		inFlight: metric.Register(reg, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "hanse_http_in_flight",
			Help: "Requests in progress.", ConstLabels: labels}, []string{"method", "route"})),
		panics: metric.Register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "hanse_http_panics_total",
			Help: "Panics in handlers.", ConstLabels: labels})),
		refused: metric.Register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "hanse_http_refused_total",
			Help: "Requests refused because too many were in progress.", ConstLabels: labels})),
	}
	m.unmatched = m.route("", "unmatched")
	return m
}

// routeMetrics are the metrics of one route, resolved once.
type routeMetrics struct {
	inFlight prometheus.Gauge
	seconds  prometheus.Observer
	requests *prometheus.CounterVec
	byStatus sync.Map // int → prometheus.Counter
	method   string
	pattern  string
}

func (m *metrics) route(method, pattern string) *routeMetrics {
	return &routeMetrics{method: method, pattern: pattern, requests: m.requests,
		inFlight: m.inFlight.WithLabelValues(method, pattern), seconds: m.seconds.WithLabelValues(method, pattern)}
}

func (m *routeMetrics) observe(status int, start time.Time, long bool) {
	if status == 0 {
		status = 200 // the handler wrote nothing, and net/http does
	}
	c, ok := m.byStatus.Load(status)
	if !ok {
		c, _ = m.byStatus.LoadOrStore(status, m.requests.WithLabelValues(m.method, m.pattern, strconv.Itoa(status)))
	}
	c.(prometheus.Counter).Inc()
	if !long {
		m.seconds.Observe(time.Since(start).Seconds())
	}
}
