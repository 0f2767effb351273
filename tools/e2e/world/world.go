package world

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"

	"hanse/tools/cluster"
	"hanse/tools/e2e/people"
	"hanse/tools/mxclient"
)

// Config describes a world; the zero value of each field has a use.
type Config struct {
	// Servers is the number of clusters; 2 if zero.
	Servers  int
	AllInOne bool
	// Replicas of each role; 2 if zero.
	Replicas int
	// Settings are configuration values of all clusters: YAML by key.
	Settings map[string]string
	// Kinds are the clients' libraries; none if empty.
	Kinds []people.Kind
}

// World is two clusters and people's clients.
type World struct {
	Servers []*Server
	Watch   *Watch
	hosts   map[people.Kind]*people.Host
	dir     string
}

// Server is a cluster.
type Server struct {
	*cluster.Cluster
	// API speaks to it without an account.
	API *mxclient.Client
}

// Start starts the clusters and the clients' processes, all at once.
func Start(ctx context.Context, cfg Config) (*World, error) {
	if cfg.Servers == 0 {
		cfg.Servers = 2
	}
	watch, err := NewWatch()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "hanse-e2e-")
	if err != nil {
		return nil, err
	}
	w := &World{Servers: make([]*Server, cfg.Servers), Watch: watch, hosts: make(map[people.Kind]*people.Host), dir: dir}
	if err := w.start(ctx, cfg); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

func (w *World) start(ctx context.Context, cfg Config) error {
	ca, err := cluster.OpenCA(w.dir)
	if err != nil {
		return err
	}
	var g errgroup.Group
	for i := range w.Servers {
		g.Go(func() error {
			c, err := cluster.Start(ctx, cluster.Config{
				Dir: filepath.Join(w.dir, fmt.Sprintf("cluster-%d", i)), CA: ca, Unsafe: true, AllInOne: cfg.AllInOne,
				Replicas: cfg.Replicas, Transport: w.Watch.Transport, Settings: cfg.Settings,
				Host: [...]string{"localhost", "127.0.0.1"}[i%2],
			})
			if err != nil {
				return err
			}
			w.Servers[i] = &Server{Cluster: c, API: mxclient.New(c.BaseURL, mxclient.Options{})}
			return nil
		})
	}
	hosts := make([]*people.Host, len(cfg.Kinds))
	for i, kind := range cfg.Kinds {
		g.Go(func() (err error) {
			hosts[i], err = people.Start(kind, w.dir)
			return err
		})
	}
	err = g.Wait()
	for i, kind := range cfg.Kinds {
		if hosts[i] != nil {
			w.hosts[kind] = hosts[i]
		}
	}
	return err
}

// Host returns the process of a kind of clients.
func (w *World) Host(kind people.Kind) *people.Host { return w.hosts[kind] }

// DumpLogs writes the end of each process's log, for a test that failed.
func (w *World) DumpLogs(to io.Writer) {
	for i, s := range w.Servers {
		if s != nil {
			fmt.Fprintf(to, "=== cluster %d, %s\n", i, s.ServerName)
			s.DumpLogs(to)
		}
	}
}

// Errors returns the lines of the workers' logs that tell of errors.
func (w *World) Errors() []string {
	var lines []string
	files, err := filepath.Glob(filepath.Join(w.dir, "cluster-*", "log", "*.log"))
	if err != nil {
		return []string{err.Error()}
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			lines = append(lines, err.Error())
			continue
		}
		for line := range strings.Lines(string(raw)) {
			if strings.Contains(line, `"level":"ERROR"`) || strings.HasPrefix(line, "panic:") || strings.Contains(line, "DATA RACE") {
				lines = append(lines, filepath.Base(filepath.Dir(filepath.Dir(file)))+"/"+filepath.Base(file)+": "+strings.TrimSpace(line))
			}
		}
	}
	return lines
}

// Close ends everything and deletes its data.
func (w *World) Close() error {
	var errs []error
	for _, h := range w.hosts {
		errs = append(errs, h.Close())
	}
	var g errgroup.Group
	for _, s := range w.Servers {
		if s != nil {
			g.Go(s.Close)
		}
	}
	errs = append(errs, g.Wait())
	if os.Getenv("HANSE_E2E_KEEP") != "" {
		fmt.Fprintln(os.Stderr, "kept:", w.dir)
		return errors.Join(errs...)
	}
	return errors.Join(append(errs, os.RemoveAll(w.dir))...)
}
