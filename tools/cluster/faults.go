package cluster

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"hanse/tools/edge"
)

func (c *Cluster) worker(role string, i int) (*worker, error) {
	list := c.workers[role]
	if i < 0 || i >= len(list) {
		return nil, fmt.Errorf("there is no %s-%d", role, i)
	}
	return list[i], nil
}

// Replicas returns the number of workers of a role; "all" is the role of the worker of an all-in-one cluster.
func (c *Cluster) Replicas(role string) int { return len(c.workers[role]) }

// PID returns the process id of a worker, 0 if it is not running.
func (c *Cluster) PID(role string, i int) int {
	w, err := c.worker(role, i)
	if err != nil {
		return 0
	}
	return w.pid()
}

// PIDs returns the process ids of everything that runs, by name: "room-0", "nats", "postgresql-1".
func (c *Cluster) PIDs() map[string]int {
	pids := make(map[string]int)
	add := func(name string, pid int) {
		if pid != 0 {
			pids[name] = pid
		}
	}
	for _, list := range c.workers {
		for _, w := range list {
			add(w.name, w.pid())
		}
	}
	for _, p := range []*process{c.nats, c.redis} {
		if p != nil {
			add(p.name, p.pid())
		}
	}
	for _, p := range c.pgs {
		if p.running() {
			add(p.name, p.server.PID())
		}
	}
	return pids
}

// MonitoringURLs returns the base of /readyz and /metrics of each worker, by name.
func (c *Cluster) MonitoringURLs() map[string]string {
	urls := make(map[string]string)
	for _, list := range c.workers {
		for _, w := range list {
			urls[w.name] = "http://" + w.monitoring
		}
	}
	return urls
}

// Bring starts a process that has ended, by its name in PIDs, and returns when it is ready.
func (c *Cluster) Bring(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for _, list := range c.workers {
		for _, w := range list {
			if w.name == name {
				return w.startReady(ctx)
			}
		}
	}
	for _, p := range c.pgs {
		switch {
		case p.name != name:
		case p.running():
			return fmt.Errorf("%s is running", name)
		default:
			return p.start(ctx)
		}
	}
	switch {
	case c.nats != nil && name == c.nats.name:
		return c.StartNATS(ctx)
	case c.redis != nil && name == c.redis.name:
		return c.launchRedis(ctx)
	}
	return fmt.Errorf("there is no process %q", name)
}

// LogFile returns where a worker writes its log.
func (c *Cluster) LogFile(role string, i int) string {
	w, err := c.worker(role, i)
	if err != nil {
		return ""
	}
	return w.log
}

// MonitoringURL returns the base of a worker's /readyz and /metrics.
func (c *Cluster) MonitoringURL(role string, i int) string {
	w, err := c.worker(role, i)
	if err != nil {
		return ""
	}
	return "http://" + w.monitoring
}

// DirectURL returns the API of one worker, past the proxy: the client API, or the federation API of a fedin.
func (c *Cluster) DirectURL(role string, i int) string {
	w, err := c.worker(role, i)
	switch {
	case err != nil:
		return ""
	case w.client != "":
		return "http://" + w.client
	default:
		return "http://" + w.federation
	}
}

// Kill ends a worker with SIGKILL and waits until it is gone.
func (c *Cluster) Kill(role string, i int) error {
	w, err := c.worker(role, i)
	if err != nil {
		return err
	}
	return w.stop(syscall.SIGKILL, stopPatience)
}

// Terminate ends a worker with SIGTERM and waits until it has handed over and is gone.
func (c *Cluster) Terminate(role string, i int) error {
	w, err := c.worker(role, i)
	if err != nil {
		return err
	}
	return w.stop(syscall.SIGTERM, drainPatience)
}

// Pause stops a worker with SIGSTOP: it stands still and notices nothing until Resume.
func (c *Cluster) Pause(role string, i int) error { return c.signal(role, i, syscall.SIGSTOP) }

// Resume lets a worker go on (SIGCONT).
func (c *Cluster) Resume(role string, i int) error { return c.signal(role, i, syscall.SIGCONT) }

func (c *Cluster) signal(role string, i int, sig syscall.Signal) error {
	w, err := c.worker(role, i)
	if err != nil {
		return err
	}
	return w.process.signal(sig)
}

// Launch starts a worker that has ended, and returns when it is ready.
func (c *Cluster) Launch(ctx context.Context, role string, i int) error {
	w, err := c.worker(role, i)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	return w.startReady(ctx)
}

// Restart ends a worker with SIGTERM and starts it again, as a rolling update does.
func (c *Cluster) Restart(ctx context.Context, role string, i int) error {
	if err := c.Terminate(role, i); err != nil {
		return err
	}
	return c.Launch(ctx, role, i)
}

// RollingRestart restarts all workers, one after the other.
func (c *Cluster) RollingRestart(ctx context.Context) error {
	for _, role := range append([]string{"all"}, Roles...) {
		for i := range c.workers[role] {
			if err := c.Restart(ctx, role, i); err != nil {
				return err
			}
		}
	}
	return nil
}

// Shards returns the connection strings of the cluster's databases.
func (c *Cluster) Shards() []string {
	var dsns []string
	for _, p := range c.pgs {
		dsns = append(dsns, p.server.DSN(database))
	}
	return dsns
}

// RestartPostgres restarts one shard: cleanly, or as after a power failure.
func (c *Cluster) RestartPostgres(ctx context.Context, shard int, crash bool) error {
	p := c.pgs[shard]
	if crash {
		p.server.Crash()
	} else if err := p.server.Stop(); err != nil {
		return err
	}
	return p.start(ctx)
}

// StopNATS ends the bus.
func (c *Cluster) StopNATS() error { return c.nats.stop(syscall.SIGKILL, stopPatience) }

// StartNATS starts the bus again, with the data that it left.
func (c *Cluster) StartNATS(ctx context.Context) error {
	if err := c.nats.start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	return c.nats.until(ctx, func() bool { return accepts(c.natsAddr) })
}

// WipeNATS ends the bus and deletes its data; StartNATS starts an empty one.
func (c *Cluster) WipeNATS() error {
	if err := c.StopNATS(); err != nil {
		return err
	}
	return os.RemoveAll(c.natsDir())
}

// CutFederation lets no other server reach this cluster, as a broken network would, until it is called with false. To
// cut two clusters apart, call it for both.
func (c *Cluster) CutFederation(cut bool) { c.edge.Cut(edge.RoleFedin, cut) }

// FlushRedis deletes everything in Redis.
func (c *Cluster) FlushRedis(ctx context.Context) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.redisAddr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("*1\r\n$8\r\nFLUSHALL\r\n")); err != nil {
		return err
	}
	answer := make([]byte, 64)
	n, err := conn.Read(answer)
	if err != nil || string(answer[:n]) != "+OK\r\n" {
		return fmt.Errorf("FLUSHALL: %q, %w", answer[:n], err)
	}
	return nil
}

// Owners returns the names of the workers that own the partitions, "" for one that nobody owns: what 'hanse partition
// list' says.
func (c *Cluster) Owners(ctx context.Context) ([]string, error) {
	out, err := exec.CommandContext(ctx, c.cfg.Binary, "partition", "list", "--config", c.ConfigFile()).Output()
	if err != nil {
		return nil, fmt.Errorf("partition list: %w", err)
	}
	var owners []string
	for i, line := range strings.Split(strings.TrimSpace(string(out)), "\n")[1:] {
		f := strings.Fields(line)
		if len(f) < 3 || f[0] != strconv.Itoa(i) {
			return nil, fmt.Errorf("partition list: %s", line)
		}
		if len(f) < 7 {
			f[2] = "" // a partition without an owner has fewer columns
		}
		owners = append(owners, f[2])
	}
	return owners, nil
}
