package partition

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

type ownerMetrics struct {
	owned     prometheus.Gauge
	takeovers prometheus.Counter
	failures  prometheus.Counter
	seconds   prometheus.Histogram
	epochs    *prometheus.GaugeVec
}

func newOwnerMetrics(reg prometheus.Registerer) ownerMetrics {
	m := ownerMetrics{
		owned:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "hanse_partitions_owned", Help: "Partitions that this worker serves."}),
		takeovers: prometheus.NewCounter(prometheus.CounterOpts{Name: "hanse_partition_takeovers_total", Help: "Partitions acquired."}),
		failures:  prometheus.NewCounter(prometheus.CounterOpts{Name: "hanse_partition_takeover_failures_total", Help: "Takeovers that failed."}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "hanse_partition_takeover_seconds",
			Help: "Duration of a takeover.", Buckets: []float64{.001, .005, .01, .05, .1, .5, 1, 5}}),
		epochs: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "hanse_partition_epoch", Help: "Epoch of the partitions served here."},
			[]string{"part"}),
	}
	if reg != nil {
		for _, c := range []prometheus.Collector{m.owned, m.takeovers, m.failures, m.seconds, m.epochs} {
			_ = reg.Register(c) // a second owner in one process exists in tests only
		}
	}
	return m
}

// epoch shows the epoch of a partition, or nothing once it is lost.
func (m ownerMetrics) epoch(part uint32, epoch int64) {
	label := strconv.FormatUint(uint64(part), 10)
	if epoch == 0 {
		m.epochs.DeleteLabelValues(label)
		return
	}
	m.epochs.WithLabelValues(label).Set(float64(epoch))
}
