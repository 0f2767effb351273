package room

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/metric"
	"hanse/pkg/resolve"
)

type metrics struct {
	append  prometheus.Histogram
	events  prometheus.Histogram
	rows    prometheus.Histogram
	parts   prometheus.Histogram
	queued  prometheus.Gauge
	rooms   prometheus.Gauge
	unknown prometheus.Counter
	refused prometheus.Counter
	resolve prometheus.Histogram

	conflicted, visited, loaded   prometheus.Histogram
	memo                          *prometheus.CounterVec
	waiting                       prometheus.Gauge
	overdrawn, tooLarge, unlocked prometheus.Counter
	collected, collectFailures    prometheus.Counter

	ingest prometheus.Gauge
	pdus   *prometheus.CounterVec

	partial      prometheus.Gauge
	fillSeconds  prometheus.Histogram
	fillEvents   prometheus.Counter
	fillFailures prometheus.Counter
	fillGuessed  prometheus.Counter

	told    prometheus.Counter
	reviews *prometheus.CounterVec
	joins   *prometheus.CounterVec
	// reviewed counts the events that reviews looked at.
	reviewed prometheus.Counter
	related  prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	latency := []float64{.0005, .001, .002, .004, .008, .016, .032, .064, .125, .25, .5, 1, 2, 4}
	sizes := []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048}
	sized := func(name, help string) prometheus.Histogram {
		return metric.Register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(1, 10, 8)}))
	}
	return &metrics{
		append:     metric.Register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{Name: "hanse_room_append_seconds", Help: "Duration of appends, from the first statement to the end of the commit.", Buckets: latency})),
		events:     metric.Register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{Name: "hanse_room_append_entries", Help: "Log entries per commit.", Buckets: sizes})),
		rows:       metric.Register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{Name: "hanse_room_append_rows", Help: "Rows per commit, roughly.", Buckets: sizes})),
		parts:      metric.Register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{Name: "hanse_room_append_partitions", Help: "Partitions per commit.", Buckets: sizes[:8]})),
		queued:     metric.Register(reg, prometheus.NewGauge(prometheus.GaugeOpts{Name: "hanse_room_queued_rows", Help: "Rows that wait for a commit, roughly."})),
		rooms:      metric.Register(reg, prometheus.NewGauge(prometheus.GaugeOpts{Name: "hanse_room_rooms", Help: "Rooms held in memory."})),
		unknown:    metric.Register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "hanse_room_append_unknown_total", Help: "Appends whose outcome was unknown."})),
		refused:    metric.Register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "hanse_room_append_refused_total", Help: "Changes that PostgreSQL refused, repeated requests among them."})),
		resolve:    metric.Register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{Name: "hanse_room_resolve_seconds", Help: "Duration of state resolutions.", Buckets: latency})),
		conflicted: sized("hanse_room_resolve_conflicted", "Keys of a resolution on which the states differ."),
		visited:    sized("hanse_room_resolve_visited", "Events and citations of the auth graph that a resolution visited."),
		loaded:     sized("hanse_room_resolve_loaded", "Events that a resolution read."),
		memo:       metric.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hanse_room_resolve_memo_total", Help: "Resolutions by who knew the result: room and redis did, none had to work it out."}, []string{"known"})),
		waiting:    metric.Register(reg, prometheus.NewGauge(prometheus.GaugeOpts{Name: "hanse_room_resolve_waiting", Help: "Resolutions that have not begun for lack of a processor."})),
		overdrawn:  metric.Register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "hanse_room_resolve_overdrawn_total", Help: "Events that waited because their room had used up its processor time for forks."})),
		tooLarge:   metric.Register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "hanse_room_resolve_too_large_total", Help: "Forks that were given up."})),
		collected:  metric.Register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "hanse_room_states_removed_total", Help: "States of rooms that were removed as nothing referred to them."})),
		unlocked:   metric.Register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "hanse_room_resolve_aside_total", Help: "Large forks that were resolved while their room went on."})),
		ingest:     metric.Register(reg, prometheus.NewGauge(prometheus.GaugeOpts{Name: "hanse_room_ingest_queued", Help: "Events from other servers that wait to be processed."})),
		pdus:       metric.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hanse_room_received_events_total", Help: "Events from other servers by what became of them."}, []string{"outcome"})),

		collectFailures: metric.Register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "hanse_room_collect_failures_total", Help: "Searches of a partition for states that nothing refers to that failed; they are made again."})),

		partial:      metric.Register(reg, prometheus.NewGauge(prometheus.GaugeOpts{Name: "hanse_room_partial_rooms", Help: "Rooms that were joined without their members, whose members are being fetched."})),
		fillSeconds:  metric.Register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{Name: "hanse_room_partial_seconds", Help: "Time until the state of a room that was joined without its members was whole, since the join or the takeover.", Buckets: []float64{.1, .5, 1, 5, 15, 60, 300, 900, 3600}})),
		fillEvents:   metric.Register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "hanse_room_partial_events_total", Help: "Events that were fetched for rooms that were joined without their members."})),
		fillGuessed:  metric.Register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "hanse_room_partial_guessed_total", Help: "Events of rooms that were joined without their members before which no server could tell the state: the state events among them were soft-failed."})),
		told:         metric.Register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "hanse_room_told_total", Help: "Events before which other servers told the state, as prev events were missing."})),
		reviews:      metric.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hanse_room_reviews_total", Help: "Events before which other servers had told the state, compared with their prev events once these were here: the state was the same, it was another and the events behind were judged again, or it stays as it was told as too many events follow."}, []string{"outcome"})),
		joins:        metric.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hanse_room_joins_compared_total", Help: "Joins over federation whose state, as one server told it, was compared with what others tell: it was the same, it was another and the events behind were judged again, nobody else could tell, it stays as by the others' the join would be refused, or as too many events follow."}, []string{"outcome"})),
		related:      metric.Register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "hanse_room_relations_filled_total", Help: "Relations of events that were written in the background: of events from before an upgrade, or that an owner of an older version appended."})),
		reviewed:     metric.Register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "hanse_room_reviewed_events_total", Help: "Events that were looked at because they may follow one before which another server told a wrong state."})),
		fillFailures: metric.Register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "hanse_room_partial_failures_total", Help: "Attempts to fetch the members of a room that failed; they are made again."})),
	}
}

func (m *metrics) resolved(stats resolve.Stats, took time.Duration) {
	m.resolve.Observe(took.Seconds())
	m.conflicted.Observe(float64(stats.Conflicted))
	m.visited.Observe(float64(stats.Visited))
	m.loaded.Observe(float64(stats.Loaded))
}

func (m *metrics) committed(b *batch, took time.Duration) {
	m.append.Observe(took.Seconds())
	n, rows := int64(0), 0
	for _, pb := range b.parts {
		n += pb.entries
	}
	for _, c := range b.changes {
		rows += c.weight()
	}
	m.events.Observe(float64(n))
	m.rows.Observe(float64(rows))
	m.parts.Observe(float64(len(b.parts)))
}
