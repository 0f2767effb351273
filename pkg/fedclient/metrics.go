package fedclient

import (
	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/metric"
)

type metrics struct {
	routes    *prometheus.CounterVec
	wellKnown *prometheus.CounterVec
	dials     *prometheus.CounterVec
	requests  *prometheus.CounterVec
	seconds   prometheus.Histogram
	// handshakes wait for a processor.
	handshakes prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	return &metrics{
		routes: metric.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hanse_fedout_discovery_total",
			Help: "Look-ups of where a server name leads, by whether the cache had it."}, []string{"cache"})),
		wellKnown: metric.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hanse_fedout_well_known_total",
			Help: "Requests for .well-known/matrix/server, by result."}, []string{"result"})),
		dials: metric.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hanse_fedout_dials_total",
			Help: "Connections to other servers, by result: ok, failed, refused (by the address rule)."}, []string{"result"})),
		handshakes: metric.Register(reg, prometheus.NewGauge(prometheus.GaugeOpts{Name: "hanse_fedout_handshakes_waiting",
			Help: "TLS handshakes with other servers that wait for a processor, not for the other side."})),
		requests: metric.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hanse_fedout_requests_total",
			Help: "Requests to other servers, by class of status; failed if there was no answer."}, []string{"status"})),
		seconds: metric.Register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{Name: "hanse_fedout_request_seconds",
			Help: "From the request to the header of the answer.", Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}})),
	}
}
