package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"hanse/pkg/pg/local"
)

// database is the name of the database in the private PostgreSQL.
const database = "hanse"

// lockData takes the data directory for this process, until it ends.
func lockData(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("data directory %s: %w", dir, errDataInUse)
		}
		return nil, fmt.Errorf("data directory: lock: %w", err)
	}
	return f, nil
}

// errDataInUse says that another process has the data directory.
var errDataInUse = errors.New("is used by another hanse process")

// startPostgres starts the private PostgreSQL and makes it the cluster's only shard.
func startPostgres(ctx context.Context, cfg *Config, log *slog.Logger) (*local.Server, error) {
	log.Info("starting private PostgreSQL", "dir", cfg.postgresDir())
	srv, err := local.Start(ctx, local.Config{Dir: cfg.postgresDir()})
	if err != nil {
		return nil, err
	}
	if err := srv.EnsureDatabase(ctx, database); err != nil {
		return nil, errors.Join(err, srv.Stop())
	}
	cfg.PostgreSQL.Shards = []string{srv.DSN(database)}
	return srv, nil
}

// age lets time pass for the server inside this process, whose keys do not go by themselves.
func age(srv *miniredis.Miniredis, ended <-chan struct{}) {
	const step = time.Second
	tick := time.NewTicker(step)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return
		case <-tick.C:
			srv.FastForward(step)
		}
	}
}

// openRedis connects to Redis, or starts one inside this process. What it keeps is a cache: it may be empty at any
// time, and a Redis that does not answer is not a reason not to start.
func openRedis(cfg Redis) (client redis.UniversalClient, stop func(), err error) {
	if cfg.URL == "" {
		srv, err := miniredis.Run()
		if err != nil {
			return nil, nil, fmt.Errorf("embedded redis: %w", err)
		}
		client := redis.NewClient(&redis.Options{Addr: srv.Addr(), PoolSize: 16, ContextTimeoutEnabled: true})
		ended := make(chan struct{})
		go age(srv, ended)
		return client, func() { close(ended); _ = client.Close(); srv.Close() }, nil
	}
	opts, err := redis.ParseURL(cfg.URL)
	if err != nil {
		return nil, nil, errors.New("redis.url: want redis://host:port/db")
	}
	opts.ContextTimeoutEnabled = true // who asks says how long a cache may take
	c := redis.NewClient(opts)
	return c, func() { _ = c.Close() }, nil
}
