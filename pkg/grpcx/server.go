package grpcx

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/test/bufconn"
)

// Config describes the gRPC server of a process and its connections to others.
type Config struct {
	// Listen is the network address, host:port; empty: only this process is served.
	Listen string
	// Advertise is the address under which other workers reach Listen; empty: Listen as it turned
	// out. Without Listen it is a name that no other process knows.
	Advertise string
	// TLS protects the network; nil: plain, for private networks only.
	TLS *TLS
	// MaxMessageBytes bounds a message in each direction (default 32 MiB).
	MaxMessageBytes int
	// Tracer is nil if nothing is traced.
	Tracer     trace.TracerProvider
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

const (
	defaultMaxMessage = 32 << 20
	window            = 1 << 20 // fixed flow-control windows: no bandwidth probing on every call
	memoryBuffer      = 256 << 10
)

// Server is the gRPC server of this process. Services are registered before Serve.
type Server struct {
	*grpc.Server
	cfg     Config
	addr    string
	network net.Listener // nil without Listen
	memory  *bufconn.Listener
}

// NewServer binds the listeners; nothing is served before Serve.
func NewServer(cfg Config) (*Server, error) {
	cfg.setDefaults()
	s := &Server{cfg: cfg, addr: cfg.Advertise, memory: bufconn.Listen(memoryBuffer)}
	if cfg.Listen != "" {
		l, err := net.Listen("tcp", cfg.Listen)
		if err != nil {
			return nil, fmt.Errorf("grpc: %w", err)
		}
		if cfg.TLS != nil {
			l = cfg.TLS.listen(l, cfg)
		}
		s.network = l
		if s.addr == "" {
			s.addr = l.Addr().String()
		}
	} else if s.addr == "" {
		s.addr = "memory"
	}
	m := newCallMetrics(cfg.Registerer, "server")
	opts := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(cfg.MaxMessageBytes),
		grpc.MaxSendMsgSize(cfg.MaxMessageBytes),
		grpc.InitialWindowSize(window),
		grpc.InitialConnWindowSize(4 * window),
		grpc.ConnectionTimeout(5 * time.Second), // a silent connection would delay Stop for as long
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 15 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 2 * time.Second, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(serverUnary(cfg.Log, m)),
		grpc.ChainStreamInterceptor(serverStream(cfg.Log, m)),
	}
	if cfg.Tracer != nil {
		opts = append(opts, grpc.StatsHandler(otelgrpc.NewServerHandler(
			otelgrpc.WithTracerProvider(cfg.Tracer), otelgrpc.WithPropagators(propagator))))
	}
	s.Server = grpc.NewServer(opts...)
	return s, nil
}

func (c *Config) setDefaults() {
	if c.MaxMessageBytes <= 0 {
		c.MaxMessageBytes = defaultMaxMessage
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}

// Addr is the address under which this process is known to the others, and to itself.
func (s *Server) Addr() string { return s.addr }

// Serve answers calls until Stop. The in-memory side works even before the network does.
func (s *Server) Serve() error {
	errs := make(chan error, 2)
	n := 1
	go func() { errs <- s.Server.Serve(s.memory) }()
	if s.network != nil {
		n++
		go func() { errs <- s.Server.Serve(s.network) }()
	}
	var all error
	for range n {
		if err := <-errs; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			all = errors.Join(all, fmt.Errorf("grpc: %w", err))
			s.Server.Stop() // one listener that ends takes the other along
		}
	}
	return all
}

// Stop lets running calls finish until ctx ends, then cuts them off.
func (s *Server) Stop(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		s.GracefulStop()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		s.Server.Stop()
		<-done
	}
}

func clientOptions(cfg Config) []grpc.DialOption {
	m := newCallMetrics(cfg.Registerer, "client")
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(insecureCredentials), // TLS is the dialer's
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(cfg.MaxMessageBytes), grpc.MaxCallSendMsgSize(cfg.MaxMessageBytes)),
		grpc.WithInitialWindowSize(window),
		grpc.WithInitialConnWindowSize(4 * window),
		grpc.WithIdleTimeout(0),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(), // partition.Router retries, and knows where
		grpc.WithConnectParams(connectParams),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
		grpc.WithChainUnaryInterceptor(clientUnary(m)),
		grpc.WithChainStreamInterceptor(clientStream(m)),
	}
	if cfg.TLS != nil {
		opts = append(opts, grpc.WithContextDialer(cfg.TLS.dialer(cfg)))
	}
	if cfg.Tracer != nil {
		opts = append(opts, grpc.WithStatsHandler(otelgrpc.NewClientHandler(
			otelgrpc.WithTracerProvider(cfg.Tracer), otelgrpc.WithPropagators(propagator))))
	}
	return opts
}
