package push

import (
	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/metric"
)

type metrics struct {
	requests *prometheus.CounterVec
	dropped  *prometheus.CounterVec
	delay    prometheus.Histogram
	underWay prometheus.Gauge
	paused   prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help, label string) *prometheus.CounterVec {
		return metric.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label}))
	}
	gauge := func(name, help string) prometheus.Gauge {
		return metric.Register(reg, prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help}))
	}
	return &metrics{
		requests: counter("hanse_push_requests_total", "Requests to push gateways, by result: ok, failed, rejected (the gateway does not know the pushkey any more), refused (an address that is not connected to).", "result"),
		dropped:  counter("hanse_push_dropped_total", "Notifications that were not sent, by why: collapsed (a newer one of the room waited for a gateway that failed), gone (read, redacted, left or too old meanwhile, or nothing that the user may see), refused (the gateway refused it three times, with a 4xx status other than 429).", "why"),
		delay: metric.Register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{Name: "hanse_push_delivery_seconds",
			Help: "From the evaluation of an event to the push gateway's answer.", Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 3600}})),
		underWay: gauge("hanse_push_under_way", "Requests to push gateways on their way."),
		paused:   gauge("hanse_push_gateways_paused", "Push gateways that failed and are not asked for a while."),
	}
}
