package fedout

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"

	"hanse/pkg/follow"
)

// hanging are servers that take transactions and do not answer.
type hanging struct {
	names    []string
	release  chan struct{}
	mu       sync.Mutex
	inside   map[string]bool // servers that have a transaction and have not answered
	answered int             // transactions that were answered
}

// hang starts n servers that let transactions wait until the test ends or release is closed.
func (w *world) hang(n int) *hanging {
	w.t.Helper()
	h := &hanging{release: make(chan struct{}), inside: make(map[string]bool)}
	srv := &http.Server{Handler: h}
	w.t.Cleanup(func() { srv.Close() })
	cert := w.cert()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			w.t.Fatal(err)
		}
		h.names = append(h.names, l.Addr().String())
		go func() { _ = srv.Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}})) }()
	}
	return h
}

func (h *hanging) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if _, err := io.Copy(io.Discard, q.Body); err != nil {
		return
	}
	h.mu.Lock()
	h.inside[q.Host] = true
	h.mu.Unlock()
	select {
	case <-h.release:
		h.mu.Lock()
		h.answered++
		h.mu.Unlock()
		_, _ = io.WriteString(w, `{"pdus":{}}`)
	case <-q.Context().Done():
	}
	h.mu.Lock()
	delete(h.inside, q.Host)
	h.mu.Unlock()
}

// count returns how many servers let a transaction wait, and how many transactions were answered.
func (h *hanging) count() (waiting, answered int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.inside), h.answered
}

// Server-server API, "Transactions": hundreds of servers that take transactions and do not answer delay nobody else, be
// it a server that has always answered or one that gets its first transaction. The worker ends in bounded time
// nevertheless, and what the slow ones did not acknowledge comes again.
func TestHangingServers(t *testing.T) {
	w := newWorld(t)
	good, fresh := w.remote(), w.remote()
	h := w.hang(330)
	k := w.start("one")
	big := w.room("big", append([]string{good.name}, h.names...)...)
	other, first := w.room("other", good.name), w.room("first", append([]string{fresh.name}, h.names[:200]...)...)
	good.gets(other.send("before")...) // it is known to answer
	big.send("hangs")
	// More than there are slots for; on a loaded machine they come little by little.
	w.waitFor("the servers do not hang", func() bool { waiting, _ := h.count(); return waiting > Defaults().Transactions })

	good.gets(big.send("to all")...)
	good.gets(other.send("to one")...)
	fresh.gets(first.send("first")...)
	if waiting, answered := h.count(); answered > 0 || waiting <= Defaults().Transactions {
		t.Fatalf("%d servers have answered and %d hang: the test shows nothing", answered, waiting)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 6*follow.LastWords)
	defer cancel()
	if err := k.Drain(ctx); err != nil {
		t.Errorf("drained: %v", err)
	}
	k.End()
	close(h.release)
	w.start("two")
	w.waitFor("the slow servers did not get what they have missed", func() bool { _, answered := h.count(); return answered >= len(h.names) })
}
