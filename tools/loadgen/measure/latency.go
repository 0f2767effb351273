package measure

import (
	"slices"
	"sync"
	"time"
)

// Recorder collects durations, concurrently. All are kept: percentiles are exact.
type Recorder struct {
	mu  sync.Mutex
	all []time.Duration
}

// Add records one duration.
func (r *Recorder) Add(d time.Duration) {
	r.mu.Lock()
	r.all = append(r.all, d)
	r.mu.Unlock()
}

// Include adds what another recorder has collected.
func (r *Recorder) Include(o *Recorder) {
	o.mu.Lock()
	all := slices.Clone(o.all)
	o.mu.Unlock()
	r.mu.Lock()
	r.all = append(r.all, all...)
	r.mu.Unlock()
}

// Latency summarises durations, in milliseconds.
type Latency struct {
	Name  string  `json:"name"`
	Count int     `json:"count"`
	Mean  float64 `json:"mean_ms"`
	P50   float64 `json:"p50_ms"`
	P90   float64 `json:"p90_ms"`
	P99   float64 `json:"p99_ms"`
	Max   float64 `json:"max_ms"`
}

// Summary is the distribution of what was recorded so far.
func (r *Recorder) Summary(name string) Latency {
	r.mu.Lock()
	s := slices.Clone(r.all)
	r.mu.Unlock()
	l := Latency{Name: name, Count: len(s)}
	if len(s) == 0 {
		return l
	}
	slices.Sort(s)
	var sum time.Duration
	for _, d := range s {
		sum += d
	}
	l.Mean = ms(sum) / float64(len(s))
	l.P50, l.P90, l.P99, l.Max = ms(rank(s, 50)), ms(rank(s, 90)), ms(rank(s, 99)), ms(s[len(s)-1])
	return l
}

// rank is the smallest value that is at least as large as p per cent of them.
func rank(sorted []time.Duration, p int) time.Duration {
	i := (len(sorted)*p + 99) / 100
	return sorted[max(i, 1)-1]
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
