package bus

import (
	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/metric"
)

type metrics struct {
	connected  prometheus.Gauge
	reconnects prometheus.Counter
	dropped    prometheus.Counter
	published  *prometheus.CounterVec
	failed     *prometheus.CounterVec

	lag       *prometheus.GaugeVec
	delivered *prometheus.CounterVec
	filled    *prometheus.CounterVec
	gaps      *prometheus.CounterVec
	retries   *prometheus.CounterVec
	dead      *prometheus.CounterVec
	latency   *prometheus.HistogramVec
	polling   *prometheus.GaugeVec
	headReads *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return metric.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels))
	}
	return &metrics{
		connected:  metric.Register(reg, prometheus.NewGauge(prometheus.GaugeOpts{Name: "hanse_bus_connected", Help: "1 if NATS answers."})),
		reconnects: metric.Register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "hanse_bus_connects_total", Help: "Connections made to NATS."})),
		dropped: metric.Register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "hanse_bus_slow_consumer_total",
			Help: "Times that a subscription's queue was full and dropped messages."})),
		published: counter("hanse_bus_published_total", "Messages published.", "kind"),
		failed:    counter("hanse_bus_publish_errors_total", "Messages that could not be published; readers find them in PostgreSQL.", "kind"),
		lag: metric.Register(reg, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "hanse_log_lag_entries",
			Help: "Entries known to exist and not yet handled, over all partitions."}, []string{"consumer"})),
		delivered: counter("hanse_log_delivered_total", "Log entries handled.", "consumer"),
		filled:    counter("hanse_log_filled_total", "Log entries that were read from PostgreSQL.", "consumer"),
		gaps:      counter("hanse_log_gaps_total", "Gaps found in the bus.", "consumer"),
		retries:   counter("hanse_log_retries_total", "Failed attempts to handle or to read log entries.", "consumer"),
		dead:      counter("hanse_log_dead_letters_total", "Log entries given to the dead-letter hook.", "consumer"),
		polling: metric.Register(reg, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "hanse_log_polling",
			Help: "1 while PostgreSQL is asked for new entries several times a second, since the bus is away or loses them."}, []string{"consumer"})),
		headReads: counter("hanse_log_head_reads_total", "Times that the heads of all partitions were read from PostgreSQL.", "consumer"),
		latency: metric.Register(reg, prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "hanse_log_delivery_seconds",
			Help:    "From the commit to the end of handling, for entries that came over the bus.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .25, 1, 5}}, []string{"consumer"})),
	}
}
