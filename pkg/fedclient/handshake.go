package fedclient

import (
	"context"
	"crypto/tls"
	"net"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
)

// handshakes bounds how many TLS handshakes compute at once, to half of the processors: the first event of a room of
// thousands of servers is as many handshakes, and what else the process does goes on beside them. A handshake that waits
// for the other side does not count, so slow servers do not hold up the others.
type handshakes struct {
	slots   chan struct{}
	waiting prometheus.Gauge
}

func newHandshakes(waiting prometheus.Gauge) *handshakes {
	return &handshakes{slots: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)), waiting: waiting}
}

func (h *handshakes) enter() {
	h.waiting.Inc()
	h.slots <- struct{}{} // not for long: who has one computes
	h.waiting.Dec()
}

func (h *handshakes) leave() { <-h.slots }

// client makes a TLS connection of raw.
func (h *handshakes) client(ctx context.Context, raw net.Conn, cfg *tls.Config) (net.Conn, error) {
	in := &handshaking{Conn: raw, h: h}
	conn := tls.Client(in, cfg)
	h.enter()
	err := conn.HandshakeContext(ctx)
	in.done = true
	h.leave()
	return conn, err
}

// handshaking is a connection that gives others its place while its handshake waits for what the other side says.
type handshaking struct {
	net.Conn
	h    *handshakes
	done bool // set before anybody else has the connection
}

// Read implements net.Conn.
func (c *handshaking) Read(p []byte) (int, error) {
	if c.done {
		return c.Conn.Read(p)
	}
	c.h.leave()
	defer c.h.enter()
	return c.Conn.Read(p)
}
