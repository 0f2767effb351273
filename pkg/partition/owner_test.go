package partition_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"hanse/pkg/bus/bustest"
	"hanse/pkg/grpcx"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
	"hanse/pkg/pg/pgtest"
)

// cluster is PostgreSQL, NATS, worker processes, and a router in this process.
type cluster struct {
	t       *testing.T
	timing  partition.Timing
	nats    *bustest.Server
	dsn     string
	shards  *pg.Shards
	rows    *partition.Rows
	members *partition.Members
	router  *partition.Router
	procs   map[*exec.Cmd]process
}

// process is what is known of a worker.
type process struct {
	id    string
	ready chan struct{} // closed when it has begun to work
}

// patient bounds the wait for what must happen, on a machine that does much else.
const patient = 2 * time.Minute

func newCluster(t *testing.T, timing partition.Timing) *cluster {
	cfg := pgtest.Config(t, 2)
	c := &cluster{t: t, timing: timing, nats: bustest.New(t), dsn: strings.Join(cfg.Shards, "|"), shards: pgtest.Open(t, cfg), procs: make(map[*exec.Cmd]process)}
	c.rows = partition.NewRows(c.shards)
	for _, pool := range c.shards.All() {
		if _, err := pool.Exec(t.Context(), `
			CREATE TABLE fence_lease (part int, epoch bigint, worker text, pid int, PRIMARY KEY (part, epoch));
			CREATE TABLE fence_log (part int, pos bigint, epoch bigint, pid int, key text UNIQUE, PRIMARY KEY (part, pos))`); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	c.members, err = partition.Join(partition.MembersConfig{Bus: c.nats.Open("router"), Timing: timing,
		Self: partition.Member{ID: "router", Addr: "memory", Roles: []string{"client"}, State: partition.Ready}})
	if err != nil {
		t.Fatal(err)
	}
	conns := grpcx.NewConns(grpcx.Config{}, nil)
	c.router = partition.NewRouter(partition.RouterConfig{Members: c.members, Rows: c.rows, Conns: conns})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = c.router.Run(ctx) })
	t.Cleanup(func() {
		for cmd := range c.procs {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		cancel()
		running.Wait()
		conns.Close()
		_ = c.members.Leave(context.Background())
	})
	return c
}

func (c *cluster) start(id string) *exec.Cmd {
	c.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), workerEnv+"="+id, "HANSE_TEST_NATS="+c.nats.URL(), "HANSE_TEST_DSN="+c.dsn, "HANSE_TEST_BEAT="+c.timing.Beat.String(), "HANSE_TEST_TTL="+c.timing.TTL.String())
	cmd.Stderr = os.Stderr
	said, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	p := process{id: id, ready: make(chan struct{})}
	go func() {
		if _, err := said.Read(make([]byte, 1)); err == nil {
			close(p.ready)
		}
	}()
	c.procs[cmd] = p
	return cmd
}

func (c *cluster) signal(cmd *exec.Cmd, sig syscall.Signal) {
	c.t.Helper()
	if sig == syscall.SIGTERM { // one that has not begun just dies
		select {
		case <-c.procs[cmd].ready:
		case <-time.After(patient):
			c.t.Fatalf("%s does not begin", c.procs[cmd].id)
		}
	}
	if err := cmd.Process.Signal(sig); err != nil {
		c.t.Fatalf("%s: %v", sig, err)
	}
	if sig == syscall.SIGKILL || sig == syscall.SIGTERM {
		err := cmd.Wait()
		delete(c.procs, cmd)
		if sig == syscall.SIGTERM && err != nil {
			c.t.Errorf("worker ended badly: %v", err)
		}
	}
}

func (c *cluster) write(ctx context.Context, part uint32, key string) error {
	return c.router.Call(ctx, part, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		_, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{Service: fmt.Sprintf("%d %s", part, key)})
		return err
	})
}

// writeAll makes sure that every partition can be written.
func (c *cluster) writeAll(key string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patient)
	defer cancel()
	for part := range partition.Count() {
		if err := c.write(ctx, part, fmt.Sprintf("%s-%d", key, part)); err != nil {
			c.t.Fatal(err)
		}
	}
}

// waitOwners waits until the rows name just these workers.
func (c *cluster) waitOwners(want ...string) []partition.Row {
	c.t.Helper()
	deadline := time.Now().Add(patient)
	for {
		rows, err := c.rows.List(c.t.Context())
		if err != nil {
			c.t.Fatal(err)
		}
		seen := make(map[string]bool)
		for _, r := range rows {
			seen[r.Owner] = true
		}
		got := make([]string, 0, len(seen))
		for id := range seen {
			got = append(got, id)
		}
		slices.Sort(got)
		if slices.Equal(got, want) {
			return rows
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("owners are %q, want %q; members %v", got, want, c.members.All())
		}
		<-time.After(20 * time.Millisecond)
	}
}

// check is the law: positions dense, epochs ascending with the position, one writer an epoch, and
// each acknowledged key once.
func (c *cluster) check(acked []string) {
	c.t.Helper()
	keys := make(map[string]bool)
	for _, pool := range c.shards.All() {
		rows, err := pool.Query(c.t.Context(), `
			SELECT l.part::bigint, l.pos, l.epoch, l.pid = s.pid, l.key FROM fence_log l LEFT JOIN fence_lease s USING (part, epoch) ORDER BY 1, 2`)
		if err != nil {
			c.t.Fatal(err)
		}
		var lastPart, part uint32
		var lastPos, lastEpoch, pos, epoch int64
		for rows.Next() {
			var same *bool
			var key string
			if err := rows.Scan(&part, &pos, &epoch, &same, &key); err != nil {
				c.t.Fatal(err)
			}
			if part != lastPart {
				lastPart, lastPos, lastEpoch = part, 0, 0
			}
			if pos != lastPos+1 || epoch < lastEpoch {
				c.t.Errorf("partition %d: position %d of epoch %d follows %d of %d", part, pos, epoch, lastPos, lastEpoch)
			}
			if same == nil || !*same {
				c.t.Errorf("partition %d: position %d was not written by the holder of epoch %d", part, pos, epoch)
			}
			lastPos, lastEpoch = pos, epoch
			keys[key] = true
		}
		if rows.Err() != nil {
			c.t.Fatal(rows.Err())
		}
	}
	for _, key := range acked {
		if !keys[key] {
			c.t.Errorf("acknowledged %s is lost", key)
		}
	}
}

// Random kills, stops, graceful ends, doubles and wipes of NATS under load (issue: randomised test of
// ownership).
func TestOwnershipUnderFaults(t *testing.T) {
	c := newCluster(t, testTiming)
	live := []*exec.Cmd{c.start("w1"), c.start("w2"), c.start("w3")}
	c.waitOwners("w1", "w2", "w3")

	ctx, stop := context.WithCancel(t.Context())
	var mu sync.Mutex
	var acked []string
	var slowest atomic.Int64
	var callers sync.WaitGroup
	for i := range 6 {
		callers.Go(func() {
			rnd := rand.New(rand.NewPCG(7, uint64(i)))
			for n := 0; ctx.Err() == nil; n++ {
				key := fmt.Sprintf("c%d-%d", i, n)
				start := time.Now()
				call, cancel := context.WithTimeout(context.WithoutCancel(ctx), patient)
				err := c.write(call, rnd.Uint32N(partition.Count()), key)
				cancel()
				if err != nil {
					t.Errorf("write: %v", err)
					return
				}
				slowest.Store(max(slowest.Load(), int64(time.Since(start))))
				mu.Lock()
				acked = append(acked, key)
				mu.Unlock()
			}
		})
	}
	rnd := rand.New(rand.NewPCG(3, 4))
	next := 4
	for range 14 {
		i := rnd.IntN(len(live))
		victim := live[i]
		switch rnd.IntN(5) {
		case 0:
			c.signal(victim, syscall.SIGKILL)
			live[i] = c.start(fmt.Sprintf("w%d", next))
			next++
		case 1:
			c.signal(victim, syscall.SIGTERM)
			live[i] = c.start(fmt.Sprintf("w%d", next))
			next++
		case 2: // stands still for longer than its heartbeats may be missing, and wakes up
			c.signal(victim, syscall.SIGSTOP)
			pause(rnd, 2*testTiming.TTL)
			c.signal(victim, syscall.SIGCONT)
		case 3: // a second process with the same id
			double := c.start(c.procs[victim].id)
			pause(rnd, time.Second)
			c.signal(double, syscall.SIGKILL)
		case 4:
			c.nats.Wipe()
			pause(rnd, 500*time.Millisecond)
			c.nats.Start()
		}
		pause(rnd, 400*time.Millisecond)
	}
	stop()
	callers.Wait()
	c.writeAll("after")
	mu.Lock()
	defer mu.Unlock()
	c.check(acked)
	t.Logf("%d writes, the slowest took %s", len(acked), time.Duration(slowest.Load()))
}

// pause lets a fault last; what is waited for is the passing of time itself.
func pause(rnd *rand.Rand, upTo time.Duration) { <-time.After(upTo/2 + rand.N(upTo/2+1)) }

// A killed worker's partitions are taken by the tether, though its heartbeats never count as missing.
func TestKilledOwnerIsMissedAtOnce(t *testing.T) {
	c := newCluster(t, patientTiming)
	w1 := c.start("w1")
	c.start("w2")
	c.waitOwners("w1", "w2")
	c.writeAll("before")
	c.signal(w1, syscall.SIGKILL)
	c.waitOwners("w2")
	c.writeAll("after")
	c.check(nil)
}

// A graceful end hands over without a failed or slow call, and a pin moves a partition.
func TestDrainAndPin(t *testing.T) {
	c := newCluster(t, testTiming)
	w1 := c.start("w1")
	c.start("w2")
	rows := c.waitOwners("w1", "w2")
	part := rows[slices.IndexFunc(rows, func(r partition.Row) bool { return r.Owner == "w1" })].Part
	if err := c.rows.Pin(t.Context(), part, "w2"); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(patient)
	for {
		row, err := c.rows.Get(t.Context(), part)
		if err != nil {
			t.Fatal(err)
		}
		if row.Owner == "w2" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("pinned partition did not move")
		}
		<-time.After(20 * time.Millisecond)
	}
	if err := c.write(t.Context(), part, "pinned"); err != nil {
		t.Fatal(err)
	}
	c.signal(w1, syscall.SIGTERM)
	for _, row := range c.waitOwners("w2") {
		if row.OwnerAddr == "" {
			t.Errorf("partition %d has no owner's address", row.Part)
		}
	}
	c.writeAll("after")
	if err := c.rows.Pin(t.Context(), 9999, "w2"); !errors.Is(err, partition.ErrNoPartition) {
		t.Errorf("pin of an unknown partition: %v", err)
	}
	c.check([]string{"pinned"})
}
