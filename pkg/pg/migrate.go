package pg

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var embedded embed.FS

// lockPause is how long a replica waits before it tries again to get the migration lock.
const lockPause = 250 * time.Millisecond

// migrationLock is the advisory lock under which one of many starting replicas migrates a shard.
const migrationLock = 0x48414e5345 // "HANSE"

// ErrSchemaBehind is returned by Open when the schema is older than the program and Config.Migrate is off.
var ErrSchemaBehind = errors.New("the database schema is older than this program: run 'hanse migrate'")

// Migrations returns the files of the schema, in the order in which they are applied.
func Migrations() (fs.FS, []string, error) {
	sub, err := fs.Sub(embedded, "migrations")
	if err != nil {
		return nil, nil, err
	}
	names, err := fs.Glob(sub, "*.sql")
	return sub, names, err
}

// Migrate brings one database up to date. Many processes may call it at once.
func Migrate(ctx context.Context, pool *pgxpool.Pool) error { return migrateShard(ctx, pool, true) }

func migrateShard(ctx context.Context, pool *pgxpool.Pool, allowed bool) error {
	if current, err := upToDate(ctx, pool); err != nil || current {
		return err
	}
	if !allowed {
		return ErrSchemaBehind
	}
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	defer conn.Release()
	if err := lock(ctx, conn); err != nil {
		return fmt.Errorf("migrate: lock: %w", err)
	}
	defer unlock(ctx, conn)
	return applyAll(ctx, pool)
}

// lock gets the migration lock. It tries again and again instead of waiting in PostgreSQL: CREATE INDEX CONCURRENTLY waits for every
// statement that began before it, so the replica that migrates would wait for one that waits for it.
func lock(ctx context.Context, conn *pgxpool.Conn) error {
	for {
		var got bool
		if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, int64(migrationLock)).Scan(&got); err != nil || got {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lockPause):
		}
	}
}

// unlock gives the migration lock back; a connection that cannot is closed, which does the same.
func unlock(ctx context.Context, conn *pgxpool.Conn) {
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_unlock($1)`, int64(migrationLock)); err != nil {
		_ = conn.Conn().Close(context.WithoutCancel(ctx))
	}
}

func applyAll(ctx context.Context, pool *pgxpool.Pool) error {
	files, _, err := Migrations()
	if err != nil {
		return err
	}
	db := stdlib.OpenDBFromPool(pool)
	defer db.Close()
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithAllowOutofOrder(true))
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}

// upToDate reports whether all migrations of this program are applied. A database that has more, because a newer
// version ran already, is fine: each migration leaves the schema usable for the version before it.
func upToDate(ctx context.Context, pool *pgxpool.Pool) (bool, error) {
	var exists bool
	if err := pool.QueryRow(ctx, `SELECT to_regclass('goose_db_version') IS NOT NULL`).Scan(&exists); err != nil {
		return false, fmt.Errorf("read schema version: %w", err)
	}
	if !exists {
		return false, nil
	}
	rows, err := pool.Query(ctx, `SELECT version_id FROM goose_db_version WHERE is_applied`)
	if err != nil {
		return false, fmt.Errorf("read schema version: %w", err)
	}
	applied, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return false, fmt.Errorf("read schema version: %w", err)
	}
	have := make(map[int64]bool, len(applied))
	for _, v := range applied {
		have[v] = true
	}
	_, names, err := Migrations()
	if err != nil {
		return false, err
	}
	for _, name := range names {
		number, _, _ := strings.Cut(path.Base(name), "_")
		v, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return false, fmt.Errorf("migration %s: name does not start with a number", name)
		}
		if !have[v] {
			return false, nil
		}
	}
	return true, nil
}
