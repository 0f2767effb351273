package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
)

// Config says where NATS is.
type Config struct {
	// URL of one or more servers, separated by commas. Empty: a server inside this process.
	URL string
	// StoreDir is where the embedded server keeps JetStream's files.
	StoreDir string
	// Name is shown in NATS's own monitoring; the worker id.
	Name string
	// Options are added to the connection: credentials, TLS.
	Options []nats.Option
	// Log and Registerer may be nil.
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Bus is one connection to NATS, shared by all roles of a process. It is safe for concurrent use.
type Bus struct {
	nc       *nats.Conn
	js       jetstream.JetStream
	embedded *server.Server
	log      *slog.Logger
	metrics  *metrics

	mu          sync.Mutex
	nextWatcher int
	reconnected map[int]func() // called after each connection
	linked      map[int]func() // called after each connection and each loss of it
	slow        map[*nats.Subscription]func()
}

// reconnectBuffer bounds what is kept of publications while NATS is away, in bytes. Beyond it they
// are dropped: readers find them in PostgreSQL.
const reconnectBuffer = 4 << 20

// syncQueue bounds the messages that wait in a subscription of a LogReader; QueueMsgs beyond it have no effect.
const syncQueue = 1024

// Open connects. With an URL it returns at once even if NATS is not there yet: the connection is
// tried for ever in the background. With an embedded server it returns when that is ready.
func Open(ctx context.Context, cfg Config) (*Bus, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	b := &Bus{
		log:         cfg.Log,
		metrics:     newMetrics(cfg.Registerer),
		reconnected: make(map[int]func()),
		linked:      make(map[int]func()),
		slow:        make(map[*nats.Subscription]func()),
	}
	opts := []nats.Option{
		nats.Name(cfg.Name),
		nats.MaxReconnects(-1),
		nats.RetryOnFailedConnect(true),
		nats.ReconnectWait(100 * time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, 200*time.Millisecond),
		nats.ReconnectBufSize(reconnectBuffer),
		nats.PingInterval(5 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.Timeout(2 * time.Second),
		nats.IgnoreAuthErrorAbort(),
		// The queue of each subscription is allocated whole, and looked at by each garbage collection.
		nats.SyncQueueLen(syncQueue),
		nats.ConnectHandler(func(*nats.Conn) { b.onReconnect() }),
		nats.ReconnectHandler(func(*nats.Conn) { b.onReconnect() }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { b.onDisconnect(err) }),
		nats.ErrorHandler(b.onError),
	}
	url := cfg.URL
	if url == "" {
		srv, err := startEmbedded(ctx, cfg.StoreDir)
		if err != nil {
			return nil, err
		}
		b.embedded = srv
		opts = append(opts, nats.InProcessServer(srv))
	}
	nc, err := nats.Connect(url, append(opts, cfg.Options...)...)
	if err != nil {
		b.stopEmbedded()
		return nil, fmt.Errorf("connect to nats: %w", err)
	}
	b.nc = nc
	if b.js, err = jetstream.New(nc); err != nil {
		b.Close()
		return nil, fmt.Errorf("jetstream: %w", err)
	}
	return b, nil
}

// startEmbedded runs a NATS server that listens on nothing.
func startEmbedded(ctx context.Context, dir string) (*server.Server, error) {
	srv, err := server.NewServer(&server.Options{
		ServerName: "hanse",
		DontListen: true,
		JetStream:  true,
		StoreDir:   dir,
		NoSigs:     true,
		NoLog:      true,
		MaxPayload: maxPayload,
		// The only streams are the small membership bucket and whatever comes later.
		JetStreamMaxMemory: 64 << 20,
		JetStreamMaxStore:  1 << 30,
	})
	if err != nil {
		return nil, fmt.Errorf("embedded nats: %w", err)
	}
	srv.Start()
	for !srv.ReadyForConnections(100 * time.Millisecond) {
		if ctx.Err() != nil {
			srv.Shutdown()
			return nil, fmt.Errorf("embedded nats: %w", ctx.Err())
		}
	}
	return srv, nil
}

// Conn is the NATS connection, for what this package has no name for.
func (b *Bus) Conn() *nats.Conn { return b.nc }

// JetStream is the JetStream context of the connection.
func (b *Bus) JetStream() jetstream.JetStream { return b.js }

// Connected reports whether NATS answers now. It is not a condition of readiness: everything works
// without NATS, only later.
func (b *Bus) Connected() bool { return b.nc.IsConnected() }

// OnReconnect calls fn after each (re)connection, in a goroutine of the connection: fn must not
// block. cancel ends that.
func (b *Bus) OnReconnect(fn func()) (cancel func()) { return b.watch(b.reconnected, fn) }

// onLink calls fn whenever the connection has come or gone.
func (b *Bus) onLink(fn func()) (cancel func()) { return b.watch(b.linked, fn) }

func (b *Bus) watch(watchers map[int]func(), fn func()) (cancel func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	id := b.nextWatcher
	b.nextWatcher++
	watchers[id] = fn
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(watchers, id)
	}
}

func (b *Bus) tell(watchers map[int]func()) {
	b.mu.Lock()
	fns := slices.Collect(maps.Values(watchers))
	b.mu.Unlock()
	for _, fn := range fns {
		fn()
	}
}

func (b *Bus) onReconnect() {
	b.metrics.connected.Set(1)
	b.metrics.reconnects.Inc()
	b.tell(b.reconnected)
	b.tell(b.linked)
}

func (b *Bus) onDisconnect(err error) {
	b.metrics.connected.Set(0)
	if err != nil {
		b.log.Warn("nats connection lost", "err", err)
	}
	b.tell(b.linked)
}

// onError hears of slow consumers, among others; a log reader whose queue dropped something is told
// at once.
func (b *Bus) onError(_ *nats.Conn, sub *nats.Subscription, err error) {
	if sub != nil && errors.Is(err, nats.ErrSlowConsumer) {
		b.metrics.dropped.Inc()
		b.mu.Lock()
		fn := b.slow[sub]
		b.mu.Unlock()
		if fn != nil {
			fn()
			return
		}
	}
	subject := ""
	if sub != nil {
		subject = sub.Subject
	}
	b.log.Warn("nats", "err", err, "subject", subject)
}

func (b *Bus) watchSlow(sub *nats.Subscription, fn func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.slow[sub] = fn
}

func (b *Bus) unwatchSlow(sub *nats.Subscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.slow, sub)
}

// Close flushes what was published, for at most a second, and disconnects. An embedded server is
// stopped.
func (b *Bus) Close() {
	if b.nc != nil {
		if b.nc.IsConnected() {
			if err := b.nc.FlushTimeout(time.Second); err != nil {
				b.log.Warn("nats flush", "err", err)
			}
		}
		b.nc.Close()
	}
	b.stopEmbedded()
}

func (b *Bus) stopEmbedded() {
	if b.embedded != nil {
		b.embedded.Shutdown()
		b.embedded.WaitForShutdown()
	}
}
