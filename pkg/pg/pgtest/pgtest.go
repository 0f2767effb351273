// Package pgtest gives each test PostgreSQL databases of its own, with the schema of this program, in about 50 ms.
//
// The first test process on the machine starts a private server (fsync off) in the directory for temporary files;
// the others use it, and it ends by itself when nobody has for two minutes. A database is a clone of a template
// that was migrated once for each state of the migrations. HANSE_TEST_PG=<connection string of a server where the
// user may create databases> uses that server instead.
package pgtest

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"hanse/pkg/pg"
)

// patience bounds the start of the server and of a database; a machine that runs other tests can be slow.
const patience = 2 * time.Minute

// New returns an open cluster of one shard and pg.DefaultPartitions partitions. It is dropped after the test.
func New(tb testing.TB) *pg.Shards {
	tb.Helper()
	return Open(tb, Config(tb, 1))
}

// NewSharded returns an open cluster of n shards.
func NewSharded(tb testing.TB, n int) *pg.Shards {
	tb.Helper()
	return Open(tb, Config(tb, n))
}

// Pool returns a pool of a database with the schema and the partitions of a cluster of one shard.
func Pool(tb testing.TB) *pgxpool.Pool {
	tb.Helper()
	return New(tb).For(0)
}

// Open opens one more set of connections to a cluster, for tests with several workers. It is closed after the test.
func Open(tb testing.TB, cfg pg.Config) *pg.Shards {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	shards, err := pg.Open(ctx, cfg)
	if err != nil {
		tb.Fatalf("pgtest: %v", err)
	}
	tb.Cleanup(shards.Close)
	return shards
}

// Config returns the configuration of a new cluster of n shards, whose databases are dropped after the test.
func Config(tb testing.TB, n int) pg.Config {
	tb.Helper()
	cfg := pg.Defaults()
	cfg.Migrate = false // the template is
	for range n {
		cfg.Shards = append(cfg.Shards, Database(tb))
	}
	return cfg
}

// Database returns the connection string of a new database that has the schema but belongs to no cluster yet.
func Database(tb testing.TB) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	srv, err := server(ctx)
	if err != nil {
		tb.Fatalf("pgtest: %v", err)
	}
	name := "t_" + strings.ToLower(rand.Text()[:16])
	if err := srv.clone(ctx, name); err != nil {
		tb.Fatalf("pgtest: %v", err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := srv.drop(ctx, name); err != nil {
			tb.Errorf("pgtest: %v", err)
		}
	})
	return srv.dsn(name)
}

// clone copies the template.
func (s *testServer) clone(ctx context.Context, name string) error {
	// FILE_COPY is eight times as fast as WAL_LOG here: the checkpoint that it forces costs nothing without fsync.
	_, err := s.admin.Exec(ctx, fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s STRATEGY FILE_COPY",
		pgx.Identifier{name}.Sanitize(), pgx.Identifier{s.template}.Sanitize()))
	if err != nil {
		return fmt.Errorf("clone template: %w", err)
	}
	return nil
}

func (s *testServer) drop(ctx context.Context, name string) error {
	_, err := s.admin.Exec(ctx, fmt.Sprintf("DROP DATABASE IF EXISTS %s WITH (FORCE)", pgx.Identifier{name}.Sanitize()))
	if err != nil {
		return fmt.Errorf("drop database: %w", err)
	}
	return nil
}
