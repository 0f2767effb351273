package room

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc"

	"hanse/pkg/bus/bustest"
	"hanse/pkg/grpcx"
	"hanse/pkg/mac"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
	"hanse/pkg/pg/pgtest"
	"hanse/pkg/resolve"
	"hanse/pkg/roomdb"
	"hanse/pkg/servers"
	"hanse/pkg/state"
	federationv1 "hanse/proto/federation/v1"
	roomv1 "hanse/proto/room/v1"
)

// names are the servers of a test cluster.
type names map[id.Server]*signing.Key

func (n names) IsLocal(s id.Server) bool { return n[s] != nil }

func (n names) SigningKey(_ context.Context, s id.Server) (*signing.Key, error) {
	if n[s] == nil {
		return nil, fmt.Errorf("%s is not ours", s)
	}
	return n[s], nil
}

func (n names) VerifyKeys(s id.Server) ([]servers.VerifyKey, error) {
	if n[s] == nil {
		return nil, fmt.Errorf("%s is not ours", s)
	}
	return []servers.VerifyKey{{KeyID: n[s].ID, Public: n[s].Public()}}, nil
}

func newNames(tb testing.TB, of ...id.Server) names {
	n := names{}
	for _, s := range of {
		key, err := signing.NewKey()
		if err != nil {
			tb.Fatal(err)
		}
		n[s] = key
	}
	return n
}

// cluster is PostgreSQL, NATS and some room workers in one process.
type cluster struct {
	tb      testing.TB
	pg      pg.Config
	nats    *bustest.Server
	redis   *miniredis.Miniredis
	names   names
	fedout  federationv1.FedOutClient
	faults  faults
	brief   resolve.Budget    // 0: that of a service
	router  *partition.Router // of a caller that is no room worker
	mu      sync.Mutex
	workers []*worker
	next    int
	// minDepths are those that it was asked for missing events with.
	minDepths []int64
	// read is a connection of the test's own.
	read *roomdb.DB
	db   *pg.Shards
}

// worker is one process with the room role.
type worker struct {
	*Service
	name    string
	cfg     grpcx.Config
	grpc    *grpcx.Server
	conns   *grpcx.Conns
	members *partition.Members
	router  *partition.Router
	cancel  context.CancelFunc
	done    sync.WaitGroup
	once    sync.Once
}

func newCluster(tb testing.TB, workers int, servers ...id.Server) *cluster {
	tb.Helper()
	if len(servers) == 0 {
		servers = []id.Server{"hanse.test"}
	}
	c := &cluster{tb: tb, pg: pgtest.Config(tb, 1), nats: bustest.New(tb), names: newNames(tb, servers...)}
	return c.open(workers)
}

func newClusterFaulty(tb testing.TB, workers int, f faults) *cluster {
	tb.Helper()
	c := &cluster{tb: tb, pg: pgtest.Config(tb, 1), nats: bustest.New(tb), names: newNames(tb, "hanse.test"), faults: f}
	return c.open(workers)
}

func (c *cluster) open(workers int) *cluster {
	tb := c.tb
	tb.Helper()
	c.db = pgtest.Open(tb, c.pg)
	c.redis = miniredis.RunT(tb)
	c.read = roomdb.Open(c.db, state.NewStore(state.DefaultConfig(), nil), roomdb.DefaultConfig(), nil)
	c.caller()
	for range workers {
		c.start()
	}
	c.settle()
	return c
}

// caller makes the process from which the test calls.
func (c *cluster) caller() {
	conns := grpcx.NewConns(grpcx.Config{}, nil)
	members, err := partition.Join(partition.MembersConfig{Bus: c.nats.Open("caller"), Self: partition.Member{ID: "caller", Addr: "nowhere"},
		Timing: partition.Timing{Beat: 100 * time.Millisecond, TTL: 2 * time.Second}})
	if err != nil {
		c.tb.Fatal(err)
	}
	c.router = partition.NewRouter(partition.RouterConfig{Members: members, Rows: partition.NewRows(c.db), Conns: conns, Timeout: 2 * time.Minute})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = c.router.Run(ctx)
	}()
	c.tb.Cleanup(func() {
		cancel()
		<-done
		_ = members.Leave(context.Background())
		conns.Close()
	})
}

// start adds a worker.
func (c *cluster) start() *worker {
	c.tb.Helper()
	c.next++
	w := &worker{name: fmt.Sprintf("w%d", c.next)}
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() && os.Getenv("HANSE_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("worker", w.name)
	}
	shards := pgtest.Open(c.tb, c.pg)
	b := c.nats.Open(w.name)
	secret, err := mac.Load(context.Background(), shards, nil)
	if err != nil {
		c.tb.Fatal(err)
	}
	w.cfg = grpcx.Config{Listen: "127.0.0.1:0", Log: log}
	if w.grpc, err = grpcx.NewServer(w.cfg); err != nil {
		c.tb.Fatal(err)
	}
	w.conns = grpcx.NewConns(w.cfg, w.grpc)
	w.members, err = partition.Join(partition.MembersConfig{Bus: b, Self: partition.Member{ID: w.name, Addr: w.grpc.Addr(),
		Roles: []string{"room"}}, Timing: partition.Timing{Beat: 100 * time.Millisecond, TTL: 2 * time.Second}, Log: log})
	if err != nil {
		c.tb.Fatal(err)
	}
	w.router = partition.NewRouter(partition.RouterConfig{Members: w.members, Rows: partition.NewRows(shards), Conns: w.conns, Log: log})
	store := state.NewStore(state.DefaultConfig(), nil)
	w.Service, err = New(Defaults(), Deps{Shards: shards, States: store, DB: roomdb.Open(shards, store, roomdb.DefaultConfig(), nil),
		Bus: b, Redis: redis.NewClient(&redis.Options{Addr: c.redis.Addr(), MaxRetries: -1}), Secret: secret, Members: w.members, Router: w.router, Servers: c.names, FedOut: c.fedout, Log: log})
	if err != nil {
		c.tb.Fatal(err)
	}
	w.Service.faults = c.faults
	if c.faults.asks == nil { // tests of other things count what is asked
		w.Service.faults.asks = new(int32)
	}
	if c.brief != (resolve.Budget{}) {
		w.brief = c.brief
	}
	w.Register(w.grpc)
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	run := func(f func(context.Context) error) { w.done.Go(func() { _ = f(ctx) }) }
	w.done.Go(func() { _ = w.grpc.Serve() })
	run(w.Service.Run)
	run(w.router.Run)
	w.members.SetState(partition.Ready)
	c.mu.Lock()
	c.workers = append(c.workers, w)
	c.mu.Unlock()
	c.tb.Cleanup(w.stop)
	return w
}

// stop ends a worker gracefully.
func (w *worker) stop() {
	w.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		w.members.SetState(partition.Draining)
		w.cancel()
		w.grpc.Stop(ctx)
		w.conns.Close()
		_ = w.members.Leave(ctx)
		w.done.Wait()
	})
}

// waitCommitted waits until every worker serves what it should, and knows all others.
func (c *cluster) settle() {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for _, w := range c.workers {
		for len(w.members.Of("room")) != len(c.workers) {
			select {
			case <-w.members.Changed():
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
				c.tb.Fatal("workers do not see each other")
			}
		}
	}
	for {
		total := 0
		for _, w := range c.workers {
			if err := w.owner.Settled(ctx); err != nil {
				c.tb.Fatal(err)
			}
			total += len(w.owner.Owned())
		}
		if total == int(c.db.P()) {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			c.tb.Fatalf("%d partitions of %d are owned", total, c.db.P())
		}
	}
}

// call runs f with a client of the owner of a room's partition.
func (c *cluster) call(ctx context.Context, roomID string, f func(context.Context, roomv1.RoomClient) error) error {
	return c.router.Call(ctx, partition.Of(roomID), func(ctx context.Context, conn grpc.ClientConnInterface) error {
		return f(ctx, roomv1.NewRoomClient(conn))
	})
}

var keys struct {
	sync.Mutex
	n int
}

func newCause(user string) *roomv1.Cause {
	keys.Lock()
	defer keys.Unlock()
	keys.n++
	return &roomv1.Cause{UserId: user, Key: fmt.Sprintf("%d-%d", time.Now().UnixNano(), keys.n)}
}

func stateIntent(sender, typ, key, content string) *roomv1.EventIntent {
	return &roomv1.EventIntent{Type: typ, StateKey: &key, Content: []byte(content), Sender: sender}
}

// create makes a room with the given join rule, whose creator has power level 100.
func (c *cluster) create(version, creator, joinRule string) string {
	c.tb.Helper()
	var resp *roomv1.CreateResponse
	levels := fmt.Sprintf(`{"users":{%q:100}}`, creator)
	if version == "12" {
		levels = `{"users":{}}`
	}
	req := &roomv1.CreateRequest{Creator: creator, RoomVersion: version, Cause: newCause(creator), OriginServerTs: time.Now().UnixMilli(), Events: []*roomv1.EventIntent{
		stateIntent(creator, "m.room.member", creator, `{"membership":"join","displayname":"x"}`),
		stateIntent(creator, "m.room.power_levels", "", levels),
		stateIntent(creator, "m.room.join_rules", "", fmt.Sprintf(`{"join_rule":%q}`, joinRule)),
	}}
	err := c.call(context.Background(), creator, func(ctx context.Context, r roomv1.RoomClient) (err error) {
		resp, err = r.Create(ctx, req)
		return err
	})
	if err != nil {
		c.tb.Fatalf("create: %v", err)
	}
	return resp.RoomId
}

func (c *cluster) send(roomID string, req *roomv1.SendRequest) (*roomv1.SendResponse, error) {
	req.RoomId = roomID
	var resp *roomv1.SendResponse
	err := c.call(context.Background(), roomID, func(ctx context.Context, r roomv1.RoomClient) (err error) {
		resp, err = r.Send(ctx, req)
		return err
	})
	return resp, err
}

func (c *cluster) say(roomID, sender, text string) (*roomv1.SendResponse, error) {
	body, _ := json.Marshal(map[string]string{"msgtype": "m.text", "body": text})
	return c.send(roomID, &roomv1.SendRequest{Cause: newCause(sender), Events: []*roomv1.EventIntent{
		{Type: "m.room.message", Content: body, Sender: sender}}})
}

func (c *cluster) setState(roomID, sender, typ, key, content string) (*roomv1.SendResponse, error) {
	return c.send(roomID, &roomv1.SendRequest{Cause: newCause(sender), Events: []*roomv1.EventIntent{stateIntent(sender, typ, key, content)}})
}

func (c *cluster) join(roomID, user string, via ...string) (*roomv1.SendResponse, error) {
	var resp *roomv1.SendResponse
	cause := newCause(user)
	err := c.call(context.Background(), roomID, func(ctx context.Context, r roomv1.RoomClient) (err error) {
		resp, err = r.Join(ctx, &roomv1.JoinRequest{RoomId: roomID, UserId: user, Via: via, Cause: cause})
		return err
	})
	return resp, err
}

func (c *cluster) knock(roomID, user string, via ...string) (*roomv1.SendResponse, error) {
	var resp *roomv1.SendResponse
	cause := newCause(user)
	err := c.call(context.Background(), roomID, func(ctx context.Context, r roomv1.RoomClient) (err error) {
		resp, err = r.Knock(ctx, &roomv1.JoinRequest{RoomId: roomID, UserId: user, Via: via, Cause: cause})
		return err
	})
	return resp, err
}

func (c *cluster) invite(roomID, sender, user string) (*roomv1.SendResponse, error) {
	var resp *roomv1.SendResponse
	cause := newCause(user)
	err := c.call(context.Background(), roomID, func(ctx context.Context, r roomv1.RoomClient) (err error) {
		resp, err = r.Invite(ctx, &roomv1.InviteRequest{RoomId: roomID, Sender: sender, UserId: user, Cause: cause})
		return err
	})
	return resp, err
}

func (c *cluster) leave(roomID, user string) (*roomv1.SendResponse, error) {
	var resp *roomv1.SendResponse
	cause := newCause(user)
	err := c.call(context.Background(), roomID, func(ctx context.Context, r roomv1.RoomClient) (err error) {
		resp, err = r.Leave(ctx, &roomv1.LeaveRequest{RoomId: roomID, UserId: user, Cause: cause})
		return err
	})
	return resp, err
}

// membership reads the membership index.
func (c *cluster) membership(roomID, user string) string {
	c.tb.Helper()
	part := partition.Of(user)
	var m string
	err := c.db.For(part).QueryRow(context.Background(), `SELECT membership FROM membership WHERE part = $1 AND user_id = $2 AND room_id = $3`,
		int32(part), user, roomID).Scan(&m)
	if pg.IsNoRows(err) {
		return ""
	}
	if err != nil {
		c.tb.Fatal(err)
	}
	return m
}

func (c *cluster) room(roomID string) *roomdb.Room {
	c.tb.Helper()
	r, err := c.read.Room(context.Background(), id.Room(roomID))
	if err != nil {
		c.tb.Fatal(err)
	}
	return r
}

func (c *cluster) timeline(roomID string) []*roomdb.Event {
	c.tb.Helper()
	r := c.room(roomID)
	events, err := c.read.Timeline(context.Background(), r.Part, r.NID, roomdb.TimelineQuery{After: roomdb.Start, UpTo: roomdb.End, Limit: 1 << 20})
	if err != nil {
		c.tb.Fatal(err)
	}
	return events
}

// last is the newest event of a room.
func (c *cluster) last(roomID string) *roomdb.Event {
	c.tb.Helper()
	tl := c.timeline(roomID)
	return tl[len(tl)-1]
}
