package roomdb

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/authgraph"
	"hanse/pkg/bus"
	"hanse/pkg/cache"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/pg"
	"hanse/pkg/state"
	logv1 "hanse/proto/log/v1"
)

// ErrNotFound is returned for a room or an event that is not stored.
var ErrNotFound = errors.New("not found")

// Config is what an operator may set.
type Config struct {
	// EventCache is the budget of the event cache of a process, in bytes.
	EventCache int64 `koanf:"event_cache" yaml:"event_cache"`
	// GraphCache is the budget of the auth graphs of rooms, in bytes.
	GraphCache int64 `koanf:"graph_cache" yaml:"graph_cache"`
}

// DefaultConfig suits a small server.
func DefaultConfig() Config { return Config{EventCache: 32 << 20, GraphCache: authgraph.DefaultCache} }

// maxAge bounds for how long a redaction whose announcement was lost can go unnoticed.
const maxAge = time.Minute

// DB reads the rooms of a cluster. It is safe for concurrent use.
type DB struct {
	shards *pg.Shards
	states *state.Store
	events *cache.Cache[eventKey, *Event]
	metas  *cache.Cache[eventKey, *meta]
	graphs *authgraph.Store
	// forgotten counts what was forgotten: events that were read meanwhile may be what they were before.
	forgotten atomic.Uint64
}

type eventKey struct {
	part uint32
	nid  int64
}

// meta is what never changes of a room.
type meta struct {
	id    id.Room
	rules *roomversion.Rules
}

// Open returns a reader over the shards. Metrics may be nil.
func Open(shards *pg.Shards, states *state.Store, cfg Config, metrics prometheus.Registerer) *DB {
	return &DB{
		shards: shards,
		states: states,
		events: cache.New(cache.Config[eventKey, *Event]{
			Name: "event", Budget: cfg.EventCache, MaxAge: maxAge, Metrics: metrics,
			// Its JSON, and its beginning as clients see it.
			Weigh: func(_ eventKey, e *Event) int64 { return 2*int64(e.Size()) + 600 },
		}),
		metas: cache.New(cache.Config[eventKey, *meta]{
			Name: "room_meta", Budget: cfg.EventCache / 8, Metrics: metrics,
			Weigh: func(_ eventKey, m *meta) int64 { return int64(len(m.id)) + 160 },
		}),
		graphs: authgraph.NewStore(cfg.GraphCache, metrics),
	}
}

// Run hears of redacted events until the context ends.
func (d *DB) Run(ctx context.Context, b *bus.Bus) error {
	sub, err := b.SubscribeRedacted(func(m *logv1.Redacted) { d.Forget(m.Part, m.Nids...) })
	if err != nil {
		return fmt.Errorf("hear of redacted events: %w", err)
	}
	defer func() { _ = sub.Stop() }() // the connection may be gone already
	defer b.OnReconnect(d.forgetAll)()
	<-ctx.Done()
	return nil
}

// Forget drops events from the cache, after a redaction that is committed. What is being read now is not kept either.
func (d *DB) Forget(part uint32, nids ...int64) {
	d.forgotten.Add(1)
	for _, nid := range nids {
		d.events.Remove(eventKey{part, nid})
	}
}

// forgetAll is for when announcements may have been lost.
func (d *DB) forgetAll() {
	d.forgotten.Add(1)
	d.events.Purge()
}
