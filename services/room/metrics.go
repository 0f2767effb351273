package room

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/metric"
)

type metrics struct {
	append  prometheus.Histogram
	events  prometheus.Histogram
	parts   prometheus.Histogram
	queued  prometheus.Gauge
	rooms   prometheus.Gauge
	unknown prometheus.Counter
	refused prometheus.Counter
	resolve prometheus.Histogram
	ingest  prometheus.Gauge
	pdus    *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	latency := []float64{.0005, .001, .002, .004, .008, .016, .032, .064, .125, .25, .5, 1, 2, 4}
	sizes := []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048}
	return &metrics{
		append:  metric.Register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{Name: "hanse_room_append_seconds", Help: "Duration of appends, from the first statement to the end of the commit.", Buckets: latency})),
		events:  metric.Register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{Name: "hanse_room_append_entries", Help: "Log entries per commit.", Buckets: sizes})),
		parts:   metric.Register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{Name: "hanse_room_append_partitions", Help: "Partitions per commit.", Buckets: sizes[:8]})),
		queued:  metric.Register(reg, prometheus.NewGauge(prometheus.GaugeOpts{Name: "hanse_room_queued_rows", Help: "Rows that wait for a commit, roughly."})),
		rooms:   metric.Register(reg, prometheus.NewGauge(prometheus.GaugeOpts{Name: "hanse_room_rooms", Help: "Rooms held in memory."})),
		unknown: metric.Register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "hanse_room_append_unknown_total", Help: "Appends whose outcome was unknown."})),
		refused: metric.Register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "hanse_room_append_refused_total", Help: "Changes that PostgreSQL refused, repeated requests among them."})),
		resolve: metric.Register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{Name: "hanse_room_resolve_seconds", Help: "Duration of state resolutions.", Buckets: latency})),
		ingest:  metric.Register(reg, prometheus.NewGauge(prometheus.GaugeOpts{Name: "hanse_room_ingest_queued", Help: "Events from other servers that wait to be processed."})),
		pdus:    metric.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hanse_room_received_events_total", Help: "Events from other servers by what became of them."}, []string{"outcome"})),
	}
}

func (m *metrics) committed(b *batch, took time.Duration) {
	m.append.Observe(took.Seconds())
	n := int64(0)
	for _, pb := range b.parts {
		n += pb.entries
	}
	m.events.Observe(float64(n))
	m.parts.Observe(float64(len(b.parts)))
}
