package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"hanse/pkg/retries"
)

// ReaderConfig describes one consumer of the room log.
type ReaderConfig struct {
	// Name labels the metrics: "sync", "fedout".
	Name string
	// Source fills the gaps.
	Source LogSource
	// Heads returns the heads of all partitions (roomdb.DB.Heads), by one query for each shard. If
	// set, they are compared with what came, every HeadInterval, which finds a lost tail when every
	// other sign of it was lost too; and several times a second as long as the bus is away or loses
	// what is published.
	Heads        func(ctx context.Context) (map[uint32]int64, error)
	HeadInterval time.Duration // default 5 s
	// Handle gets the entries of each partition in order; calls for one partition never overlap,
	// calls for different partitions do. An error makes the reader try again: with the same
	// entries, after a pause that grows to two seconds.
	Handle func(ctx context.Context, d Delivery) error
	// DeadLetter stores an entry that Handle called Unprocessable, or on which it panicked. After a
	// nil return the reader continues behind it.
	DeadLetter func(ctx context.Context, d Delivery, cause error) error
	// CatchUpLimit is the number of entries read from the source at once (default 256).
	CatchUpLimit int
	// QueueMsgs and QueueBytes bound what waits for one partition's handler (defaults 1024 and
	// 4 MiB). Beyond it messages are dropped and read from the source later.
	QueueMsgs  int
	QueueBytes int
	Log        *slog.Logger
}

// LogReader delivers the logs of a set of partitions to one handler. See the package comment.
type LogReader struct {
	bus     *Bus
	cfg     ReaderConfig
	ctx     context.Context
	cancel  context.CancelFunc
	unwatch []func()
	link    chan struct{} // the connection to the bus came or went
	done    sync.WaitGroup
	behind  atomic.Int64 // entries known and not handled, all partitions
	heads   retries.Log

	mu     sync.Mutex
	parts  map[uint32]*partReader
	closed bool
}

// ErrReaderClosed is returned by Add and WaitFor after Close or Remove.
var ErrReaderClosed = errors.New("log reader closed")

// NewLogReader makes a reader that reads nothing yet: see Add.
func NewLogReader(b *Bus, cfg ReaderConfig) *LogReader {
	if cfg.CatchUpLimit <= 0 {
		cfg.CatchUpLimit = 256
	}
	if cfg.QueueMsgs <= 0 {
		cfg.QueueMsgs = syncQueue
	}
	if cfg.QueueBytes <= 0 {
		cfg.QueueBytes = 4 << 20
	}
	if cfg.HeadInterval <= 0 {
		cfg.HeadInterval = 5 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = b.log
	}
	r := &LogReader{bus: b, cfg: cfg, parts: make(map[uint32]*partReader), link: make(chan struct{}, 1),
		heads: retries.Log{To: cfg.Log, What: "reading the heads of the log"}}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.unwatch = []func(){b.OnReconnect(r.resync), b.onLink(r.linkChanged)}
	if cfg.Heads != nil {
		r.done.Go(r.compareHeads)
	}
	return r
}

// Add starts to deliver what comes after position after of a partition: first what PostgreSQL has,
// then what is published. It returns at once.
func (r *LogReader) Add(part uint32, after int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return ErrReaderClosed
	}
	if _, ok := r.parts[part]; ok {
		return fmt.Errorf("log reader %s: partition %d is being read already", r.cfg.Name, part)
	}
	p, err := r.newPart(part, after)
	if err != nil {
		return err
	}
	r.parts[part] = p
	r.done.Go(p.run)
	return nil
}

// Remove stops to read a partition and returns when its handler has.
func (r *LogReader) Remove(part uint32) {
	r.mu.Lock()
	p := r.parts[part]
	delete(r.parts, part)
	r.mu.Unlock()
	if p != nil {
		p.stop()
		<-p.stopped
	}
}

// Position returns the last position of a partition that was handled.
func (r *LogReader) Position(part uint32) (int64, bool) {
	if p := r.part(part); p != nil {
		return p.handled.Load(), true
	}
	return 0, false
}

// Positions returns the last handled position of every partition that is read.
func (r *LogReader) Positions() map[uint32]int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := make(map[uint32]int64, len(r.parts))
	for n, p := range r.parts {
		m[n] = p.handled.Load()
	}
	return m
}

// WaitFor returns when position pos of a partition was handled. The caller knows that pos exists;
// if the bus is late it is read from PostgreSQL.
func (r *LogReader) WaitFor(ctx context.Context, part uint32, pos int64) error {
	p := r.part(part)
	if p == nil {
		return fmt.Errorf("wait for partition %d: %w", part, ErrReaderClosed)
	}
	return p.waitFor(ctx, pos)
}

// Close stops all partitions and returns when no handler runs any more.
func (r *LogReader) Close() {
	r.mu.Lock()
	r.closed = true
	r.parts = make(map[uint32]*partReader)
	r.mu.Unlock()
	for _, end := range r.unwatch {
		end()
	}
	r.cancel()
	r.done.Wait()
}

func (r *LogReader) part(part uint32) *partReader {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.parts[part]
}

// resync makes every partition look into PostgreSQL.
func (r *LogReader) resync() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.parts {
		p.wake()
	}
}

// addBehind keeps the lag metric.
func (r *LogReader) addBehind(n int64) {
	r.bus.metrics.lag.WithLabelValues(r.cfg.Name).Set(float64(r.behind.Add(n)))
}
