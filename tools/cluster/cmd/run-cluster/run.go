package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"hanse/tools/cluster"
)

type runCmd struct {
	Binary   string            `default:"bin/hanse" help:"The hanse program."`
	Clusters int               `default:"1" help:"Number of clusters; they federate."`
	Replicas int               `default:"2" help:"Replicas of each role."`
	Shards   int               `default:"2" help:"PostgreSQL servers of each cluster."`
	AllInOne bool              `help:"One process for all roles, with everything embedded."`
	Port     int               `default:"8448" help:"HTTPS port of the first cluster; the next ones are 10 higher each. Plain HTTP for clients is one above."`
	Set      map[string]string `help:"Configuration values: YAML by key." placeholder:"KEY=VALUE" mapsep:"none"`
}

func (r *runCmd) Run(ctx context.Context) (err error) {
	if err := os.MkdirAll(cli.Dir, 0o755); err != nil {
		return err
	}
	ca, err := cluster.OpenCA(cli.Dir)
	if err != nil {
		return err
	}
	clusters := make([]*cluster.Cluster, r.Clusters)
	defer func() {
		fmt.Println("stopping")
		if closeErr := closeAll(clusters); err == nil {
			err = closeErr
		}
	}()
	for i := range clusters {
		c, err := cluster.Start(ctx, cluster.Config{
			Dir: filepath.Join(cli.Dir, fmt.Sprintf("cluster-%d", i)), Binary: r.Binary, CA: ca,
			Replicas: r.Replicas, Shards: r.Shards, AllInOne: r.AllInOne,
			HTTPSPort: r.Port + 10*i, HTTPPort: r.Port + 10*i + 1,
			Settings: r.Set, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
			Ended: func(name, how string) { r.tell(ctx, i, name, how) },
		})
		if err != nil {
			return err
		}
		clusters[i] = c
		describe(c)
	}
	stop, err := serveControl(cli.Dir, clusters)
	if err != nil {
		return err
	}
	defer stop()
	fmt.Println("\nEnd with Ctrl-C. Kill what you like, with its process id; 'kill -STOP' and 'kill -CONT' too.")
	<-ctx.Done()
	return nil
}

// tell says that a process has ended, and how it is brought back; not while everything is being stopped.
func (r *runCmd) tell(ctx context.Context, i int, name, how string) {
	if ctx.Err() != nil {
		return
	}
	which := ""
	if r.Clusters > 1 {
		which = fmt.Sprintf(" --cluster %d", i)
	}
	fmt.Printf("%s has ended (%s). Bring it back with: bin/run-cluster start --dir %s%s %s\n", name, how, cli.Dir, which, name)
}

func closeAll(clusters []*cluster.Cluster) error {
	var g errgroup.Group
	for _, c := range clusters {
		if c != nil {
			g.Go(c.Close)
		}
	}
	return g.Wait()
}

func describe(c *cluster.Cluster) {
	fmt.Printf("\nHanse cluster %s\n", c.ServerName)
	fmt.Printf("  for clients (homeserver URL)   %s or %s (CA: %s)\n", c.BaseURL, c.HTTPSURL, c.CA.CertFile)
	fmt.Printf("  new account, in another shell  bin/hanse --config %s user create NAME\n", c.ConfigFile())
	fmt.Printf("  logs                           %s\n", c.LogDir())
	fmt.Printf("  processes                      %s\n", list(c.PIDs()))
	fmt.Printf("  metrics                        %s\n", strings.ReplaceAll(list(c.MonitoringURLs()), ",", "/metrics,")+"/metrics")
}

func list[V any](m map[string]V) string {
	var items []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		items = append(items, fmt.Sprintf("%s %v", name, m[name]))
	}
	return strings.Join(items, ", ")
}
