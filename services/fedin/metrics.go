package fedin

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	requests     *prometheus.CounterVec
	pdus         *prometheus.CounterVec
	edus         *prometheus.CounterVec
	transactions *prometheus.CounterVec
	duration     prometheus.Histogram
	underWay     prometheus.Gauge
	cutLists     prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hanse_fedin_requests_total",
			Help: "Signed requests of other servers, by what became of their signature."}, []string{"result"}),
		pdus: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hanse_fedin_pdus_total",
			Help: "PDUs of transactions by result."}, []string{"result"}),
		edus: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hanse_fedin_edus_total",
			Help: "EDUs of transactions by type and result."}, []string{"type", "result"}),
		transactions: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hanse_fedin_transactions_total",
			Help: "Transactions by result."}, []string{"result"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "hanse_fedin_transaction_seconds",
			Help: "Time from having read a transaction to its answer.", Buckets: prometheus.ExponentialBuckets(0.002, 2.5, 14)}),
		underWay: prometheus.NewGauge(prometheus.GaugeOpts{Name: "hanse_fedin_transactions_under_way",
			Help: "Transactions that are being worked on."}),
		cutLists: prometheus.NewCounter(prometheus.CounterOpts{Name: "hanse_fedin_device_lists_cut_total",
			Help: "Times that a server shared more rooms with us than are told of changed devices."}),
	}
	if r != nil {
		r.MustRegister(m.requests, m.pdus, m.edus, m.transactions, m.duration, m.underWay, m.cutLists)
	}
	return m
}
