package media

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"hanse/pkg/await"
)

// A worker that ends waits for the downloads under way, and not for those that begin meanwhile; there is an end to its patience.
func TestDrainWaitsForDownloads(t *testing.T) {
	c := newCluster(t)
	token := c.login(anna)
	w := c.workers[0]
	content := bytes.Repeat([]byte("x"), 32<<20)
	path := v1 + "/download" + w.upload(token, "", content)
	req, err := http.NewRequest("GET", w.url+path, nil)
	must(t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	defer resp.Body.Close()
	_, err = io.ReadFull(resp.Body, make([]byte, 1000))
	must(t, err)

	hasty, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.media.Drain(hasty); err == nil {
		t.Error("drained with a download under way")
	}
	// The next one waits for what has begun since, which is nothing.
	must(t, w.media.Drain(t.Context()))

	resp2, err := http.DefaultClient.Do(req.Clone(t.Context()))
	must(t, err)
	defer resp2.Body.Close()
	drained := make(chan error, 1)
	go func() { drained <- w.media.Drain(t.Context()) }()
	w.do("GET", path, token, nil, "Range", "bytes=0-9").ok()
	await.True(t, time.Minute, "the drain has begun", func() bool {
		w.media.serving.mu.Lock()
		defer w.media.serving.mu.Unlock()
		return w.media.serving.last == nil || w.media.serving.last.under == 0
	})
	select {
	case err := <-drained:
		t.Errorf("drained with a download under way: %v", err)
	default:
	}
	if n, err := io.Copy(io.Discard, resp2.Body); err != nil || n != int64(len(content)) {
		t.Errorf("%d bytes, %v", n, err)
	}
	must(t, <-drained)
}
