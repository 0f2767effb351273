package partition

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/metric"
	"hanse/pkg/retries"
)

// heartbeats writes our entry every Beat, and when poked. A bucket that is missing is made again.
func (m *Members) heartbeats(ctx context.Context) {
	var kv jetstream.KeyValue
	beats := retries.Log{To: m.cfg.Log, What: "membership heartbeat"}
	for ctx.Err() == nil {
		err := m.beatOnce(ctx, &kv)
		if err != nil {
			kv = nil
		}
		if ctx.Err() == nil {
			beats.Note(err)
		}
		m.wait(ctx, m.cfg.Timing.Beat-m.cfg.Timing.Beat/10+rand.N(m.cfg.Timing.Beat/5), m.beat)
	}
}

func (m *Members) beatOnce(ctx context.Context, kv *jetstream.KeyValue) error {
	ctx, cancel := context.WithTimeout(ctx, max(m.cfg.Timing.Beat, time.Second))
	defer cancel()
	if *kv == nil {
		made, err := m.js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
			Bucket:      Bucket,
			Description: "workers of the cluster; may be wiped at any time",
			TTL:         m.cfg.Timing.TTL,
			Storage:     jetstream.MemoryStorage,
			Replicas:    max(m.cfg.Replicas, 1),
		})
		if err != nil {
			return fmt.Errorf("members bucket: %w", err)
		}
		*kv = made
		poke(m.rewind)
	}
	self := m.Self()
	data, err := json.Marshal(self)
	if err != nil {
		return err
	}
	if _, err := (*kv).Put(ctx, self.ID, data); err != nil {
		return fmt.Errorf("put: %w", err)
	}
	return nil
}

// watch follows the bucket. It starts over when the connection or the bucket was renewed, when the
// watcher ends, and when our own heartbeats do not come back.
func (m *Members) watch(ctx context.Context) {
	for ctx.Err() == nil {
		if err := m.watchOnce(ctx); err != nil && ctx.Err() == nil {
			m.cfg.Log.Debug("membership watch", "err", err)
			m.wait(ctx, m.cfg.Timing.Beat/2, m.rewind)
		}
	}
}

func (m *Members) watchOnce(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	kv, err := m.js.KeyValue(ctx, Bucket)
	if err != nil {
		return err
	}
	w, err := kv.WatchAll(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = w.Stop() }() // fails only if the connection or the bucket is gone
	silence := 3 * m.cfg.Timing.Beat
	t := time.NewTimer(silence)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.rewind:
			return nil
		case <-t.C:
			return fmt.Errorf("none of this worker's heartbeats came back for %s", silence)
		case e, ok := <-w.Updates():
			if !ok {
				return fmt.Errorf("watcher ended")
			}
			if e == nil {
				m.learn() // end of what was there before
				continue
			}
			m.apply(e)
			if e.Key() == m.cfg.Self.ID {
				t.Reset(silence)
			}
		}
	}
}

func (m *Members) wait(ctx context.Context, d time.Duration, early <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-early:
	case <-t.C:
	}
}

func gauge(reg prometheus.Registerer, name, help string) prometheus.Gauge {
	return metric.Register(reg, prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help}))
}
