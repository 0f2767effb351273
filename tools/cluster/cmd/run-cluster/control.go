package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"hanse/tools/cluster"
)

// socketName is the Unix socket on which a running run-cluster takes commands.
const socketName = "control"

// serveControl listens for 'run-cluster start'. The socket is in the directory of the clusters.
func serveControl(dir string, clusters []*cluster.Cluster) (stop func(), err error) {
	path := filepath.Join(dir, socketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /start", func(w http.ResponseWriter, r *http.Request) {
		i, err := strconv.Atoi(r.FormValue("cluster"))
		if err == nil && (i < 0 || i >= len(clusters)) {
			err = fmt.Errorf("there is no cluster %d", i)
		}
		if err == nil {
			err = clusters[i].Bring(r.Context(), r.FormValue("name"))
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
		}
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.Serve(l) }() // ends when it is closed
	return func() { _ = srv.Close() }, nil
}

type startCmd struct {
	Name    string `arg:"" help:"Name of the process: room-0, nats, redis, postgresql-1."`
	Cluster int    `default:"0" help:"Number of the cluster."`
}

func (s *startCmd) Run(ctx context.Context) error {
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(cli.Dir, socketName))
	}}}
	form := url.Values{"name": {s.Name}, "cluster": {strconv.Itoa(s.Cluster)}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://run-cluster/start", strings.NewReader(form))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("no cluster runs in %s: %w", cli.Dir, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(strings.TrimSpace(string(answer)))
	}
	fmt.Println(s.Name, "is ready")
	return nil
}
