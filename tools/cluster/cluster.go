package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"hanse/pkg/freeport"
	"hanse/pkg/pg/local"
	"hanse/tools/edge"
)

// Roles of a cluster, in the order in which they are started and restarted.
var Roles = []string{"room", "fedout", "client", "sync", "media", "fedin", "push", "appservice"}

// Config describes a cluster; the zero value of each field has a use.
type Config struct {
	// Dir gets data and logs. A second Start on the same directory finds what the first one left.
	Dir string
	// Binary is the hanse program; empty: it is built from the workspace.
	Binary string
	// Replicas of each role; 2 if zero. One process with all roles and everything embedded if AllInOne.
	Replicas int
	AllInOne bool
	// Shards is the number of PostgreSQL servers; 2 if zero.
	Shards int
	// Host is the name in the server name and URLs, "localhost" or "127.0.0.1"; "localhost" if empty.
	Host string
	// Ports of the public HTTPS and HTTP listeners; free ones if zero.
	HTTPSPort, HTTPPort int
	// ServerName is Host:HTTPSPort if empty.
	ServerName string
	// CA signs the certificates; one is made if nil. Clusters that federate share it.
	CA *CA
	// Settings are further configuration values: YAML by key, as {"log.level": "debug"}.
	Settings map[string]string
	// Unsafe runs PostgreSQL without fsync: faster tests, wrong measurements.
	Unsafe bool
	// Transport wraps what carries requests from the proxy to the workers, of clients and of other servers: tests
	// look at what passes. May be nil.
	Transport func(next http.RoundTripper) http.RoundTripper
	// Env is added to the environment of the hanse processes.
	Env []string
	// Ended is called whenever a process of the cluster has ended, whatever the reason, with its name and how it ended:
	// "room-0", "signal: killed". May be nil.
	Ended func(name, how string)
	Log   *slog.Logger
}

// Cluster is a running cluster.
type Cluster struct {
	cfg Config

	ServerName   string
	BaseURL      string // client API, plain HTTP
	HTTPSURL     string // everything, TLS
	SharedSecret string // of /_synapse/admin/v1/register
	CA           *CA
	workers      map[string][]*worker // by role; "all" for AllInOne
	pgs          []*postgres
	nats, redis  *process
	natsAddr     string
	redisAddr    string
	edge         *edge.Edge
	stopEdge     context.CancelFunc
	edgeDone     chan error
}

// worker is one hanse process.
type worker struct {
	*process
	role       string
	client     string // addresses of its listeners; "" for none
	federation string
	monitoring string
}

// startPatience bounds the start of a process, stopPatience the end of one that has nothing to hand over; a busy machine is
// slow.
const (
	startPatience = 3 * time.Minute
	stopPatience  = time.Minute
	drainPatience = 2 * time.Minute // of one that has
)

// Start starts a cluster and returns when every replica is ready. The context bounds the start, not the cluster.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	c := &Cluster{cfg: cfg, CA: cfg.CA, ServerName: cfg.ServerName, SharedSecret: "registration secret of a local cluster",
		workers: make(map[string][]*worker)}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (cfg *Config) complete() (err error) {
	if cfg.Dir == "" {
		return errors.New("cluster: no directory")
	}
	if cfg.Dir, err = filepath.Abs(cfg.Dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(cfg.Dir, "log"), 0o755); err != nil {
		return err
	}
	if cfg.Replicas == 0 {
		cfg.Replicas = 2
	}
	if cfg.Shards == 0 {
		cfg.Shards = 2
	}
	if cfg.Host == "" {
		cfg.Host = "localhost"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.HTTPSPort == 0 {
		if cfg.HTTPSPort, err = freeport.Port(); err != nil {
			return err
		}
	}
	if cfg.HTTPPort == 0 {
		if cfg.HTTPPort, err = freeport.Port(); err != nil {
			return err
		}
	}
	if cfg.ServerName == "" {
		cfg.ServerName = fmt.Sprintf("%s:%d", cfg.Host, cfg.HTTPSPort)
	}
	if cfg.CA == nil {
		if cfg.CA, err = OpenCA(cfg.Dir); err != nil {
			return err
		}
	}
	if cfg.Binary == "" {
		cfg.Binary, err = Build()
	}
	return err
}

func (c *Cluster) start(ctx context.Context) error {
	c.BaseURL = fmt.Sprintf("http://%s:%d", c.cfg.Host, c.cfg.HTTPPort)
	c.HTTPSURL = fmt.Sprintf("https://%s:%d", c.cfg.Host, c.cfg.HTTPSPort)
	var g errgroup.Group
	if !c.cfg.AllInOne {
		g.Go(func() error { return c.startPostgres(ctx) })
		g.Go(func() error { return c.startNATS(ctx) })
		g.Go(func() error { return c.startRedis(ctx) })
		if err := g.Wait(); err != nil {
			return err
		}
	}
	if err := c.layOut(); err != nil {
		return err
	}
	if err := c.writeConfig(); err != nil {
		return err
	}
	if err := c.startEdge(); err != nil {
		return err
	}
	return c.startWorkers(ctx)
}

// layOut decides which processes there are and where they listen.
func (c *Cluster) layOut() error {
	if c.cfg.AllInOne {
		return c.addWorker("all", 0)
	}
	for _, role := range Roles {
		for i := range c.cfg.Replicas {
			if err := c.addWorker(role, i); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Cluster) addWorker(role string, i int) (err error) {
	name := fmt.Sprintf("%s-%d", role, i)
	w := &worker{role: role, process: &process{name: name, log: filepath.Join(c.cfg.Dir, "log", name+".log"), env: c.cfg.Env, ended: c.cfg.Ended}}
	set := map[string]string{"worker_id": name}
	listen := func(key string, addr *string) {
		if err == nil {
			*addr, err = freeport.Addr()
			set["listen."+key+".address"] = *addr
		}
	}
	listen("monitoring", &w.monitoring)
	set["listen.client.address"], set["listen.federation.address"] = "", ""
	if role == "client" || role == "sync" || role == "media" || role == "all" {
		listen("client", &w.client)
	}
	if role == "fedin" || role == "all" {
		listen("federation", &w.federation)
	}
	if role != "all" {
		var grpc string
		listen("grpc", &grpc)
	}
	w.args = []string{c.cfg.Binary, "run", "--config", filepath.Join(c.cfg.Dir, "hanse.yaml")}
	if role != "all" {
		w.args = append(w.args, "--role", role)
	}
	for key, value := range set {
		w.args = append(w.args, "--set", key+"="+value)
	}
	c.workers[role] = append(c.workers[role], w)
	return err
}

func (c *Cluster) startWorkers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	for _, list := range c.workers {
		for _, w := range list {
			g.Go(func() error { return w.startReady(ctx) })
		}
	}
	return g.Wait()
}

func (w *worker) startReady(ctx context.Context) error {
	if err := w.start(); err != nil {
		return err
	}
	return w.until(ctx, func() bool { return w.ready(ctx) })
}

func (c *Cluster) startEdge() error {
	cert, err := c.CA.Issue(c.cfg.Host, "localhost", "127.0.0.1", "::1")
	if err != nil {
		return err
	}
	backends := make(map[string][]edge.Backend)
	for role, list := range c.workers {
		for _, w := range list {
			health := "http://" + w.monitoring + "/readyz"
			if w.client != "" {
				for _, served := range []string{edge.RoleClient, edge.RoleSync, edge.RoleMedia} {
					if role == served || role == "all" {
						backends[served] = append(backends[served], edge.Backend{URL: "http://" + w.client, Health: health})
					}
				}
			}
			if w.federation != "" {
				backends[edge.RoleFedin] = append(backends[edge.RoleFedin], edge.Backend{URL: "http://" + w.federation, Health: health})
			}
		}
	}
	cfg := edge.Config{Backends: backends, Transport: c.cfg.Transport, Log: c.cfg.Log}
	for _, host := range loopbacks() {
		cfg.Listeners = append(cfg.Listeners,
			edge.Listener{Addr: net.JoinHostPort(host, fmt.Sprint(c.cfg.HTTPSPort)), TLS: edgeTLS(cert)},
			edge.Listener{Addr: net.JoinHostPort(host, fmt.Sprint(c.cfg.HTTPPort))})
	}
	c.edge, err = edge.New(cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.stopEdge, c.edgeDone = cancel, make(chan error, 1)
	go func() { c.edgeDone <- c.edge.Run(ctx) }()
	return nil
}

// Close stops everything: the workers first, as an operator would, then what they need. Its error tells which
// processes did not end as they should; all have ended when it returns.
func (c *Cluster) Close() error {
	var errs []error
	var g errgroup.Group
	for _, list := range c.workers {
		for _, w := range list {
			g.Go(func() error {
				if w.running() {
					_ = w.signal(syscall.SIGCONT) // a stopped one must hear the next signal
				}
				return w.stop(syscall.SIGTERM, drainPatience)
			})
		}
	}
	errs = append(errs, g.Wait())
	if c.stopEdge != nil {
		c.stopEdge()
		errs = append(errs, <-c.edgeDone)
	}
	for _, p := range []*process{c.nats, c.redis} {
		if p != nil {
			errs = append(errs, p.stop(syscall.SIGTERM, stopPatience))
		}
	}
	for _, p := range c.pgs {
		errs = append(errs, p.stop())
	}
	return errors.Join(errs...)
}

// DumpLogs copies the end of every process's log, for a test that failed.
func (c *Cluster) DumpLogs(w io.Writer) {
	for _, list := range c.workers {
		for _, one := range list {
			fmt.Fprintf(w, "--- %s\n%s\n", one.name, tail(one.log))
		}
	}
}

// postgres is one shard.
type postgres struct {
	name   string
	cfg    local.Config
	server *local.Server
	ended  func(name, how string)
}

func (p *postgres) running() bool {
	if p.server == nil {
		return false
	}
	select {
	case <-p.server.Exited():
		return false
	default:
		return true
	}
}

func (p *postgres) stop() error {
	if p.server == nil {
		return nil
	}
	return p.server.Stop()
}
