package fedout

import (
	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/metric"
)

type metrics struct {
	keys         *prometheus.CounterVec
	transactions *prometheus.CounterVec
	seconds      prometheus.Histogram
	pdus         *prometheus.CounterVec
	edus         *prometheus.CounterVec
	refused      *prometheus.CounterVec
	delay        prometheus.Histogram
	dests        *prometheus.GaugeVec
	backlog      *prometheus.GaugeVec
	queueBytes   prometheus.Gauge
	overflows    prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return metric.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels))
	}
	return &metrics{
		keys:         counter("hanse_fedout_key_fetches_total", "Requests for verify keys of other servers, by whom was asked and result.", "from", "result"),
		transactions: counter("hanse_fedout_transactions_total", "Transactions to other servers, by result: ok, failed, refused (by the receiver).", "result"),
		pdus:         counter("hanse_fedout_pdus_total", "Events sent, by result: ok, error (of the receiver, for this event).", "result"),
		edus:         counter("hanse_fedout_edus_total", "EDUs sent, by type.", "type"),
		refused:      counter("hanse_fedout_refused_total", "Events and EDUs that a server refused for good and does not get any more, by kind: event, edu.", "kind"),
		seconds: metric.Register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{Name: "hanse_fedout_transaction_seconds",
			Help: "Duration of transactions that were acknowledged.", Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}})),
		delay: metric.Register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{Name: "hanse_fedout_delivery_seconds",
			Help:    "From an event's origin_server_ts to its acknowledgement, for destinations that keep up.",
			Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}})),
		dests: metric.Register(reg, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "hanse_fedout_destinations",
			Help: "Destinations with something to send, by state: healthy, behind, backing_off."}, []string{"state"})),
		backlog: metric.Register(reg, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "hanse_fedout_backlog",
			Help: "What waits: queued entries (healthy), log partitions to read (behind, backing_off)."}, []string{"state"})),
		queueBytes: metric.Register(reg, prometheus.NewGauge(prometheus.GaugeOpts{Name: "hanse_fedout_queue_bytes",
			Help: "Memory of what waits for destinations that keep up."})),
		overflows: metric.Register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "hanse_fedout_overflows_total",
			Help: "Times that a destination's queue was full and it was sent to the log instead."})),
	}
}
