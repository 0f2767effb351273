package faults

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"hanse/pkg/await"
)

// A worker that is told to end finishes the download that it serves.
func TestDownloadOutlivesTheEndOfItsWorker(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 2<<20)
	ask := func(method, url string, body io.Reader) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url, body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+people[0].AccessToken)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%s %s: %d", method, url, resp.StatusCode)
		}
		return resp
	}
	up := ask("POST", shared.DirectURL("media", 1)+"/_matrix/media/v3/upload", bytes.NewReader(content))
	defer up.Body.Close()
	var a struct {
		URI string `json:"content_uri"`
	}
	if err := json.NewDecoder(up.Body).Decode(&a); err != nil {
		t.Fatal(err)
	}
	down := ask("GET", shared.DirectURL("media", 0)+"/_matrix/client/v1/media/download/"+strings.TrimPrefix(a.URI, "mxc://"), http.NoBody)
	defer down.Body.Close()
	got := make([]byte, 1000)
	if _, err := io.ReadFull(down.Body, got); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- shared.Terminate("media", 0) }()
	await.Nil(t, time.Minute, "the worker drains", func() error {
		resp, err := http.Get(shared.MonitoringURL("media", 0) + "/readyz")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return fmt.Errorf("it is ready")
		}
		return nil
	})
	rest, err := io.ReadAll(down.Body)
	if err != nil || !bytes.Equal(append(got, rest...), content) {
		t.Errorf("%d of %d bytes, %v", len(got)+len(rest), len(content), err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := shared.Launch(t.Context(), "media", 0); err != nil {
		t.Fatal(err)
	}
}
