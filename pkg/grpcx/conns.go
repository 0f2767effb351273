package grpcx

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

var (
	propagator          = propagation.TraceContext{}
	insecureCredentials = insecure.NewCredentials()

	// connectParams: a worker that comes back is found within a second.
	connectParams = grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
		MinConnectTimeout: 2 * time.Second,
	}
)

// Conns are the connections of this process to gRPC servers, by address, made when first used.
type Conns struct {
	cfg  Config
	self *Server
	opts []grpc.DialOption

	mu     sync.RWMutex
	conns  map[string]*grpc.ClientConn
	dead   map[string]bool // not alive at the last Keep
	closed bool
}

// NewConns makes the connections of the process that self serves; self may be nil for a process
// that only calls.
func NewConns(cfg Config, self *Server) *Conns {
	cfg.setDefaults()
	return &Conns{cfg: cfg, self: self, opts: clientOptions(cfg), conns: make(map[string]*grpc.ClientConn)}
}

// To returns the connection to the server at addr. The server of this process is reached through
// memory. It does not wait for the connection; calls fail with Unavailable while there is none.
func (c *Conns) To(addr string) (grpc.ClientConnInterface, error) {
	conn, err := c.client(addr)
	if err != nil {
		return nil, err
	}
	return conn, nil
}

func (c *Conns) client(addr string) (*grpc.ClientConn, error) {
	c.mu.RLock()
	conn := c.conns[addr]
	c.mu.RUnlock()
	if conn != nil {
		return conn, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, fmt.Errorf("grpc: connections are closed")
	}
	if conn = c.conns[addr]; conn != nil {
		return conn, nil
	}
	conn, err := c.dial(addr)
	if err != nil {
		return nil, fmt.Errorf("grpc: connect to %q: %w", addr, err)
	}
	c.conns[addr] = conn
	return conn, nil
}

// Self is the connection to this process's own server.
func (c *Conns) Self() (grpc.ClientConnInterface, error) { return c.To(c.self.Addr()) }

func (c *Conns) dial(addr string) (*grpc.ClientConn, error) {
	opts := c.opts[:len(c.opts):len(c.opts)]
	if c.self != nil && addr == c.self.addr {
		memory := c.self.memory
		return grpc.NewClient("passthrough:///memory", append(opts,
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
				return memory.DialContext(ctx)
			}))...)
	}
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return nil, err
	}
	return grpc.NewClient("passthrough:///"+addr, opts...)
}

// Reach returns nil if the server at addr answers calls. Otherwise the error says what is in the way.
func (c *Conns) Reach(ctx context.Context, addr string) error {
	conn, err := c.client(addr)
	if err != nil {
		return err
	}
	_, err = healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
	if status.Code(err) == codes.Unimplemented {
		return nil // nobody serves this: the answer is all that counts
	}
	return err
}

// Down waits until there is no connection to addr: one that was up broke, or could not be made. It
// implements partition.Tethers.
func (c *Conns) Down(ctx context.Context, addr string) error {
	conn, err := c.client(addr)
	if err != nil {
		return err
	}
	conn.Connect()
	up := false
	for {
		s := conn.GetState()
		switch {
		case s == connectivity.TransientFailure || s == connectivity.Shutdown || up && s != connectivity.Ready:
			return nil
		case s == connectivity.Ready:
			up = true
		case s == connectivity.Idle:
			conn.Connect()
		}
		if !conn.WaitForStateChange(ctx, s) {
			return ctx.Err()
		}
	}
}

// Forget closes the connection to a worker that is gone. The next To makes a new one.
func (c *Conns) Forget(addr string) {
	c.mu.Lock()
	conn := c.conns[addr]
	delete(c.conns, addr)
	c.mu.Unlock()
	if conn != nil {
		_ = conn.Close() // only errs if it is closed already
	}
}

// Keep forgets the connections to workers that were not alive in this call and in the one before;
// the one to this process stays. Callers call it now and then.
func (c *Conns) Keep(alive func(addr string) bool) {
	c.mu.RLock()
	dead := make(map[string]bool)
	for addr := range c.conns {
		if (c.self == nil || addr != c.self.addr) && !alive(addr) {
			dead[addr] = true
		}
	}
	before := c.dead
	c.mu.RUnlock()
	for addr := range dead {
		if before[addr] {
			c.Forget(addr)
		}
	}
	c.mu.Lock()
	c.dead = dead
	c.mu.Unlock()
}

// Close ends all connections.
func (c *Conns) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for addr, conn := range c.conns {
		_ = conn.Close() // only errs if it is closed already
		delete(c.conns, addr)
	}
}
