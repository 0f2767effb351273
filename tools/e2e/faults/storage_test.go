package faults

import (
	"fmt"
	"testing"
)

// Each shard of PostgreSQL is restarted, cleanly and as after a crash.
func TestPostgresRestarted(t *testing.T) {
	l := newLoad(t, 4, 8, 0, stubborn)
	for _, crash := range []bool{false, true} {
		for shard := range shared.Shards() {
			l.more(50)
			l.strike(fmt.Sprintf("restart shard %d, crash %t", shard, crash), func() error { return shared.RestartPostgres(t.Context(), shard, crash) })
		}
	}
	l.settle()
}

// NATS is stopped, loses all its data, and comes back. Writing and reading go on without it.
func TestNATSWiped(t *testing.T) {
	l := newLoad(t, 4, 8, 0, stubborn)
	l.more(50)
	l.strike("wipe NATS", shared.WipeNATS)
	_, _, before := l.traffic.Counts()
	until(t, "deliveries without NATS", func() error {
		if _, _, delivered := l.traffic.Counts(); delivered < before+200 {
			return fmt.Errorf("%d", delivered-before)
		}
		return nil
	})
	l.strike("start NATS", func() error { return shared.StartNATS(t.Context()) })
	l.more(50)
	l.settle()
}

// Redis loses everything.
func TestRedisFlushed(t *testing.T) {
	l := newLoad(t, 4, 8, 0, stubborn)
	for range 3 {
		l.more(50)
		l.strike("flush Redis", func() error { return shared.FlushRedis(t.Context()) })
	}
	l.settle()
}
