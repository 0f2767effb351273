package measure

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Postgres is what the databases counted. The writes include those of everything
// else in the database.
type Postgres struct {
	RowsWritten int64 `json:"rows_written"` // inserted, updated and deleted
	RowsRead    int64 `json:"rows_read"`
	Commits     int64 `json:"commits"`
	WALBytes    int64 `json:"wal_bytes"` // of the whole PostgreSQL server
}

func (p *Postgres) since(q *Postgres) *Postgres {
	return &Postgres{
		RowsWritten: p.RowsWritten - q.RowsWritten,
		RowsRead:    p.RowsRead - q.RowsRead,
		Commits:     p.Commits - q.Commits,
		WALBytes:    p.WALBytes - q.WALBytes,
	}
}

// statsDelay is how long an idle backend of PostgreSQL may keep its counters to
// itself (PGSTAT_IDLE_INTERVAL, 10 s, in its pgstat.c).
const statsDelay = 11 * time.Second

// readPostgres sums the counters of the meter's databases, once all backends have
// reported theirs; nil without any database.
func (m *Meter) readPostgres(ctx context.Context) (*Postgres, error) {
	if len(m.Postgres) == 0 {
		return nil, nil
	}
	t := time.NewTimer(statsDelay)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-t.C:
	}
	sum := &Postgres{}
	for _, dsn := range m.Postgres {
		if err := addCounters(ctx, dsn, sum); err != nil {
			return nil, fmt.Errorf("counters of PostgreSQL: %w", err)
		}
	}
	return sum, nil
}

func addCounters(ctx context.Context, dsn string, sum *Postgres) (err error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := conn.Close(ctx); err == nil {
			err = cerr
		}
	}()
	var written, read, commits, wal int64
	err = conn.QueryRow(ctx, `
		SELECT d.tup_inserted + d.tup_updated + d.tup_deleted,
		       d.tup_fetched, d.xact_commit,
		       pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint
		FROM pg_stat_database d WHERE d.datname = current_database()`).
		Scan(&written, &read, &commits, &wal)
	if err != nil {
		return err
	}
	sum.RowsWritten += written
	sum.RowsRead += read
	sum.Commits += commits
	sum.WALBytes += wal
	return nil
}
