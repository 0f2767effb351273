// Command run-cluster runs whole clusters on this machine until it is interrupted: 'make run-cluster'.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
	"golang.org/x/sync/errgroup"

	"hanse/tools/cluster"
)

var cli struct {
	Dir      string            `default:"run" help:"Directory for data and logs."`
	Binary   string            `default:"bin/hanse" help:"The hanse program."`
	Clusters int               `default:"1" help:"Number of clusters; they federate."`
	Replicas int               `default:"2" help:"Replicas of each role."`
	Shards   int               `default:"2" help:"PostgreSQL servers of each cluster."`
	AllInOne bool              `help:"One process for all roles, with everything embedded."`
	Port     int               `default:"8448" help:"HTTPS port of the first cluster; the next ones are 10 higher each. Plain HTTP for clients is one above."`
	Set      map[string]string `help:"Configuration values: YAML by key." placeholder:"KEY=VALUE" mapsep:"none"`
}

func main() {
	kong.Parse(&cli, kong.Name("run-cluster"), kong.UsageOnError())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "run-cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	if err := os.MkdirAll(cli.Dir, 0o755); err != nil {
		return err
	}
	ca, err := cluster.OpenCA(cli.Dir)
	if err != nil {
		return err
	}
	clusters := make([]*cluster.Cluster, cli.Clusters)
	defer func() {
		fmt.Println("stopping")
		if closeErr := closeAll(clusters); err == nil {
			err = closeErr
		}
	}()
	for i := range clusters {
		c, err := cluster.Start(ctx, cluster.Config{
			Dir: filepath.Join(cli.Dir, fmt.Sprintf("cluster-%d", i)), Binary: cli.Binary, CA: ca,
			Replicas: cli.Replicas, Shards: cli.Shards, AllInOne: cli.AllInOne,
			HTTPSPort: cli.Port + 10*i, HTTPPort: cli.Port + 10*i + 1,
			Settings: cli.Set, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		})
		if err != nil {
			return err
		}
		clusters[i] = c
		describe(c)
	}
	fmt.Println("\nEnd with Ctrl-C. Kill what you like, with its process id; 'kill -STOP' and 'kill -CONT' too.")
	<-ctx.Done()
	return nil
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
	pids := c.PIDs()
	var list []string
	for _, name := range slices.Sorted(maps.Keys(pids)) {
		list = append(list, fmt.Sprintf("%s %d", name, pids[name]))
	}
	fmt.Printf("  processes                      %s\n", strings.Join(list, ", "))
}
