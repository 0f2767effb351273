package cluster

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"hanse/pkg/freeport"
	"hanse/pkg/pg/local"
)

// database is the name of the cluster's database on each PostgreSQL server.
const database = "hanse"

func (c *Cluster) startPostgres(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for i := range c.cfg.Shards {
		name := fmt.Sprintf("postgresql-%d", i)
		p := &postgres{name: name, ended: c.cfg.Ended, cfg: local.Config{Dir: filepath.Join(c.cfg.Dir, name), Unsafe: c.cfg.Unsafe}}
		c.pgs = append(c.pgs, p)
		g.Go(func() error { return p.start(ctx) })
	}
	return g.Wait()
}

func (p *postgres) start(ctx context.Context) error {
	srv, err := local.Start(ctx, p.cfg)
	if err != nil {
		return err
	}
	p.server = srv
	if p.ended != nil {
		go func() {
			<-srv.Exited()
			p.ended(p.name, "process "+fmt.Sprint(srv.PID()))
		}()
	}
	p.cfg.Sockets = srv.Sockets() // a restarted server is found where it was
	return srv.EnsureDatabase(ctx, database)
}

func (c *Cluster) startNATS(ctx context.Context) (err error) {
	program, err := find("nats-server", "nats-server")
	if err != nil {
		return err
	}
	if c.natsAddr, err = freeport.Addr(); err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(c.natsAddr)
	if err != nil {
		return err
	}
	c.nats = &process{name: "nats", log: filepath.Join(c.cfg.Dir, "log", "nats.log"), ended: c.cfg.Ended,
		args: []string{program, "-a", host, "-p", port, "-js", "-sd", c.natsDir()}}
	return c.StartNATS(ctx)
}

func (c *Cluster) natsDir() string { return filepath.Join(c.cfg.Dir, "nats") }

func (c *Cluster) startRedis(ctx context.Context) (err error) {
	program, err := find("redis-server", "redis-server")
	if err != nil {
		return err
	}
	if c.redisAddr, err = freeport.Addr(); err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(c.redisAddr)
	if err != nil {
		return err
	}
	c.redis = &process{name: "redis", log: filepath.Join(c.cfg.Dir, "log", "redis.log"), ended: c.cfg.Ended,
		args: []string{program, "--bind", host, "--port", port, "--save", "", "--appendonly", "no", "--dir", c.cfg.Dir}}
	return c.launchRedis(ctx)
}

func (c *Cluster) launchRedis(ctx context.Context) error {
	if err := c.redis.start(); err != nil {
		return err
	}
	return c.redis.until(ctx, func() bool { return accepts(c.redisAddr) })
}

func accepts(addr string) bool {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

// ready reports whether the worker says so.
func (w *worker) ready(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.monitoring+"/readyz", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err == nil && resp.StatusCode == http.StatusOK
}

var build struct {
	sync.Once
	path string
	err  error
}

// Build compiles the hanse program once for this process, with the race detector if HANSE_RACE is set, and returns
// its path.
func Build() (string, error) {
	build.Do(func() {
		build.path = filepath.Join(os.TempDir(), fmt.Sprintf("hanse-%d", os.Getuid()), "hanse")
		args := []string{"build", "-o", build.path}
		if os.Getenv("HANSE_RACE") != "" {
			args = append(args, "-race")
		}
		unlock, err := lockBuild(filepath.Dir(build.path))
		if err != nil {
			build.err = err
			return
		}
		defer unlock()
		cmd := exec.Command("go", append(args, "hanse/services/cmd/hanse")...)
		if out, err := cmd.CombinedOutput(); err != nil {
			build.err = fmt.Errorf("build hanse: %w: %s", err, out)
		}
	})
	return build.path, build.err
}

// lockBuild lets one test process build at a time; 'go build' replaces the file, which running programs survive.
func lockBuild(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}
