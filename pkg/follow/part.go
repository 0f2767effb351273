package follow

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/pg"
)

// completeEvery is how often the cursors of log partitions are stored that had nothing for a partition of keys: after a takeover
// no more than this is read in vain.
const completeEvery = time.Minute

// ErrLost says that a partition is another worker's by now. Nothing was stored.
var ErrLost = errors.New("the partition is another worker's")

// Part is a partition of keys that this worker has.
type Part struct {
	// N is its number.
	N uint32

	s      *statements
	shards *pg.Shards
	epoch  int64       // under which what is known of the keys is stored
	lost   atomic.Bool // somebody else has raised it
	again  func()      // has the ownership looked at
	// storing runs before each transaction; tests only.
	storing func(part uint32)

	ctx  context.Context
	stop context.CancelFunc
	// handed is, for each log partition, the last position that was handed to the keeper.
	handed []atomic.Int64
	// active log partitions had something for the keeper since their cursor was stored.
	active []atomic.Bool

	// These belong to whoever flushes.
	flushing sync.Mutex
	stored   []int64 // the cursors in the table
	complete time.Time
}

// Context ends when the partition is given up and what is on its way has had its time.
func (p *Part) Context() context.Context { return p.ctx }

// Handed returns the last position of a log partition that was handed to the partition's keeper.
func (p *Part) Handed(logPart uint32) int64 { return p.handed[logPart].Load() }

// Lost reports whether another worker has taken the partition.
func (p *Part) Lost() bool { return p.lost.Load() }

// Store executes statements in one transaction, if the partition is still this worker's; else it returns ErrLost.
func (p *Part) Store(ctx context.Context, what *pgx.Batch) error {
	if p.storing != nil {
		p.storing(p.N)
	}
	var b pgx.Batch
	b.Queue(p.s.fence, int32(p.N), p.epoch)
	b.QueuedQueries = append(b.QueuedQueries, what.QueuedQueries...)
	err := p.shards.For(p.N).SendBatch(ctx, &b).Close()
	if pg.IsFenced(err) {
		p.lost.Store(true)
		p.again()
		return ErrLost
	}
	return err
}

// load takes the partition and reads where it stands.
func (p *Part) load(ctx context.Context) error {
	// From here on nobody else can change what is read next.
	if err := p.shards.For(p.N).QueryRow(ctx, p.s.take, int32(p.N)).Scan(&p.epoch); err != nil {
		return fmt.Errorf("take partition: %w", err)
	}
	rows, err := p.shards.For(p.N).Query(ctx, p.s.cursors, int32(p.N))
	if err != nil {
		return fmt.Errorf("read cursors: %w", err)
	}
	var logPart uint32
	var pos int64
	_, err = pgx.ForEachRow(rows, []any{&logPart, &pos}, func() error {
		if int(logPart) < len(p.stored) {
			p.stored[logPart] = pos
			p.handed[logPart].Store(pos)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read cursors: %w", err)
	}
	return nil
}

// hand notes that entries up to a position were handed over.
func (p *Part) hand(logPart uint32, pos int64) {
	if p.handed[logPart].Load() < pos {
		p.handed[logPart].Store(pos)
	}
}

// flush lets the keeper store what it has, and then stores how far the log was handed over; of all log partitions from time to
// time, and when the partition is given up.
func (p *Part) flush(ctx context.Context, k Keeper, all bool) error {
	p.flushing.Lock()
	defer p.flushing.Unlock()
	now := time.Now()
	all = all || now.Sub(p.complete) > completeEvery
	if !all && !p.anyActive() && k.Idle() {
		return nil
	}
	heads, upTo := make([]int64, len(p.handed)), make([]int64, len(p.handed))
	wanted := make([]bool, len(p.handed))
	for q := range heads {
		wanted[q] = p.active[q].Swap(false) || all
		heads[q] = p.handed[q].Load()
		upTo[q] = heads[q]
	}
	err := k.Flush(ctx, upTo)
	if err == nil {
		err = p.putCursors(ctx, upTo, wanted)
	}
	for q := range heads {
		if wanted[q] && p.stored[q] < heads[q] {
			p.active[q].Store(true) // next time
		}
	}
	if err == nil && all {
		p.complete = now
	}
	return err
}

// Begin lets the partition begin at positions behind its cursors, if nobody needs what lies between. Only Open may call it.
func (p *Part) Begin(ctx context.Context, at []int64) error {
	p.flushing.Lock()
	defer p.flushing.Unlock()
	wanted := make([]bool, len(at))
	for q, pos := range at {
		if wanted[q] = pos > p.stored[q]; wanted[q] {
			p.handed[q].Store(pos)
		}
	}
	return p.putCursors(ctx, at, wanted)
}

// Reach stores at once that a log partition was handled up to a position. A role calls it in Plan after what must not be done twice
// more often than need be; else cursors are stored every second.
func (p *Part) Reach(ctx context.Context, logPart uint32, pos int64) error {
	p.flushing.Lock()
	defer p.flushing.Unlock()
	upTo, wanted := make([]int64, len(p.stored)), make([]bool, len(p.stored))
	upTo[logPart], wanted[logPart] = pos, true
	return p.putCursors(ctx, upTo, wanted)
}

// Reached returns the position of a log partition up to which it is stored that entries were handled. Plan uses it, after Reach, when
// it is repeated: entries up to there were done.
func (p *Part) Reached(logPart uint32) int64 {
	p.flushing.Lock()
	defer p.flushing.Unlock()
	return p.stored[logPart]
}

func (p *Part) anyActive() bool {
	for q := range p.active {
		if p.active[q].Load() {
			return true
		}
	}
	return false
}

func (p *Part) putCursors(ctx context.Context, upTo []int64, wanted []bool) error {
	var parts []int32
	var positions []int64
	for q, pos := range upTo {
		if wanted[q] && pos > p.stored[q] {
			parts, positions = append(parts, int32(q)), append(positions, pos)
		}
	}
	if len(parts) == 0 {
		return nil
	}
	var b pgx.Batch
	b.Queue(p.s.putCursors, int32(p.N), parts, positions)
	if err := p.Store(ctx, &b); err != nil {
		return fmt.Errorf("store cursors: %w", err)
	}
	for i, q := range parts {
		p.stored[q] = positions[i]
	}
	return nil
}

// statements are the queries on the tables of a role.
type statements struct{ take, fence, cursors, putCursors string }

// newStatements makes those for a prefix of table names, which the program itself has chosen.
func newStatements(tables string) *statements {
	return &statements{
		take: fmt.Sprintf(`INSERT INTO %s_owner AS o (part, epoch) VALUES ($1, 1) ON CONFLICT (part) DO UPDATE SET epoch = o.epoch + 1 RETURNING epoch`, tables),
		// The transaction holds the row, or aborts if somebody else has raised the epoch.
		fence: fmt.Sprintf(`
WITH held AS MATERIALIZED (SELECT FROM %s_owner WHERE part = $1 AND epoch = $2 FOR SHARE)
SELECT hanse_fence(count(*), 1) FROM held`, tables),
		cursors: fmt.Sprintf(`SELECT log_part, pos FROM %s_cursor WHERE part = $1`, tables),
		// Cursors only go up.
		putCursors: fmt.Sprintf(`
INSERT INTO %s_cursor AS c (part, log_part, pos)
SELECT $1, u.log_part, u.pos FROM unnest($2::int[], $3::bigint[]) AS u (log_part, pos)
ON CONFLICT (part, log_part) DO UPDATE SET pos = excluded.pos WHERE c.pos < excluded.pos`, tables),
	}
}
