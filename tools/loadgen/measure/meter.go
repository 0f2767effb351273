package measure

import (
	"context"
	"fmt"
	"math"
	"syscall"
	"time"
)

// Meter measures what work costs a server.
type Meter struct {
	Target   Target
	Postgres []string // connection strings of the databases whose counters to read
	Metrics  []string // URLs of the server's Prometheus metrics, for Ratios
	Ratios   []Ratio
	// QuietTimeout is how long to wait for the server to be quiet; 0 means 30 s.
	QuietTimeout time.Duration
}

// Usage is what a piece of work cost. CPU times are in seconds, and include the
// work that the server goes on with after its last answer.
type Usage struct {
	CPU        float64            `json:"cpu_seconds"`         // until quiet
	CPUDuring  float64            `json:"cpu_during_seconds"`  // until the last answer
	CPUByName  map[string]float64 `json:"cpu_seconds_by_name"` // of CPU, by name of process
	IdleRate   float64            `json:"idle_cpu_per_second"` // before the work; not subtracted
	QuietAfter float64            `json:"quiet_after_seconds"` // after the last answer
	Quiet      bool               `json:"quiet"`               // false: still busy at the time limit
	Before     Memory             `json:"memory_before"`       // of a quiet server
	After      Memory             `json:"memory_after"`        // of a quiet server
	ClientCPU  float64            `json:"client_cpu_seconds"`  // this process's own
	Postgres   *Postgres          `json:"postgres,omitempty"`  // nil: not asked for
	Ratios     map[string]float64 `json:"ratios,omitempty"`    // of the server's counters, by name
	Watched    bool               `json:"processes_watched"`   // false: only ClientCPU and Postgres are meaningful
}

// Span is a measurement under way.
type Span struct {
	m        *Meter
	start    map[string]time.Duration
	client   time.Duration
	postgres *Postgres
	counters map[string]float64
	usage    Usage
}

const (
	window = 500 * time.Millisecond // of the look for quiet
	// quietRate is the CPU, in cores, that a quiet server may use beyond what it
	// used before the work; two ticks in a window are noise.
	quietRate = 0.04
)

// Start waits until the server is quiet and begins to measure.
func (m *Meter) Start(ctx context.Context) (*Span, error) {
	s := &Span{m: m}
	if !m.Target.Empty() {
		s.usage.Watched = true
		rate, err := m.settle(ctx)
		if err != nil {
			return nil, err
		}
		s.usage.IdleRate = rate
		if s.usage.Before, err = m.Target.Memory(); err != nil {
			return nil, err
		}
	}
	var err error
	if s.postgres, err = m.readPostgres(ctx); err != nil {
		return nil, err
	}
	if s.counters, err = m.readCounters(ctx); err != nil {
		return nil, err
	}
	if !m.Target.Empty() {
		if s.start, err = m.Target.CPU(); err != nil {
			return nil, err
		}
	}
	s.client, err = clientCPU()
	return s, err
}

// settle waits for two windows in a row that are idle, or as busy as the one
// before (a server that hums), or for the time limit.
func (m *Meter) settle(ctx context.Context) (float64, error) {
	deadline := time.Now().Add(m.limit())
	calm, prev := 0, math.Inf(1)
	for {
		rate, err := m.rate(ctx)
		if err != nil {
			return 0, err
		}
		if rate <= quietRate || math.Abs(rate-prev) <= quietRate/2 {
			calm++
		} else {
			calm = 0
		}
		prev = rate
		if calm == 2 || time.Now().After(deadline) {
			return rate, nil
		}
	}
}

func (m *Meter) limit() time.Duration {
	if m.QuietTimeout == 0 {
		return 30 * time.Second
	}
	return m.QuietTimeout
}

// rate is the CPU used in one window, in cores.
func (m *Meter) rate(ctx context.Context) (float64, error) {
	a, err := m.Target.CPU()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	t := time.NewTimer(window)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-t.C:
	}
	b, err := m.Target.CPU()
	if err != nil {
		return 0, err
	}
	return float64(total(b)-total(a)) / float64(time.Since(began)), nil
}

// Stop ends the measurement: it takes the CPU time now, waits until the server is
// quiet, and takes it again.
func (s *Span) Stop(ctx context.Context) (*Usage, error) {
	client, err := clientCPU()
	if err != nil {
		return nil, err
	}
	s.usage.ClientCPU = (client - s.client).Seconds()
	if s.usage.Watched {
		if err := s.untilQuiet(ctx); err != nil {
			return nil, err
		}
	}
	after, err := s.m.readPostgres(ctx)
	if err != nil {
		return nil, err
	}
	if after != nil {
		s.usage.Postgres = after.since(s.postgres)
	}
	counters, err := s.m.readCounters(ctx)
	if err != nil {
		return nil, err
	}
	s.usage.Ratios = s.m.ratios(s.counters, counters)
	return &s.usage, nil
}

func (s *Span) untilQuiet(ctx context.Context) error {
	now, err := s.m.Target.CPU()
	if err != nil {
		return err
	}
	s.usage.CPUDuring = (total(now) - total(s.start)).Seconds()
	ended := time.Now()
	for calm := 0; calm < 2; {
		rate, err := s.m.rate(ctx)
		if err != nil {
			return err
		}
		calm++
		if rate > s.usage.IdleRate+quietRate {
			calm = 0
			s.usage.QuietAfter = time.Since(ended).Seconds()
			if time.Since(ended) > s.m.limit() {
				break
			}
		}
		s.usage.Quiet = calm == 2
	}
	end, err := s.m.Target.CPU()
	if err != nil {
		return err
	}
	s.usage.CPU = (total(end) - total(s.start)).Seconds()
	s.usage.CPUByName = map[string]float64{}
	for name, d := range end {
		if used := (d - s.start[name]).Seconds(); used > 0 {
			s.usage.CPUByName[name] = used
		}
	}
	s.usage.After, err = s.m.Target.Memory()
	return err
}

// clientCPU is the CPU time of this process.
func clientCPU() (time.Duration, error) {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		return 0, fmt.Errorf("getrusage: %w", err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano()), nil
}
