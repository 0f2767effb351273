//go:build interop

package interop

import (
	"io"
	"net"
	"sync"
	"testing"
)

// link stands before Synapse's federation listener and can be cut, as a network can.
type link struct {
	listener net.Listener
	to       string

	mu   sync.Mutex
	down bool
	open map[net.Conn]bool
}

// newLink listens on a free port and carries what comes to another address; TLS passes through it.
func newLink(to string) (*link, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	k := &link{listener: l, to: to, open: make(map[net.Conn]bool)}
	go k.accept()
	return k, nil
}

func (k *link) port() int { return k.listener.Addr().(*net.TCPAddr).Port }

func (k *link) accept() {
	for {
		conn, err := k.listener.Accept()
		if err != nil {
			return // closed
		}
		go k.carry(conn)
	}
}

func (k *link) carry(in net.Conn) {
	defer in.Close()
	if !k.enter(in) {
		return
	}
	defer k.leave(in)
	out, err := net.Dial("tcp", k.to)
	if err != nil {
		return
	}
	defer out.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(out, in)
		out.Close()
	}()
	_, _ = io.Copy(in, out)
	in.Close()
	<-done
}

func (k *link) enter(conn net.Conn) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.down {
		k.open[conn] = true
	}
	return !k.down
}

func (k *link) leave(conn net.Conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.open, conn)
}

// cut breaks all connections and lets none through until it is called with false.
func (k *link) cut(down bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.down = down
	if down {
		for conn := range k.open {
			conn.Close()
		}
	}
}

func (k *link) close() error {
	k.cut(true)
	return k.listener.Close()
}

// cut lets nothing of federation in or out of either server. Tests that call it run alone.
func cut(t *testing.T) {
	t.Helper()
	hanse.CutFederation(true)
	other.link.cut(true)
}

func heal(t *testing.T) {
	t.Helper()
	other.link.cut(false)
	hanse.CutFederation(false)
}
