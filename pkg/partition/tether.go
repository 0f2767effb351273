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

// Tethers tells when connections break (grpcx.Conns).
type Tethers interface {
	// Down returns nil as soon as there is no connection to addr and one more attempt has failed or
	// not been made, and an error when ctx ends.
	Down(ctx context.Context, addr string) error
}

// tether notices within milliseconds that another room worker's process has died: it watches the
// gRPC connection to it. When the process dies the kernel closes the connection; if the port refuses
// a new one too, nobody is there. Everything less clear (a host that vanished, a process that stands
// still) is left to the heartbeats.
type tether struct {
	conns   Tethers // nil: heartbeats only
	members *Members
	log     *slog.Logger
	ends    map[string]context.CancelFunc // by worker id and start
	done    sync.WaitGroup
}

// maxTethered bounds the connections: large clusters rely on the heartbeats.
const maxTethered = 32

func newTether(cfg OwnerConfig) *tether {
	return &tether{conns: cfg.Tethers, members: cfg.Members, log: cfg.Log, ends: make(map[string]context.CancelFunc)}
}

// follow holds a connection to each room worker of the present view.
func (t *tether) follow(ctx context.Context) {
	if t.conns == nil {
		return
	}
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
	for ctx.Err() == nil {
		start := time.Now()
		if err := t.conns.Down(ctx, m.Addr); err != nil {
			if ctx.Err() == nil {
				t.log.Warn("worker is not watched", "worker", m.ID, "addr", m.Addr, "err", err)
			}
			return
		}
		if refused(ctx, m.Addr) {
			t.members.Suspect(m.ID)
			return
		}
		if time.Since(start) < time.Second {
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
}

// refused reports whether nobody listens at addr although its host answers.
func refused(ctx context.Context, addr string) bool {
	d := net.Dialer{Timeout: time.Second}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err == nil {
		_ = conn.Close() // nothing was written
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}
