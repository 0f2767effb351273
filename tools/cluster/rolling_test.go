package cluster_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"hanse/tools/cluster"
)

// login returns an access token.
func login(t *testing.T, c *cluster.Cluster, name, password string) string {
	t.Helper()
	body, err := json.Marshal(map[string]any{"type": "m.login.password", "password": password,
		"identifier": map[string]string{"type": "m.id.user", "user": name}})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.HTTPClient().Post(c.BaseURL+"/_matrix/client/v3/login", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.AccessToken == "" {
		t.Fatalf("login: %s, %v", resp.Status, err)
	}
	return answer.AccessToken
}

// A rolling restart is no event for clients: reads, writes and long polls go on without a single failure.
func TestRollingRestartFailsNoRequest(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	c := startCluster(t, cluster.Config{})
	if err := c.CreateUser(ctx, "alice", "wonderland", false); err != nil {
		t.Fatal(err)
	}
	token := login(t, c, "alice", "wonderland")
	client := c.HTTPClient()
	do := func(method, path, body string) error {
		req, err := http.NewRequestWithContext(ctx, method, c.BaseURL+path, bytes.NewBufferString(body))
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, answer)
		}
		return err
	}
	stop := make(chan struct{})
	var done atomic.Int64
	var g errgroup.Group
	for i := range 4 {
		requests := []func() error{
			func() error { return do("GET", "/_matrix/client/v3/account/whoami", "") },
			func() error {
				return do("PUT", "/_matrix/client/v3/user/@alice:"+c.ServerName+"/account_data/test", fmt.Sprintf(`{"n":%d}`, done.Load()))
			},
			func() error { return do("POST", "/_matrix/client/v3/keys/query", `{"device_keys":{}}`) },
			func() error { return do("GET", "/_matrix/client/v3/sync?timeout=2000", "") },
		}
		g.Go(func() error {
			for {
				select {
				case <-stop:
					return nil
				default:
				}
				if err := requests[i](); err != nil {
					return err
				}
				done.Add(1)
			}
		})
	}
	if err := c.RollingRestart(ctx); err != nil {
		t.Error(err)
	}
	close(stop)
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	t.Logf("%d requests", done.Load())
}
