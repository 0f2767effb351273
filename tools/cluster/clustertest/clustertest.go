// Package clustertest gives a test program the clusters that its tests share: in one temporary directory, with one CA, so
// that they federate. They end with the program; the directory goes if all went well.
package clustertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"hanse/tools/cluster"
	"hanse/tools/mxclient"
)

// startPatience bounds the time before the tests: a busy machine is slow.
const startPatience = 6 * time.Minute

// Yard is where a test program has its clusters. It is not safe for concurrent use.
type Yard struct {
	CA  *cluster.CA
	dir string

	clusters []*cluster.Cluster
}

// Main is what a TestMain exits with: it opens a yard, runs the tests, and closes what was started. Prefix is the
// beginning of the directory's name; begin starts what all tests need, and its context ends with that.
func Main(prefix string, begin func(ctx context.Context, y *Yard) error, tests func() int) (code int) {
	failed := func(err error) {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	dir, err := os.MkdirTemp("", prefix)
	if err != nil {
		failed(err)
		return code
	}
	y := &Yard{dir: dir}
	if err := y.open(begin); err != nil {
		failed(err)
	} else {
		code = tests()
	}
	if code != 0 {
		for _, c := range y.clusters {
			c.DumpLogs(os.Stderr)
		}
	}
	if err := y.close(); err != nil {
		failed(err)
	}
	if code == 0 {
		_ = os.RemoveAll(dir) // what is left in a temporary directory harms nobody
	} else {
		fmt.Fprintln(os.Stderr, "logs are in", dir)
	}
	return code
}

func (y *Yard) open(begin func(context.Context, *Yard) error) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	if y.CA, err = cluster.OpenCA(y.dir); err != nil {
		return err
	}
	return begin(ctx, y)
}

// Start starts a cluster, whose data and logs are in a directory of that name.
func (y *Yard) Start(ctx context.Context, name string, cfg cluster.Config) (*cluster.Cluster, error) {
	cfg.Dir, cfg.CA = filepath.Join(y.dir, name), y.CA
	c, err := cluster.Start(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("cluster %s: %w", name, err)
	}
	y.clusters = append(y.clusters, c)
	return c, nil
}

func (y *Yard) close() error {
	var errs []error
	for _, c := range y.clusters {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// Password is that of all accounts.
const Password = "correct horse battery"

// Register makes accounts.
func Register(ctx context.Context, c *cluster.Cluster, how mxclient.Options, names ...string) ([]*mxclient.Client, error) {
	all := mxclient.New(c.BaseURL, how)
	var out []*mxclient.Client
	for _, name := range names {
		p, err := all.RegisterShared(ctx, c.SharedSecret, name, Password, false)
		if err != nil {
			return nil, fmt.Errorf("register %s: %w", name, err)
		}
		out = append(out, p)
	}
	return out, nil
}
