package pg

import (
	"strconv"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
)

// Collector reports the connection pools, by shard.
func (s *Shards) Collector() prometheus.Collector { return poolCollector{s.pools} }

type poolCollector struct{ pools []*pgxpool.Pool }

var (
	descConns = prometheus.NewDesc("hanse_postgres_connections", "Connections to PostgreSQL, by what they do.",
		[]string{"shard", "state"}, nil)
	descWaits = prometheus.NewDesc("hanse_postgres_acquire_waits_total", "Requests that had to wait for a connection.",
		[]string{"shard"}, nil)
	descWaited = prometheus.NewDesc("hanse_postgres_acquire_wait_seconds_total", "Time that requests waited for connections.",
		[]string{"shard"}, nil)
	descOpened = prometheus.NewDesc("hanse_postgres_connects_total", "Connections opened.", []string{"shard"}, nil)
)

// Describe implements prometheus.Collector.
func (c poolCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descConns, descWaits, descWaited, descOpened} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c poolCollector) Collect(ch chan<- prometheus.Metric) {
	for i, pool := range c.pools {
		shard, st := strconv.Itoa(i), pool.Stat()
		gauge := func(state string, n int32) {
			ch <- prometheus.MustNewConstMetric(descConns, prometheus.GaugeValue, float64(n), shard, state)
		}
		gauge("busy", st.AcquiredConns())
		gauge("idle", st.IdleConns())
		gauge("opening", st.ConstructingConns())
		ch <- prometheus.MustNewConstMetric(descWaits, prometheus.CounterValue, float64(st.EmptyAcquireCount()), shard)
		ch <- prometheus.MustNewConstMetric(descWaited, prometheus.CounterValue, st.EmptyAcquireWaitTime().Seconds(), shard)
		ch <- prometheus.MustNewConstMetric(descOpened, prometheus.CounterValue, float64(st.NewConnsCount()), shard)
	}
}
