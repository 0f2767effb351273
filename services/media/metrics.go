package media

import (
	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/metric"
)

type metrics struct {
	bytes    *prometheus.CounterVec
	failures *prometheus.CounterVec
	removed  *prometheus.CounterVec
	scanned  *prometheus.CounterVec
	busy     *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	return &metrics{
		bytes: metric.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hanse_media_bytes_total",
			Help: "Bytes of media, by way: upload, download, federation (to other servers), remote (from other servers)."}, []string{"way"})),
		failures: metric.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hanse_media_failures_total",
			Help: "What failed although nobody did anything wrong, by what it was: store, sweep, eviction, retention, scanner."}, []string{"what"})),
		removed: metric.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hanse_media_removed_total",
			Help: "Media that were removed, by why: unfinished, evicted, retention, deleted."}, []string{"why"})),
		scanned: metric.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hanse_media_scanned_total",
			Help: "Files that the scanner has answered for, by its verdict: accept, reject."}, []string{"verdict"})),
		busy: metric.Register(reg, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "hanse_media_under_way",
			Help: "Requests under way, by what they do: upload, download."}, []string{"what"})),
	}
}
