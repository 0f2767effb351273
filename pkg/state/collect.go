package state

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Collection says what Collect may assume and must spare.
type Collection struct {
	Part uint32
	// Epoch is the epoch under which the caller owns the partition. Every deletion is
	// fenced by it.
	Epoch int64
	// Held returns the numbers of the snapshots of the partition that the owner holds
	// in memory and may still refer to, and both ends of those in batches under way
	// (or waits until none is). It is called once, and may take its time: all that
	// comes into use from its beginning on is spared.
	Held func(ctx context.Context) ([]int64, error)
	// Limit bounds how many snapshots one call removes; 0: a million.
	Limit int
}

// Beginner is what Collect needs of a pool or connection.
type Beginner interface {
	Execer
	BeginTx(ctx context.Context, opts pgx.TxOptions) (pgx.Tx, error)
}

var (
	// ErrCollecting is returned when the partition is being collected already.
	ErrCollecting = errors.New("state of the partition is being collected already")
	// ErrFenced is returned when the partition has another owner now.
	ErrFenced = errors.New("partition has another owner")
)

const (
	collectLimit = 1_000_000
	collectBatch = 1_000
)

// scanSQL lists snapshots, newest first, and whether a row outside refers to them.
// Order matters: whatever a snapshot is stored against is older than it, so one pass
// that remembers what it still waits for decides about all.
const scanSQL = `
SELECT d.sid, coalesce(g.back, d.parent), r.sid IS NOT NULL
FROM state_delta d
LEFT JOIN state_seg g ON g.part = d.part AND g.sid = d.sid
LEFT JOIN (SELECT sid FROM event WHERE part = $1 AND sid IS NOT NULL
     UNION SELECT sid FROM room WHERE part = $1
     UNION SELECT current_before FROM log WHERE part = $1 AND current_before IS NOT NULL
     UNION SELECT current_after FROM log WHERE part = $1 AND current_after IS NOT NULL) r ON r.sid = d.sid
WHERE d.part = $1
ORDER BY d.sid DESC`

// A segment can be stored just while its snapshot goes (Segment.Store).
const orphanSQL = `
DELETE FROM state_seg g WHERE part = $1 AND NOT EXISTS (SELECT FROM state_delta d WHERE d.part = g.part AND d.sid = g.sid)`

// Collect removes snapshots to which no event, room or log entry refers and through
// which no such snapshot is read. It runs beside appends, in the process that owns the
// partition and with the Writer that makes its snapshots; it returns how many it
// removed. See docs/state.md for why it is safe.
func (w *Writer) Collect(ctx context.Context, db Beginner, c Collection) (int, error) {
	r := &run{used: map[int64]struct{}{}, dead: map[int64]struct{}{}}
	w.mu.Lock()
	if w.runs[c.Part] != nil {
		w.mu.Unlock()
		return 0, ErrCollecting
	}
	w.runs[c.Part] = r
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		delete(w.runs, c.Part)
		w.mu.Unlock()
	}()
	// In this order: what comes into memory after Held was asked is noted in r.used.
	held := map[int64]struct{}{}
	if c.Held != nil {
		sids, err := c.Held(ctx)
		if err != nil {
			return 0, fmt.Errorf("collect state of partition %d: %w", c.Part, err)
		}
		for _, sid := range sids {
			held[sid] = struct{}{}
		}
	}
	if c.Limit <= 0 {
		c.Limit = collectLimit
	}
	garbage, err := scan(ctx, db, c, held)
	if err != nil {
		return 0, fmt.Errorf("collect state of partition %d: %w", c.Part, err)
	}
	removed := 0
	for len(garbage) > 0 {
		n := min(w.batch, len(garbage))
		k, err := w.remove(ctx, db, c, r, garbage[:n])
		removed += k
		if err != nil {
			return removed, fmt.Errorf("collect state of partition %d: %w", c.Part, err)
		}
		garbage = garbage[n:]
	}
	if _, err := db.Exec(ctx, orphanSQL, int32(c.Part)); err != nil {
		return removed, fmt.Errorf("collect state of partition %d: %w", c.Part, err)
	}
	return removed, nil
}

// scan returns what nothing leads to, newest first, as of one moment.
func scan(ctx context.Context, db Beginner, c Collection, held map[int64]struct{}) ([]int64, error) {
	tx, err := db.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return nil, err
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // read only
	rows, err := tx.Query(ctx, scanSQL, int32(c.Part))
	if err != nil {
		return nil, err
	}
	var garbage []int64
	needed := map[int64]struct{}{} // read by a newer snapshot, not met yet
	var sid, next int64
	var referred bool
	_, err = pgx.ForEachRow(rows, []any{&sid, &next, &referred}, func() error {
		_, need := needed[sid]
		_, hold := held[sid]
		delete(needed, sid)
		switch {
		case referred || need || hold:
			if next != 0 {
				needed[next] = struct{}{}
			}
		case len(garbage) < c.Limit:
			garbage = append(garbage, sid)
		}
		return nil
	})
	return garbage, err
}

// remove deletes what is still unused, behind the partition's fence.
func (w *Writer) remove(ctx context.Context, db Beginner, c Collection, r *run, sids []int64) (n int, err error) {
	tx, err := db.BeginTx(ctx, pgx.TxOptions{})
	if err != nil {
		return 0, err
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // after a commit it does nothing
	// The row lock keeps appends out, and a new owner.
	tag, err := tx.Exec(ctx, `SELECT FROM partition WHERE part = $1 AND epoch = $2 FOR UPDATE`, int32(c.Part), c.Epoch)
	if err != nil {
		return 0, err
	}
	if tag.RowsAffected() == 0 {
		return 0, ErrFenced
	}
	doomed := make([]int64, 0, len(sids))
	w.mu.Lock()
	for _, sid := range sids {
		if _, used := r.used[sid]; !used {
			doomed = append(doomed, sid)
			r.dead[sid] = struct{}{}
		}
	}
	w.mu.Unlock()
	batch := &pgx.Batch{}
	batch.Queue(`DELETE FROM state_seg WHERE part = $1 AND sid = ANY($2)`, int32(c.Part), doomed)
	batch.Queue(`DELETE FROM state_delta WHERE part = $1 AND sid = ANY($2)`, int32(c.Part), doomed)
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return 0, err
	}
	// An unknown outcome counts as removed: r.dead stays as it is until the run ends.
	if err := tx.Commit(ctx); err != nil {
		return 0, err
	}
	return len(doomed), nil
}
