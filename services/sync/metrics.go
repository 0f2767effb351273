package sync

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	reg      prometheus.Registerer
	open     prometheus.Gauge
	dead     prometheus.Counter
	delivery prometheus.Histogram

	connsRead, connsWritten prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	if reg == nil {
		reg = prometheus.NewRegistry()
	}
	m := &metrics{
		reg:  reg,
		open: prometheus.NewGauge(prometheus.GaugeOpts{Name: "hanse_sync_open_polls", Help: "Long polls that wait."}),
		dead: prometheus.NewCounter(prometheus.CounterOpts{Name: "hanse_sync_dead_letters_total", Help: "Log entries that could not be processed."}),
		connsRead: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hanse_sync_sliding_reads_total", Help: "Connections of sliding sync that were read from PostgreSQL.",
		}),
		connsWritten: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hanse_sync_sliding_writes_total", Help: "Connections of sliding sync that were written to PostgreSQL.",
		}),
		delivery: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "hanse_sync_delivery_seconds", Help: "From the commit of an event to the answer that tells a client of it.",
			Buckets: []float64{.001, .0025, .005, .01, .02, .05, .1, .25, 1, 5},
		}),
	}
	reg.MustRegister(m.open, m.dead, m.delivery, m.connsRead, m.connsWritten)
	return m
}

// observe adds what is read when it is asked for.
func (m *metrics) observe(s *Service) {
	gauge := func(name, help string, f func() float64) {
		m.reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f))
	}
	gauge("hanse_sync_tail_bytes", "Recent room log in memory.", func() float64 { return float64(s.tail.bytes()) })
	gauge("hanse_sync_presence_users", "Users whose presence is known.", func() float64 { return float64(s.presence.known()) })
	gauge("hanse_sync_users", "Users in memory.", func() float64 { held, _ := s.users.connected(); return float64(held) })
}
