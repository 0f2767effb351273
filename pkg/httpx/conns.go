package httpx

import (
	"container/list"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/metric"
)

const (
	// lingerTime and lingerBytes bound what a connection that is closed behind an answer still reads: a sender whose bytes
	// meet a closed connection loses the answer.
	lingerTime  = 5 * time.Second
	lingerBytes = 64 << 20
	// lingerMax bounds the connections that do so.
	lingerMax = 1024
)

// conns is a listener whose connections are bounded. If there are too many, the one that has had no request under way for
// the longest time makes room: so those who connect and say nothing keep nobody out.
type conns struct {
	net.Listener
	max       int
	closed    *prometheus.CounterVec
	lingering atomic.Int32

	mu    sync.Mutex
	open  int
	quiet list.List // of *conn, without a request under way; the longest so comes first
}

// conn is a connection of conns.
type conn struct {
	net.Conn
	of     *conns
	linger atomic.Bool // its sender may still be sending
	once   sync.Once

	place *list.Element // in of.quiet; nil while a request is under way. Under of's lock.
}

// newConns bounds a listener's connections, also by what the process may open.
func newConns(l net.Listener, limit int, api string, reg prometheus.Registerer) *conns {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err == nil && files.Cur/4*3 < uint64(limit) {
		limit = max(1, int(files.Cur/4*3))
	}
	labels := prometheus.Labels{"api": api}
	cs := &conns{Listener: l, max: limit, closed: metric.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hanse_http_connections_closed_total",
		Help: "Connections closed because there were too many: idle ones that made room, and new ones when none was idle.", ConstLabels: labels}, []string{"which"}))}
	metric.Register(reg, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "hanse_http_connections", Help: "Open connections.", ConstLabels: labels},
		func() float64 { return float64(cs.len()) }))
	return cs
}

func (cs *conns) len() int {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return cs.open
}

// Accept implements net.Listener.
func (cs *conns) Accept() (net.Conn, error) {
	for {
		nc, err := cs.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &conn{Conn: nc, of: cs}
		longest, ok := cs.admit(c)
		if longest != nil {
			cs.closed.WithLabelValues("idle").Inc()
			_ = longest.Close() // whoever has it finds out
		}
		if ok {
			return c, nil
		}
		cs.closed.WithLabelValues("new").Inc()
		_ = nc.Close()
	}
}

// admit counts a connection. If there are too many, it returns the one that has to make room, or that there is none.
func (cs *conns) admit(c *conn) (longest *conn, ok bool) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.open >= cs.max {
		front := cs.quiet.Front()
		if front == nil {
			return nil, false
		}
		longest = front.Value.(*conn)
		cs.quiet.Remove(front)
		longest.place = nil
	}
	cs.open++
	c.place = cs.quiet.PushBack(c)
	return longest, true
}

// Close implements net.Conn.
func (c *conn) Close() (err error) {
	c.once.Do(func() {
		c.of.mu.Lock()
		if c.of.open--; c.place != nil {
			c.of.quiet.Remove(c.place)
			c.place = nil
		}
		c.of.mu.Unlock()
		if tc, ok := c.Conn.(*net.TCPConn); ok && c.linger.Load() && c.of.lingering.Add(1) <= lingerMax {
			go c.lingerOn(tc)
			return
		} else if ok && c.linger.Load() {
			c.of.lingering.Add(-1)
		}
		err = c.Conn.Close()
	})
	return err
}

// lingerOn closes the connection when its sender has, or has had the time to read the answer.
func (c *conn) lingerOn(tc *net.TCPConn) {
	defer c.of.lingering.Add(-1)
	defer tc.Close()
	if tc.CloseWrite() == nil && tc.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
		_, _ = io.CopyN(io.Discard, tc, lingerBytes) // why it ends does not matter
	}
}

// state is http.Server.ConnState: it knows which connections have a request under way.
func (cs *conns) state(nc net.Conn, to http.ConnState) {
	c := ours(nc)
	if c == nil || to != http.StateActive && to != http.StateIdle {
		return
	}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	switch {
	case to == http.StateActive && c.place != nil:
		cs.quiet.Remove(c.place)
		c.place = nil
	case to == http.StateIdle && c.place == nil:
		c.place = cs.quiet.PushBack(c)
	}
}

// ours returns our connection of one that net/http has.
func ours(nc net.Conn) *conn {
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	c, _ := nc.(*conn)
	return c
}

type connKey struct{}

// withConn is http.Server.ConnContext.
func withConn(ctx context.Context, nc net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, ours(nc))
}
