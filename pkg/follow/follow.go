package follow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"hanse/pkg/bus"
	"hanse/pkg/deadletter"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
	"hanse/pkg/retries"
)

const (
	flushEvery   = time.Second
	flushTimeout = 10 * time.Second
	// takeTimeout bounds how long the partitions of one shard may take to be loaded.
	takeTimeout = 30 * time.Second
	// settle is how long the ownership of partitions must stand still before it is acted upon: workers come and go
	// several at a time.
	settle = 50 * time.Millisecond
	// yieldFor is how long a worker that has lost a partition leaves it alone while the membership does not change.
	yieldFor = 10 * time.Second
	// LastWords bounds the time for what is on its way when a partition is given up.
	LastWords = 5 * time.Second
)

// Keeper is what a role has of one partition. Its methods are called by one goroutine at a time, but for Leave.
type Keeper interface {
	// Flush stores, with Part.Store, what the positions of the log do not tell. It lowers upTo[q], for each log partition q, to the
	// last position up to which everything that was handed over has been delivered or is stored.
	Flush(ctx context.Context, upTo []int64) error
	// Idle reports whether Flush has nothing to do if nothing was handed over since the last one.
	Idle() bool
	// Leave ends the keeper's work: it begins nothing new.
	Leave()
	// Quiet is closed when nothing is on its way any more, after Leave.
	Quiet() <-chan struct{}
	// Close frees what still waits. It is called last.
	Close()
}

// Stored is the Keeper of a role that stores all that an entry leads to while the entry is handed over.
type Stored struct{}

// Flush implements Keeper.
func (Stored) Flush(context.Context, []int64) error { return nil }

// Idle implements Keeper.
func (Stored) Idle() bool { return true }

// Leave implements Keeper.
func (Stored) Leave() {}

// Quiet implements Keeper.
func (Stored) Quiet() <-chan struct{} {
	done := make(chan struct{})
	close(done)
	return done
}

// Close implements Keeper.
func (Stored) Close() {}

// Reach is how much of the log a partition of keys gets.
type Reach int

// What a partition gets: entries of every log partition, or only those of the log partition with its own number.
const (
	WholeLog Reach = iota
	SamePartition
)

// Log is where the log is read from: roomdb.DB. With an error Heads returns the heads of those partitions whose shards answer.
type Log interface {
	bus.LogSource
	Heads(ctx context.Context) (map[uint32]int64, error)
}

// Config says who follows the log, and what for.
type Config[K Keeper] struct {
	// Role is the role whose workers share the partitions. It names the log reader in metrics, and the dead letters.
	Role string
	// Tables is the prefix of the names of the role's tables: <Tables>_owner and <Tables>_cursor.
	Tables string
	Reach  Reach
	// FromHead lets a partition that was never followed begin at the present heads of the log, not at its beginning.
	FromHead bool
	// Wanted, if not nil, says whether a partition has keys at all. One that has none is not taken, and a worker without partitions
	// reads no log. The role calls Again when the answer for a partition has changed.
	Wanted func(part uint32) bool

	Shards  *pg.Shards
	Bus     *bus.Bus
	Members *partition.Members
	Source  Log
	Log     *slog.Logger

	// Open reads what is stored of a partition that was just taken. The partition's keeper gets entries only after Open.
	Open func(ctx context.Context, p *Part) (K, error)
	// Plan does with a run of entries all that can fail, and returns what gives them to the keepers. An error makes it be
	// called again with the same entries, so what it does must be harmless twice. hand may be nil.
	Plan func(ctx context.Context, d bus.Delivery) (hand func(Hand[K]), err error)
	// Rewind, if not nil, is called before entries of a log partition come again.
	Rewind func(logPart uint32)
	// Storing, if not nil, is called before each transaction of a partition is stored. Tests use it.
	Storing func(part uint32)
}

// Follower takes part in following the log for one worker of a role.
type Follower[K Keeper] struct {
	cfg    Config[K]
	reader *bus.LogReader
	s      *statements

	ctx  context.Context // of everything that the partitions do
	stop context.CancelFunc

	mu    sync.RWMutex
	parts []*held[K] // nil: not ours

	shards   []*shard[K]
	entering sync.Mutex // held while partitions come in

	drain atomic.Bool
	left  sync.WaitGroup // shards of which we may have partitions, when we drain
}

// held is a partition with its keeper.
type held[K Keeper] struct {
	*Part
	keeper K
}

// New assembles a follower; it does nothing before Run.
func New[K Keeper](cfg Config[K]) *Follower[K] {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	f := &Follower[K]{cfg: cfg, s: newStatements(cfg.Tables), parts: make([]*held[K], cfg.Shards.P())}
	all := make([]uint32, cfg.Shards.P())
	for part := range all {
		all[part] = uint32(part)
	}
	for _, own := range cfg.Shards.Groups(all) {
		f.shards = append(f.shards, newShard(f, own))
	}
	f.left.Add(len(f.shards))
	f.ctx, f.stop = context.WithCancel(context.Background())
	return f
}

// Run follows the log until ctx ends. What is on its way then has LastWords to end.
func (f *Follower[K]) Run(ctx context.Context) {
	defer f.stop()
	f.reader = bus.NewLogReader(f.cfg.Bus, bus.ReaderConfig{Name: f.cfg.Role, Source: f.cfg.Source, Heads: f.cfg.Source.Heads, Handle: f.handle,
		DeadLetter: f.deadLetter, Log: f.cfg.Log})
	defer f.reader.Close()
	var work, flushing sync.WaitGroup
	for _, s := range f.shards {
		work.Go(func() { s.follow(ctx) })
		flushing.Go(func() { s.flushes(ctx) })
	}
	defer flushing.Wait()
	work.Wait()
	f.reader.Close()
	for _, s := range f.shards {
		work.Go(func() { f.giveUp(s.held()) })
	}
	work.Wait()
}

// Drain gives all partitions to other workers, and returns when that is done.
func (f *Follower[K]) Drain(ctx context.Context) error {
	f.drain.Store(true)
	f.Again()
	drained := make(chan struct{})
	go func() { f.left.Wait(); close(drained) }()
	select {
	case <-drained:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Context ends when what is on its way at the end of Run has had its time. It is that of every partition.
func (f *Follower[K]) Context() context.Context { return f.ctx }

// Stop ends Context at once.
func (f *Follower[K]) Stop() { f.stop() }

// deadLetter stores an entry that cannot be processed; hanse deadletter replay gives it another try.
func (f *Follower[K]) deadLetter(ctx context.Context, d bus.Delivery, cause error) error {
	return deadletter.Put(ctx, f.cfg.Shards, d.Part, f.cfg.Role, d.Entries[0].Pos, cause)
}

// Get returns the keeper of a partition that this worker has.
func (f *Follower[K]) Get(part uint32) (k K, ok bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if h := f.parts[part]; h != nil {
		return h.keeper, true
	}
	return k, false
}

// All returns the keepers of all partitions that this worker has.
func (f *Follower[K]) All() []K {
	all := f.held()
	out := make([]K, len(all))
	for i, h := range all {
		out[i] = h.keeper
	}
	return out
}

func (f *Follower[K]) held() []*held[K] {
	f.mu.RLock()
	defer f.mu.RUnlock()
	var out []*held[K]
	for _, h := range f.parts {
		if h != nil {
			out = append(out, h)
		}
	}
	return out
}

// held are those of the shard's partitions that this worker has.
func (f *shard[K]) held() []*held[K] {
	f.mu.RLock()
	defer f.mu.RUnlock()
	var out []*held[K]
	for _, part := range f.own {
		if h := f.parts[part]; h != nil {
			out = append(out, h)
		}
	}
	return out
}

// Position returns the last position of a log partition that was handed over, if this worker reads it.
func (f *Follower[K]) Position(logPart uint32) (int64, bool) { return f.reader.Position(logPart) }

// handle hands a run of log entries to the keepers. All that can fail comes before the first of them gets something, so that a
// repeated call does not give them anything twice.
func (f *Follower[K]) handle(ctx context.Context, d bus.Delivery) error {
	hand, err := f.cfg.Plan(ctx, d)
	if err != nil {
		return err
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	if hand != nil {
		hand(Hand[K]{f, d.Part})
	}
	last := d.Entries[len(d.Entries)-1].Pos
	for _, h := range f.parts {
		if h == nil || f.cfg.Reach == SamePartition && h.N != d.Part {
			continue
		}
		h.hand(d.Part, last)
		if f.cfg.Reach == SamePartition {
			h.active[d.Part].Store(true)
		}
	}
	return nil
}

// Hand gives entries of one log partition to keepers. It is valid only while the function that got it runs.
type Hand[K Keeper] struct {
	f       *Follower[K]
	logPart uint32
}

// To returns the keeper of a partition, if it is this worker's and has not got the entry at pos before.
func (h Hand[K]) To(part uint32, pos int64) (k K, ok bool) {
	p := h.f.parts[part]
	if p == nil || p.handed[h.logPart].Load() >= pos {
		return k, false
	}
	p.active[h.logPart].Store(true)
	return p.keeper, true
}

// flushes stores the cursors of the shard's partitions from time to time.
func (f *shard[K]) flushes(ctx context.Context) {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	stores := retries.Log{To: f.cfg.Log, What: "storing cursors of " + f.cfg.Role}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var failed error
		fctx, cancel := context.WithTimeout(ctx, flushTimeout)
		for _, h := range f.held() {
			err := h.flush(fctx, h.keeper, false)
			if errors.Is(err, ErrLost) {
				f.cfg.Log.Info("a partition was taken by another worker", "role", f.cfg.Role, "part", h.N)
			} else if err != nil {
				failed = fmt.Errorf("partition %d: %w", h.N, err)
			}
		}
		cancel()
		if ctx.Err() == nil {
			stores.Note(failed)
		}
	}
}
