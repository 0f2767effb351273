package cluster

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"time"
)

// CreateUser makes an account with the hanse program, as an administrator does.
func (c *Cluster) CreateUser(ctx context.Context, localpart, password string, admin bool) error {
	args := []string{"user", "create", "--config", c.ConfigFile(), "--password-stdin"}
	if admin {
		args = append(args, "--admin")
	}
	cmd := exec.CommandContext(ctx, c.cfg.Binary, append(args, localpart)...)
	cmd.Stdin = strings.NewReader(password + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("user create: %w: %s", err, out)
	}
	return nil
}

// HTTPClient returns a client that trusts the cluster's CA.
func (c *Cluster) HTTPClient() *http.Client {
	trust := &tls.Config{RootCAs: c.CA.Pool(), MinVersion: tls.VersionTLS12}
	return &http.Client{
		Timeout:   2 * time.Minute,
		Transport: &http.Transport{TLSClientConfig: trust, MaxIdleConnsPerHost: 64, ForceAttemptHTTP2: true},
	}
}
