package pg

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"
)

// Shards are the open databases of a cluster. It is safe for concurrent use.
type Shards struct {
	pools     []*pgxpool.Pool
	shardOf   []uint16 // by partition
	clusterID string
}

// Open connects to all shards, brings their schema up to date if the configuration says so, creates the cluster if
// the databases are empty, and verifies that they are the cluster that the configuration describes. It waits for
// databases that do not answer yet until cfg.ConnectTimeout has passed. A migration takes as long as it takes.
func Open(ctx context.Context, cfg Config) (*Shards, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if len(cfg.Shards) == 0 {
		return nil, errors.New("no PostgreSQL shard configured")
	}
	s := &Shards{}
	connecting, cancel := context.WithTimeout(ctx, cfg.ConnectTimeout)
	defer cancel()
	for i, dsn := range cfg.Shards {
		pool, err := connect(connecting, dsn, cfg)
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("shard %d: %w", i, err)
		}
		s.pools = append(s.pools, pool)
	}
	if err := s.migrate(ctx, cfg); err != nil {
		s.Close()
		return nil, err
	}
	preparing, cancel := context.WithTimeout(ctx, cfg.ConnectTimeout)
	defer cancel()
	if err := s.prepare(preparing, cfg); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// migrate brings the schema of all shards up to date. A database that is restarted meanwhile is asked again, for cfg.ConnectTimeout.
func (s *Shards) migrate(ctx context.Context, cfg Config) error {
	var failing time.Time
	for {
		err := s.migrateAll(ctx, cfg)
		if err == nil || !Transient(err) {
			return err
		}
		if failing.IsZero() {
			failing = time.Now()
		}
		if time.Since(failing) > cfg.ConnectTimeout {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(lockPause):
		}
	}
}

func (s *Shards) migrateAll(ctx context.Context, cfg Config) error {
	if cfg.MustExist {
		if err := s.exists(ctx); err != nil {
			return err
		}
	}
	for i, pool := range s.pools {
		if err := migrateShard(ctx, pool, cfg.Migrate); err != nil {
			return fmt.Errorf("shard %d: %w", i, err)
		}
	}
	return nil
}

// prepare creates and verifies. A database that is restarted meanwhile is asked again.
func (s *Shards) prepare(ctx context.Context, cfg Config) error {
	return retryTransient(ctx, func() error {
		if err := s.create(ctx, cfg); err != nil {
			return err
		}
		return s.load(ctx, cfg)
	})
}

func connect(ctx context.Context, dsn string, cfg Config) (*pgxpool.Pool, error) {
	pc, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		// The error of the parser may quote the password.
		return nil, errors.New("not a PostgreSQL connection string")
	}
	pc.MaxConns = cfg.MaxConns
	pc.ConnConfig.Tracer = cfg.Tracer
	pc.MinIdleConns = 1
	pc.MaxConnIdleTime = 5 * time.Minute
	pc.HealthCheckPeriod = 15 * time.Second
	pc.ConnConfig.ConnectTimeout = 5 * time.Second
	// Every query of ours is one of a fixed set: prepared once for each connection, then bound.
	pc.ConnConfig.StatementCacheCapacity = 512
	// A server that was the primary and is one no more keeps its connections: whoever stays at it writes nothing. The next
	// connection leads to the new primary.
	pc.ConnConfig.OnPgError = func(_ *pgconn.PgConn, e *pgconn.PgError) bool {
		return e.SeverityUnlocalized != "FATAL" && e.Code != readOnly
	}
	setDefault(pc.ConnConfig.RuntimeParams, "application_name", "hanse")
	setDefault(pc.ConnConfig.RuntimeParams, "timezone", "UTC")
	// Short queries only: compiling them costs more than running them.
	setDefault(pc.ConnConfig.RuntimeParams, "jit", "off")
	// A worker that is stopped inside a transaction must not hold its locks: whoever takes over waits for them.
	setDefault(pc.ConnConfig.RuntimeParams, "idle_in_transaction_session_timeout", "5s")
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	if err := retryTransient(ctx, func() error { return pool.Ping(ctx) }); err != nil {
		pool.Close()
		return nil, fmt.Errorf("connect: %w", err)
	}
	return pool, nil
}

func setDefault(m map[string]string, k, v string) {
	if _, ok := m[k]; !ok {
		m[k] = v
	}
}

// retryTransient repeats f while it fails with errors that pass by themselves, until the context ends.
func retryTransient(ctx context.Context, f func() error) error {
	wait := 50 * time.Millisecond
	for {
		err := f()
		if err == nil || !Transient(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
		wait = min(2*wait, time.Second)
	}
}

// P returns the number of partitions of the cluster.
func (s *Shards) P() uint32 { return uint32(len(s.shardOf)) }

// ClusterID returns the random name that the cluster got when it was created.
func (s *Shards) ClusterID() string { return s.clusterID }

// For returns the pool of the shard that holds the partition; part must be less than P.
func (s *Shards) For(part uint32) *pgxpool.Pool { return s.pools[s.shardOf[part]] }

// All returns the pools of all shards by shard index.
func (s *Shards) All() []*pgxpool.Pool { return s.pools }

// Groups sorts partitions by the shard that holds them, for queries that name many.
func (s *Shards) Groups(parts []uint32) map[*pgxpool.Pool][]uint32 {
	groups := make(map[*pgxpool.Pool][]uint32, len(s.pools))
	for _, part := range parts {
		pool := s.For(part)
		groups[pool] = append(groups[pool], part)
	}
	return groups
}

// Ping reports whether all shards answer.
func (s *Shards) Ping(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for i, pool := range s.pools {
		g.Go(func() error {
			if err := pool.Ping(ctx); err != nil {
				return fmt.Errorf("shard %d: %w", i, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// Close closes the pools; it waits for connections in use.
func (s *Shards) Close() {
	for _, pool := range s.pools {
		pool.Close()
	}
}
