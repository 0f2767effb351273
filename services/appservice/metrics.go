package appservice

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/metric"
)

type metrics struct {
	transactions *prometheus.CounterVec
	answer       prometheus.Histogram
	size         prometheus.Histogram
	underWay     prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer, s *Service) *metrics {
	if reg != nil {
		reg.MustRegister(&standing{s})
	}
	return &metrics{
		transactions: metric.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hanse_appservice_transactions_total",
			Help: "Attempts to send a transaction to an application service, by result: ok, failed."}, []string{"result"})),
		answer: metric.Register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{Name: "hanse_appservice_answer_seconds",
			Help: "How long application services take to acknowledge a transaction.", Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}})),
		size: metric.Register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{Name: "hanse_appservice_transaction_bytes",
			Help: "Size of transactions to application services.", Buckets: []float64{1e3, 5e3, 2e4, 1e5, 3e5, 1e6}})),
		underWay: metric.Register(reg, prometheus.NewGauge(prometheus.GaugeOpts{Name: "hanse_appservice_under_way", Help: "Transactions on their way to application services."})),
	}
}

// standing tells where the services stand that are this worker's.
type standing struct{ s *Service }

var (
	lagDesc     = prometheus.NewDesc("hanse_appservice_lag_seconds", "How long the oldest event has waited that an application service lacks; 0 if it has all.", []string{"service"}, nil)
	failingDesc = prometheus.NewDesc("hanse_appservice_failing_seconds", "How long an application service has not taken a transaction that it was sent; 0 if it has.", []string{"service"}, nil)
	queuedDesc  = prometheus.NewDesc("hanse_appservice_queue_bytes", "What waits in memory for application services.", nil, nil)
)

// Describe implements prometheus.Collector.
func (c *standing) Describe(ch chan<- *prometheus.Desc) {
	ch <- lagDesc
	ch <- failingDesc
	ch <- queuedDesc
}

// Collect implements prometheus.Collector.
func (c *standing) Collect(ch chan<- prometheus.Metric) {
	now := time.Now()
	age := func(since time.Time) float64 {
		if since.IsZero() {
			return 0
		}
		return max(0, now.Sub(since).Seconds())
	}
	for _, b := range c.s.follow.All() {
		for _, one := range b.all() {
			one.mu.Lock()
			since, failing := one.since, one.health.since
			one.mu.Unlock()
			ch <- prometheus.MustNewConstMetric(lagDesc, prometheus.GaugeValue, age(since), one.id)
			ch <- prometheus.MustNewConstMetric(failingDesc, prometheus.GaugeValue, age(failing), one.id)
		}
	}
	ch <- prometheus.MustNewConstMetric(queuedDesc, prometheus.GaugeValue, float64(c.s.queued.Load()))
}
