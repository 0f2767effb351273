package partition_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"hanse/pkg/bus"
	"hanse/pkg/grpcx"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
)

// The tests of ownership run real processes: this binary, started again as a worker. A worker owns
// partitions and appends to a table behind the fence; the health service of gRPC stands in for a
// service, its argument is "<part> <key>".

const workerEnv = "HANSE_TEST_WORKER"

var testTiming = partition.Timing{Beat: 150 * time.Millisecond, TTL: 1200 * time.Millisecond}

// patientTiming is for a test in which no worker may be missed by its heartbeats.
var patientTiming = partition.Timing{Beat: testTiming.Beat, TTL: time.Hour}

func TestMain(m *testing.M) {
	if os.Getenv(workerEnv) == "" {
		os.Exit(m.Run())
	}
	if err := runWorker(os.Getenv(workerEnv), os.Getenv("HANSE_TEST_NATS"), os.Getenv("HANSE_TEST_DSN"), os.Getenv("HANSE_TEST_BEAT"), os.Getenv("HANSE_TEST_TTL")); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
}

type worker struct {
	healthv1.UnimplementedHealthServer
	id     string
	shards *pg.Shards
	owner  *partition.Owner
}

func runWorker(id, natsURL, dsn, beat, ttl string) error {
	var timing partition.Timing
	var err error
	if timing.Beat, err = time.ParseDuration(beat); err != nil {
		return err
	}
	if timing.TTL, err = time.ParseDuration(ttl); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})).With("worker", id)
	cfg := pg.Defaults()
	cfg.Shards, cfg.Migrate, cfg.MaxConns = strings.Split(dsn, "|"), false, 8
	shards, err := pg.Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer shards.Close()
	b, err := bus.Open(ctx, bus.Config{URL: natsURL, Name: id})
	if err != nil {
		return err
	}
	defer b.Close()
	srv, err := grpcx.NewServer(grpcx.Config{Listen: "127.0.0.1:0", Log: log})
	if err != nil {
		return err
	}
	w := &worker{id: id, shards: shards}
	healthv1.RegisterHealthServer(srv, w)
	members, err := partition.Join(partition.MembersConfig{Bus: b, Timing: timing, Log: log,
		Self: partition.Member{ID: id, Addr: srv.Addr(), Roles: []string{partition.RoleRoom}}})
	if err != nil {
		return err
	}
	conns := grpcx.NewConns(grpcx.Config{}, srv)
	defer conns.Close()
	w.owner = partition.NewOwner(partition.OwnerConfig{Members: members, Rows: partition.NewRows(shards), Handler: w, Tethers: conns,
		VerifyEvery: 300 * time.Millisecond, LeaseTrust: 1500 * time.Millisecond, PinInterval: 200 * time.Millisecond, Log: log})
	served := make(chan error, 1)
	go func() { served <- srv.Serve() }()
	running, end := context.WithCancel(context.Background())
	defer end()
	ran := make(chan error, 1)
	go func() { ran <- w.owner.Run(running) }()
	members.SetState(partition.Ready)
	fmt.Println("ready")
	select {
	case <-ctx.Done():
	case err := <-served:
		return err
	}
	drain, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	err = w.owner.Drain(drain)
	end()
	err = errors.Join(err, <-ran)
	srv.Stop(drain)
	return errors.Join(err, members.Leave(drain))
}

func (w *worker) Acquired(ctx context.Context, part uint32, l partition.Lease) error {
	_, err := w.shards.For(part).Exec(ctx, `INSERT INTO fence_lease (part, epoch, worker, pid) VALUES ($1, $2, $3, $4)`,
		int32(part), l.Epoch, w.id, os.Getpid())
	return err
}

func (w *worker) Lost(uint32, partition.Lease) {}

// Check appends one entry with an idempotency key.
func (w *worker) Check(ctx context.Context, req *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	p, key, _ := strings.Cut(req.Service, " ")
	n, err := strconv.ParseUint(p, 10, 32)
	if err != nil {
		return nil, err
	}
	part := uint32(n)
	lease, err := w.owner.Await(ctx, part)
	if err != nil {
		return nil, err
	}
	err = pg.InTx(context.WithoutCancel(ctx), w.shards.For(part), func(tx pgx.Tx) error {
		var head int64
		err := tx.QueryRow(ctx, `UPDATE partition SET head = head + 1 WHERE part = $1 AND epoch = $2 RETURNING head`,
			int32(part), lease.Epoch).Scan(&head)
		if err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `INSERT INTO fence_log (part, pos, epoch, pid, key) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (key) DO NOTHING`,
			int32(part), head, lease.Epoch, os.Getpid(), key)
		if err == nil && tag.RowsAffected() == 0 {
			return errDone
		}
		return err
	})
	switch {
	case err == nil, errors.Is(err, errDone):
		return &healthv1.HealthCheckResponse{Status: healthv1.HealthCheckResponse_SERVING}, nil
	case errors.Is(err, pgx.ErrNoRows):
		w.owner.Fenced(part, lease.Epoch)
		return nil, w.owner.NotOwner(part)
	default:
		w.owner.Doubt(part, lease.Epoch)
		return nil, status.Error(codes.Unavailable, err.Error())
	}
}

var errDone = errors.New("key exists")
