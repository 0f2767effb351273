package pgtest

import (
	"context"
	"slices"
	"sync/atomic"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/pg"
)

// Counter counts what all connections of a cluster do: see [Counted].
type Counter struct{ statements, rows atomic.Int64 }

// Counted makes a configuration count from now on, for all that is opened with it afterwards.
func Counted(cfg *pg.Config) *Counter {
	c := new(Counter)
	cfg.Tracer = c
	return c
}

// Of returns how many statements were made, and how many rows they gave, wrote or removed, while f ran. What runs beside it
// counts too.
func (c *Counter) Of(f func()) (statements, rows float64) {
	s, r := c.statements.Load(), c.rows.Load()
	f()
	return float64(c.statements.Load() - s), float64(c.rows.Load() - r)
}

// Each runs an operation some times, and returns what the middle one of them made: what runs beside them by the clock is not
// counted.
func (c *Counter) Each(times int, op func(i int)) (statements, rows float64) {
	s, r := make([]float64, times), make([]float64, times)
	for i := range times {
		s[i], r[i] = c.Of(func() { op(i) })
	}
	slices.Sort(s)
	slices.Sort(r)
	return s[times/2], r[times/2]
}

// TraceQueryStart implements [pgx.QueryTracer].
func (c *Counter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.statements.Add(1)
	return ctx
}

// TraceQueryEnd implements [pgx.QueryTracer].
func (c *Counter) TraceQueryEnd(_ context.Context, _ *pgx.Conn, d pgx.TraceQueryEndData) {
	c.rows.Add(d.CommandTag.RowsAffected())
}

// TraceBatchStart implements [pgx.BatchTracer].
func (c *Counter) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}

// TraceBatchQuery implements [pgx.BatchTracer].
func (c *Counter) TraceBatchQuery(_ context.Context, _ *pgx.Conn, d pgx.TraceBatchQueryData) {
	c.statements.Add(1)
	c.rows.Add(d.CommandTag.RowsAffected())
}

// TraceBatchEnd implements [pgx.BatchTracer].
func (c *Counter) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

// TraceCopyFromStart implements [pgx.CopyFromTracer].
func (c *Counter) TraceCopyFromStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceCopyFromStartData) context.Context {
	c.statements.Add(1)
	return ctx
}

// TraceCopyFromEnd implements [pgx.CopyFromTracer].
func (c *Counter) TraceCopyFromEnd(_ context.Context, _ *pgx.Conn, d pgx.TraceCopyFromEndData) {
	c.rows.Add(d.CommandTag.RowsAffected())
}
