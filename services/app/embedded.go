package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
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

// aging lets time pass for the Redis inside this process, whose keys do not go by themselves: before a command, so that nothing
// has to be done while there are none. It is a redis.Hook.
type aging struct {
	srv *miniredis.Miniredis

	mu   sync.Mutex
	upTo time.Time // what has passed
}

func (a *aging) pass() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if d := time.Since(a.upTo).Truncate(time.Second); d > 0 {
		a.srv.FastForward(d)
		a.upTo = a.upTo.Add(d)
	}
}

func (a *aging) DialHook(next redis.DialHook) redis.DialHook { return next }

func (a *aging) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		a.pass()
		return next(ctx, cmd)
	}
}

func (a *aging) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		a.pass()
		return next(ctx, cmds)
	}
}

// openRedis connects to Redis, or starts one inside this process. What it keeps is a cache: it may be empty at any
// time, and a Redis that does not answer is not a reason not to start.
func openRedis(cfg Redis) (client redis.UniversalClient, stop func(context.Context) error, err error) {
	if cfg.URL == "" {
		client, stop = embeddedRedis()
		return client, stop, nil
	}
	if client, err = cfg.client(); err != nil {
		return nil, nil, err
	}
	return client, func(context.Context) error { return client.Close() }, nil
}

// client is the client of the Redis that the URL names, or of the one that its Sentinels name. It connects when it is used.
func (r *Redis) client() (redis.UniversalClient, error) {
	u, err := url.Parse(r.URL)
	if err == nil && u.Query().Has("master_name") {
		opts, err := redis.ParseFailoverURL(r.URL)
		if err != nil || opts.MasterName == "" {
			return nil, errors.New("redis.url: want redis://sentinel:26379/db?master_name=name&addr=sentinel-2:26379")
		}
		opts.ContextTimeoutEnabled = true
		return redis.NewFailoverClient(opts), nil
	}
	opts, err := redis.ParseURL(r.URL)
	if err != nil {
		return nil, errors.New("redis.url: want redis://host:port/db")
	}
	opts.ContextTimeoutEnabled = true // who asks says how long a cache may take
	return redis.NewClient(opts), nil
}

// embeddedRedis starts a Redis that listens on nothing: nobody but this process reaches it.
func embeddedRedis() (redis.UniversalClient, func(context.Context) error) {
	srv := miniredis.NewMiniRedis()
	client := redis.NewClient(&redis.Options{PoolSize: 16, ContextTimeoutEnabled: true,
		Dialer: func(context.Context, string, string) (net.Conn, error) { return srv.Dial() }})
	client.AddHook(&aging{srv: srv, upTo: time.Now()})
	return client, func(ctx context.Context) error {
		err := client.Close()
		closed := make(chan struct{})
		go func() {
			srv.Close() // it waits for commands that run; a script may run for ever
			close(closed)
		}()
		select {
		case <-closed:
			return err
		case <-ctx.Done():
			return errors.Join(err, fmt.Errorf("embedded redis: a command does not end: %w", ctx.Err()))
		}
	}
}
