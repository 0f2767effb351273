package roomdb_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"hanse/pkg/pg/pgtest"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
)

// counted is a database of which is counted what statements read.
type counted struct {
	t      *testing.T
	pool   *pgxpool.Pool
	rooms  *roomdb.DB
	result *pgtest.Counter // statements, and rows that they returned
}

// newCounted opens a database; part is the partition that the test uses.
func newCounted(t *testing.T, part uint32, cfg roomdb.Config) *counted {
	t.Helper()
	c := pgtest.Config(t, 1)
	c.MaxConns = 2 // the one that was used last is used first
	result := pgtest.Counted(&c)
	shards := pgtest.Open(t, c)
	return &counted{t, shards.For(part), roomdb.Open(shards, state.NewStore(state.DefaultConfig(), nil), cfg, nil), result}
}

func (c *counted) exec(sql string, args ...any) {
	c.t.Helper()
	if _, err := c.pool.Exec(c.t.Context(), sql, args...); err != nil {
		c.t.Fatal(err)
	}
}

// read returns how many rows of some tables were read until now.
func (c *counted) read(tables ...string) (rows int64) {
	c.t.Helper()
	c.exec("SELECT pg_stat_force_next_flush()")
	if err := c.pool.QueryRow(c.t.Context(), "SELECT sum(coalesce(idx_tup_fetch, 0) + seq_tup_read)::bigint FROM pg_stat_user_tables WHERE relname = ANY($1)", tables).Scan(&rows); err != nil {
		c.t.Fatal(err)
	}
	c.exec("SELECT pg_stat_force_next_flush()") // what comes next is counted when it ends
	return rows
}
