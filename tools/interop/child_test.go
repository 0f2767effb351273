//go:build interop

package interop

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// child is a server of others that runs beside Hanse.
type child struct {
	name    string
	dir     string // where it runs and writes
	command []string
	env     []string // besides ours
	logs    []string // names in dir; output.log is one
	baseURL string   // its client API
	cmd     *exec.Cmd
	exited  chan error
}

// start runs the server and returns when it answers.
func (c *child) start(ctx context.Context) error {
	c.cmd = exec.Command(c.command[0], c.command[1:]...)
	c.cmd.Dir = c.dir
	c.cmd.Env = append(os.Environ(), c.env...)
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := os.OpenFile(filepath.Join(c.dir, "output.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	c.cmd.Stdout, c.cmd.Stderr = out, out
	if err := c.cmd.Start(); err != nil {
		return err
	}
	c.exited = make(chan error, 1)
	go func() { c.exited <- c.cmd.Wait() }()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-c.exited:
			c.exited <- err
			return fmt.Errorf("%s ended: %w\n%s", c.name, err, c.tail())
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w\n%s", c.name, ctx.Err(), c.tail())
		case <-tick.C:
		}
		resp, err := http.Get(c.baseURL + "/_matrix/client/versions")
		if err != nil {
			continue
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return nil
		}
	}
}

// stop ends the server.
func (c *child) stop() error {
	if c.cmd == nil || c.cmd.Process == nil {
		return nil
	}
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-c.exited:
	case <-time.After(20 * time.Second):
		_ = c.cmd.Process.Kill()
		<-c.exited
	}
	c.cmd = nil
	return nil
}

// tail returns the ends of the server's logs.
func (c *child) tail() string {
	var b strings.Builder
	for _, name := range c.logs {
		text, err := os.ReadFile(filepath.Join(c.dir, name))
		if err != nil {
			continue
		}
		fmt.Fprintf(&b, "--- %s of %s\n%s\n", name, c.name, text[max(0, len(text)-6000):])
	}
	return b.String()
}
