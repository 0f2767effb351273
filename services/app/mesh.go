package app

import (
	"context"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/partition"
	"hanse/pkg/retries"
)

// mesh is whether this process can call other workers. A worker that can call none of those that are there, because its
// certificate or the network is not as it should be, is not ready: its requests would fail, and an upgrade must stop at it.
type mesh struct {
	members workers
	conns   reacher
	cut     atomic.Bool // no other worker could be reached for a while
	reached time.Time   // when one was reached, or there was none
	log     retries.Log
	lost    prometheus.Gauge
}

// workers are the members of the cluster (partition.Members).
type workers interface {
	All() []partition.Member
	Self() partition.Member
	Changed() <-chan struct{}
	Known() bool
}

// reacher calls a worker by address (grpcx.Conns).
type reacher interface {
	Reach(ctx context.Context, addr string) error
}

const (
	meshEvery    = 10 * time.Second // between two looks
	meshSample   = 3                // workers that are called in one
	meshCut      = 30 * time.Second // without reaching one: not ready
	meshPatience = 3 * time.Second  // for an answer
)

// meet waits until one of the workers that are ready has answered. It does not wait if there are none.
func (m *mesh) meet(ctx context.Context) error {
	for {
		changed := m.members.Changed()
		if m.members.Known() {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for {
		changed := m.members.Changed()
		others := m.others()
		if m.look(ctx, others) < len(others) || len(others) == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-time.After(time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Run looks at the mesh now and then, until the context ends.
func (m *mesh) Run(ctx context.Context) error {
	m.reached = time.Now()
	t := time.NewTicker(meshEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		others := m.others()
		lost := m.look(ctx, others)
		m.lost.Set(float64(lost))
		if lost < len(others) || len(others) == 0 {
			m.reached = time.Now()
		}
		m.cut.Store(time.Since(m.reached) > meshCut)
	}
}

// others returns some of the other workers that are ready and listen on a network.
func (m *mesh) others() []partition.Member {
	var ready []partition.Member
	self := m.members.Self().ID
	for _, w := range m.members.All() {
		if _, _, err := net.SplitHostPort(w.Addr); err == nil && w.ID != self && w.State == partition.Ready {
			ready = append(ready, w)
		}
	}
	rand.Shuffle(len(ready), func(i, j int) { ready[i], ready[j] = ready[j], ready[i] })
	return ready[:min(len(ready), meshSample)]
}

// look calls workers, and returns how many did not answer.
func (m *mesh) look(ctx context.Context, others []partition.Member) (lost int) {
	ctx, cancel := context.WithTimeout(ctx, meshPatience)
	defer cancel()
	errs := make(chan error, len(others))
	for _, w := range others {
		go func() { errs <- m.conns.Reach(ctx, w.Addr) }()
	}
	var last error
	for range others {
		if err := <-errs; err != nil {
			lost, last = lost+1, err
		}
	}
	if lost < len(others) {
		last = nil
	}
	m.log.Note(last)
	return lost
}
