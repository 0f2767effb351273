package grpcx

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"hanse/pkg/merr"
	"hanse/pkg/pg"
	commonv1 "hanse/proto/common/v1"
)

// asked answers as its request says: gRPC's health service stands in for a service.
type asked struct {
	healthv1.UnimplementedHealthServer
}

func (asked) Check(ctx context.Context, req *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	switch req.Service {
	case "forbidden":
		return nil, fmt.Errorf("send: %w", merr.Forbidden("no power").With("k", "v"))
	case "limited":
		return nil, merr.LimitExceeded(1234)
	case "panic":
		panic("ouch")
	case "plain":
		return nil, errors.New("disk on fire")
	case "wait":
		<-ctx.Done()
		return nil, fmt.Errorf("wait: %w", ctx.Err())
	case "detail":
		s, err := status.New(codes.FailedPrecondition, "elsewhere").WithDetails(&commonv1.NotOwner{Part: 7, Addr: "a:1"})
		if err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("wrapped: %w", s.Err())
	}
	return &healthv1.HealthCheckResponse{Status: healthv1.HealthCheckResponse_SERVING}, nil
}

func (asked) Watch(req *healthv1.HealthCheckRequest, s grpc.ServerStreamingServer[healthv1.HealthCheckResponse]) error {
	if err := s.Send(&healthv1.HealthCheckResponse{}); err != nil {
		return err
	}
	return merr.NotFound("end of stream")
}

func start(t testing.TB, cfg Config) (*Server, *Conns) {
	t.Helper()
	s, err := NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	healthv1.RegisterHealthServer(s, asked{})
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	conns := NewConns(cfg, s)
	t.Cleanup(func() {
		conns.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		s.Stop(ctx)
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return s, conns
}

// The same calls through memory and over the network.
func TestErrorsCrossTheWire(t *testing.T) {
	s, conns := start(t, Config{Listen: "127.0.0.1:0"})
	other := NewConns(Config{}, nil) // another process
	defer other.Close()
	for name, c := range map[string]*Conns{"memory": conns, "network": other} {
		t.Run(name, func(t *testing.T) {
			conn, err := c.To(s.Addr())
			if err != nil {
				t.Fatal(err)
			}
			client := healthv1.NewHealthClient(conn)
			check := func(service string) error {
				_, err := client.Check(t.Context(), &healthv1.HealthCheckRequest{Service: service})
				return err
			}
			if err := check("fine"); err != nil {
				t.Fatal(err)
			}
			e, ok := merr.As(check("forbidden"))
			if !ok || e.Status != 403 || e.Code != merr.CodeForbidden || e.Msg != "no power" || e.Extra["k"] != "v" {
				t.Errorf("forbidden: %+v", e)
			}
			if e, ok := merr.As(check("limited")); !ok || e.Status != 429 || e.RetryAfterMS != 1234 {
				t.Errorf("limited: %+v", e)
			}
			if err := check("panic"); status.Code(err) != codes.Internal {
				t.Errorf("panic: %v", err)
			}
			if err := check("plain"); status.Code(err) != codes.Unknown || merr.From(err).Status != 500 {
				t.Errorf("plain: %v", err)
			}
			if ds := status.Convert(check("detail")).Details(); len(ds) != 1 || ds[0].(*commonv1.NotOwner).Part != 7 {
				t.Errorf("detail: %v", ds)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			if _, err := client.Check(ctx, &healthv1.HealthCheckRequest{Service: "wait"}); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("deadline: %v", err)
			}
			stream, err := client.Watch(t.Context(), &healthv1.HealthCheckRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Recv(); err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Recv(); !merr.HasCode(err, merr.CodeNotFound) {
				t.Errorf("end of stream: %v", err)
			}
		})
	}
}

// What the database may answer in a moment is for routers to ask again, unless it may have been written.
func TestDatabaseErrors(t *testing.T) {
	broken := fmt.Errorf("read events: %w", &net.OpError{Op: "write", Err: syscall.EPIPE})
	for _, c := range []struct {
		err  error
		want codes.Code
	}{
		{broken, codes.Aborted},
		{fmt.Errorf("read: %w", &pgconn.PgError{Code: "57P01"}), codes.Aborted},
		{fmt.Errorf("read: %w", &pgconn.PgError{Code: "42601"}), codes.Unknown},
		{&pg.CommitError{Err: broken}, codes.Unknown},
	} {
		if err, internal := toStatus(c.err); status.Code(err) != c.want || !internal {
			t.Errorf("%v becomes %v, want %s", c.err, err, c.want)
		}
	}
}

// A connection that nobody speaks on (a port scanner) does not delay the end of the server for long.
func TestStopWithSilentConnection(t *testing.T) {
	s, err := NewServer(Config{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	s.Stop(ctx)
	if d := time.Since(start); d > time.Minute {
		t.Errorf("stop took %s", d)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestDown(t *testing.T) {
	s, _ := start(t, Config{Listen: "127.0.0.1:0"})
	c := NewConns(Config{}, nil)
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	down := make(chan error, 1)
	go func() { down <- c.Down(ctx, s.Addr()) }()
	conn, err := c.To(s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-down:
		t.Fatalf("down while the server is up: %v", err)
	default:
	}
	s.Server.Stop()
	if err := <-down; err != nil {
		t.Fatal(err)
	}
}

func BenchmarkCallInMemory(b *testing.B) {
	s, conns := start(b, Config{})
	conn, err := conns.To(s.Addr())
	if err != nil {
		b.Fatal(err)
	}
	client := healthv1.NewHealthClient(conn)
	req := &healthv1.HealthCheckRequest{Service: "fine"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.Check(b.Context(), req); err != nil {
			b.Fatal(err)
		}
	}
}

// Connections to workers that stay away are closed; those that were away for one look are not.
func TestKeep(t *testing.T) {
	_, conns := start(t, Config{})
	first, err := conns.To("127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	self, err := conns.Self()
	if err != nil {
		t.Fatal(err)
	}
	none, all := func(string) bool { return false }, func(string) bool { return true }
	for _, alive := range []func(string) bool{none, all, none} {
		conns.Keep(alive)
	}
	if again, _ := conns.To("127.0.0.1:1"); again != first {
		t.Fatal("closed after one look")
	}
	conns.Keep(none)
	if again, _ := conns.To("127.0.0.1:1"); again == first {
		t.Fatal("still open")
	}
	if again, _ := conns.Self(); again != self {
		t.Fatal("the connection to this process was closed")
	}
}
