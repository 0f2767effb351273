//go:build interop

package interop

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hanse/tools/cluster"
)

// The servers that all tests share.
var (
	hanse *cluster.Cluster
	other *synapse
	third *dendrite // nil until a test wants it
	// home is where the servers keep what they write.
	home string
	// authority is the CA that both trust.
	authority *cluster.CA
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "hanse-interop-")
	home = dir
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := 1
	defer func() {
		if code == 0 {
			_ = os.RemoveAll(dir)
		} else {
			fmt.Fprintln(os.Stderr, "logs are in", dir)
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if err := start(ctx, dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return code
	}
	defer func() {
		if err := hanse.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		if err := other.close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		if third != nil {
			if err := third.stop(); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	}()
	if code = m.Run(); code != 0 {
		hanse.DumpLogs(os.Stderr)
		fmt.Fprintln(os.Stderr, other.tail())
		if third != nil {
			fmt.Fprintln(os.Stderr, third.tail())
		}
	}
	return code
}

func start(ctx context.Context, dir string) error {
	var err error
	if authority, err = cluster.OpenCA(dir); err != nil {
		return err
	}
	synapseDir := filepath.Join(dir, "synapse")
	if err := os.Mkdir(synapseDir, 0o700); err != nil {
		return err
	}
	if other, err = newSynapse(ctx, synapseDir, authority); err != nil {
		return err
	}
	if err := other.start(ctx); err != nil {
		return err
	}
	hanse, err = cluster.Start(ctx, cluster.Config{Dir: filepath.Join(dir, "hanse"), CA: authority, Host: "localhost", Unsafe: true})
	return err
}
