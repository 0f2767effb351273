package partition

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"
)

// tether notices within milliseconds that another room worker's process has died: it holds an idle
// TCP connection to the worker's gRPC port. When the process dies the kernel closes the connection;
// if the port refuses a new one too, nobody is there. Everything less clear (a host that vanished, a
// process that stands still) is left to the heartbeats.
type tether struct {
	members *Members
	log     *slog.Logger
	ends    map[string]context.CancelFunc // by worker id and start
	done    sync.WaitGroup
}

// maxTethered bounds the connections: large clusters rely on the heartbeats.
const maxTethered = 32

func newTether(m *Members, log *slog.Logger) *tether {
	return &tether{members: m, log: log, ends: make(map[string]context.CancelFunc)}
}

// follow holds a connection to each room worker of the present view.
func (t *tether) follow(ctx context.Context) {
	now := make(map[string]bool)
	self := t.members.Self().ID
	for _, m := range t.members.All() {
		if m.ID == self || !m.Has(RoleRoom) || len(now) >= maxTethered {
			continue
		}
		if _, _, err := net.SplitHostPort(m.Addr); err != nil {
			continue // not a network address: it lives in this process
		}
		key := m.ID + "@" + m.Addr + time.UnixMilli(m.Started).String()
		now[key] = true
		if t.ends[key] == nil {
			ctx, cancel := context.WithCancel(ctx)
			t.ends[key] = cancel
			t.done.Go(func() { t.hold(ctx, m) })
		}
	}
	for key, end := range t.ends {
		if !now[key] {
			end()
			delete(t.ends, key)
		}
	}
}

func (t *tether) close() {
	for _, end := range t.ends {
		end()
	}
	t.done.Wait()
}

func (t *tether) hold(ctx context.Context, m Member) {
	d := net.Dialer{Timeout: time.Second}
	for ctx.Err() == nil {
		start := time.Now()
		conn, err := d.DialContext(ctx, "tcp", m.Addr)
		switch {
		case err == nil:
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			drainConn(conn)
			stop()
			_ = conn.Close() // nothing was written
		case errors.Is(err, syscall.ECONNREFUSED):
			t.members.Suspect(m.ID)
			return
		}
		if time.Since(start) < time.Second {
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
}

// drainConn returns when the connection ends. What a gRPC server sends before it gives up on a
// silent client is ignored.
func drainConn(conn net.Conn) {
	buf := make([]byte, 64)
	for {
		if _, err := conn.Read(buf); err != nil {
			return
		}
	}
}
