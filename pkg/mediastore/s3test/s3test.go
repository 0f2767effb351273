// Package s3test runs an S3 gateway over a directory, for tests of the object store: versitygw, which make bin/versitygw builds.
package s3test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"gocloud.dev/blob/s3blob"

	"hanse/pkg/await"
	"hanse/pkg/freeport"
)

// Gateway is an S3 server. A test may kill it and start it again; what it has stored stays.
type Gateway struct {
	t    testing.TB
	dir  string
	addr string
	out  bytes.Buffer
	cmd  *exec.Cmd
}

const (
	access, secret = "hanse-test", "hanse-test-secret"
	region         = "us-east-1"
	patience       = time.Minute
)

// New starts a gateway, which ends with the test. It puts the gateway's credentials into the environment, where the driver
// looks for them.
func New(t testing.TB) *Gateway {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", access)
	t.Setenv("AWS_SECRET_ACCESS_KEY", secret)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	port, err := freeport.Port()
	if err != nil {
		t.Fatal(err)
	}
	g := &Gateway{t: t, dir: t.TempDir(), addr: fmt.Sprintf("127.0.0.1:%d", port)}
	for _, sub := range []string{"data", "meta"} {
		if err := os.Mkdir(filepath.Join(g.dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	g.Start()
	t.Cleanup(g.Kill)
	return g
}

// binary finds bin/versitygw beside the file go.work.
func binary(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			break
		}
	}
	path := filepath.Join(dir, "bin", "versitygw")
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: make bin/versitygw builds it", err)
	}
	return path
}

// Start starts the gateway, and waits until it answers.
func (g *Gateway) Start() {
	g.t.Helper()
	// Metadata beside the files: not every file system of a temporary directory has extended attributes.
	g.cmd = exec.Command(binary(g.t), "--access", access, "--secret", secret, "--region", region, "--port", g.addr, "--health", "/health", "--quiet",
		"posix", "--sidecar", filepath.Join(g.dir, "meta"), filepath.Join(g.dir, "data"))
	g.cmd.Stdout, g.cmd.Stderr = &g.out, &g.out
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := g.cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	await.Nil(g.t, patience, "the S3 gateway answers", func() error {
		resp, err := http.Get("http://" + g.addr + "/health")
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d", resp.StatusCode)
		}
		return nil
	})
}

// Kill kills the gateway in the middle of what it does.
func (g *Gateway) Kill() {
	if g.cmd == nil {
		return
	}
	_ = g.cmd.Process.Kill()
	_ = g.cmd.Wait() // it was killed
	g.cmd = nil
	if g.t.Failed() {
		g.t.Logf("the S3 gateway: %s", &g.out)
	}
}

// Bucket makes a bucket and returns its URL, as media.store.url has it.
func (g *Gateway) Bucket() string {
	g.t.Helper()
	name := "b" + strings.ToLower(rand.Text())
	text := fmt.Sprintf("s3://%s?region=%s&endpoint=%s&use_path_style=true", name, region, url.QueryEscape("http://"+g.addr))
	u, err := url.Parse(text)
	if err != nil {
		g.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	b, err := new(s3blob.URLOpener).OpenBucketURL(ctx, u)
	if err != nil {
		g.t.Fatal(err)
	}
	defer b.Close()
	var client *s3.Client
	if !b.As(&client) {
		g.t.Fatal("the bucket has no S3 client")
	}
	if _, err := client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &name}); err != nil {
		g.t.Fatal(err)
	}
	return text
}
