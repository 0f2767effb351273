package follow_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/bus"
	"hanse/pkg/bus/bustest"
	"hanse/pkg/deadletter"
	"hanse/pkg/follow"
	"hanse/pkg/follow/followtest"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
	"hanse/pkg/pg/pgtest"
	logv1 "hanse/proto/log/v1"
)

const role = "test"

// world is a cluster with a log in memory.
type world struct {
	t    *testing.T
	nats *bustest.Server
	pub  *bus.Bus
	cfg  pg.Config
	db   *pg.Shards

	mu  sync.Mutex
	log map[uint32][]*logv1.Entry
}

func newWorld(t *testing.T) *world { return newSharded(t, 1) }

func newSharded(t *testing.T, shards int) *world {
	t.Helper()
	w := &world{t: t, nats: bustest.New(t), cfg: pgtest.Config(t, shards), log: make(map[uint32][]*logv1.Entry)}
	w.db = pgtest.Open(t, w.cfg)
	w.pub = w.nats.Open("publisher")
	w.exec(`CREATE TABLE test_owner (part integer PRIMARY KEY, epoch bigint NOT NULL);
CREATE TABLE test_cursor (part integer NOT NULL, log_part integer NOT NULL, pos bigint NOT NULL, PRIMARY KEY (part, log_part))`)
	return w
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	for _, pool := range w.db.All() {
		if _, err := pool.Exec(w.t.Context(), sql, args...); err != nil {
			w.t.Fatal(err)
		}
	}
}

// ReadLog and Heads implement follow.Log.
func (w *world) ReadLog(_ context.Context, part uint32, from int64, limit int) ([]*logv1.Entry, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	log := w.log[part]
	if from > int64(len(log)) {
		return nil, nil
	}
	log = log[max(from, 1)-1:]
	return append([]*logv1.Entry(nil), log[:min(limit, len(log))]...), nil
}

func (w *world) Heads(context.Context) (map[uint32]int64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	heads := make(map[uint32]int64)
	for part, log := range w.log {
		heads[part] = int64(len(log))
	}
	return heads, nil
}

// write appends an entry to some log partitions.
func (w *world) write(parts ...uint32) {
	for _, part := range parts {
		w.mu.Lock()
		e := &logv1.Entry{Pos: int64(len(w.log[part]) + 1), Body: &logv1.Entry_Receipt{Receipt: &logv1.Receipt{}}}
		w.log[part] = append(w.log[part], e)
		w.mu.Unlock()
		_ = w.pub.PublishLog(&logv1.Batch{Part: part, Head: e.Pos, Entries: []*logv1.Entry{e}}) // what is lost is read
	}
}

// place is an entry as a partition of keys gets it.
type place struct {
	part, logPart uint32
	pos           int64
}

// worker counts what its partitions get.
type worker struct {
	*follow.Follower[*keeper]
	*followtest.Worker
	w *world

	mu  sync.Mutex
	got map[place]int
	bad func(d bus.Delivery) error
	pin int64 // positions from here on are not delivered
}

type keeper struct {
	*follow.Part
	follow.Stored
	k *worker
}

func (p *keeper) Flush(_ context.Context, upTo []int64) error {
	if pin := p.k.pin; pin > 0 {
		for q := range upTo {
			upTo[q] = min(upTo[q], pin-1)
		}
	}
	return nil
}

func (w *world) start(name string, reach follow.Reach, change ...func(*worker, *follow.Config[*keeper])) *worker {
	w.t.Helper()
	k := &worker{w: w, Worker: followtest.New(w.t, w.nats, w.cfg, role, name), got: make(map[place]int)}
	cfg := follow.Config[*keeper]{
		Role: role, Tables: role, Reach: reach, FromHead: true, Shards: k.Shards, Bus: k.Bus, Members: k.Members, Source: w,
		Open: func(_ context.Context, p *follow.Part) (*keeper, error) { return &keeper{Part: p, k: k}, nil },
		Plan: func(_ context.Context, d bus.Delivery) (func(follow.Hand[*keeper]), error) {
			if k.bad != nil {
				if err := k.bad(d); err != nil {
					return nil, err
				}
			}
			return func(h follow.Hand[*keeper]) {
				k.mu.Lock()
				defer k.mu.Unlock()
				for _, e := range d.Entries {
					for part := range k.Shards.P() {
						if reach == follow.SamePartition && part != d.Part {
							continue
						}
						if _, ok := h.To(part, e.Pos); ok {
							k.got[place{part, d.Part, e.Pos}]++
						}
					}
				}
			}, nil
		},
	}
	for _, f := range change {
		f(k, &cfg)
	}
	k.Follower = follow.New(cfg)
	k.Go(func(ctx context.Context) error { k.Run(ctx); return nil }, k.Stop)
	return k
}

func (w *world) waitFor(what string, cond func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatal(what)
		}
	}
}

// all waits until the workers have all partitions between them.
func (w *world) all(workers ...*worker) {
	w.t.Helper()
	w.waitFor("the partitions are not shared", func() bool {
		n := 0
		for _, k := range workers {
			mine := len(k.All())
			if mine == 0 {
				return false
			}
			n += mine
		}
		return n == int(w.db.P())
	})
}

// times is how often the workers got an entry.
func times(p place, workers ...*worker) (n int) {
	for _, k := range workers {
		k.mu.Lock()
		n += k.got[p]
		k.mu.Unlock()
	}
	return n
}

func everyPart(p uint32) []uint32 {
	all := make([]uint32, p)
	for i := range all {
		all[i] = uint32(i)
	}
	return all
}

// Two workers share the log. What was written before the role existed is nobody's. Whatever comes while one is killed, another
// one drains and a third one comes arrives, and what a worker hands over in good order arrives once.
func TestShared(t *testing.T) {
	for reach, parts := range map[follow.Reach][]uint32{follow.SamePartition: everyPart(64), follow.WholeLog: {3, 40}} {
		t.Run(fmt.Sprint(reach), func(t *testing.T) {
			w := newWorld(t)
			w.write(parts...)
			one, two := w.start("one", reach), w.start("two", reach)
			w.all(one, two)
			keys := func(q uint32) []uint32 {
				if reach == follow.SamePartition {
					return []uint32{q}
				}
				return everyPart(64)
			}
			arrived := func(pos int64, workers ...*worker) {
				t.Helper()
				for _, q := range parts {
					for _, part := range keys(q) {
						p := place{part, q, pos}
						w.waitFor(fmt.Sprintf("%v did not arrive", p), func() bool { return times(p, workers...) > 0 })
					}
				}
			}
			w.write(parts...)
			arrived(2, one, two)
			one.Kill()
			w.write(parts...)
			arrived(3, one, two)
			w.all(two)
			three := w.start("three", reach)
			w.all(two, three)
			w.write(parts...)
			arrived(4, one, two, three)
			two.Members.SetState(partition.Draining)
			if err := two.Drain(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.write(parts...)
			arrived(5, one, two, three)
			for _, q := range parts {
				for _, part := range keys(q) {
					if n := times(place{part, q, 1}, one, two, three); n != 0 {
						t.Errorf("partition %d got what was written before", part)
					}
					if n := times(place{part, q, 5}, one, two, three); n != 1 {
						t.Errorf("partition %d got the last entry %d times", part, n)
					}
				}
			}
		})
	}
}

// A worker whose partition was taken by somebody else stores nothing more of it, and gives it up.
func TestFence(t *testing.T) {
	w := newWorld(t)
	one := w.start("one", follow.SamePartition)
	w.all(one)
	p, _ := one.Get(7)
	var b pgx.Batch
	b.Queue(`INSERT INTO test_cursor (part, log_part, pos) VALUES (7, 8, 1)`)
	if err := p.Store(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	w.exec(`UPDATE test_owner SET epoch = epoch + 1 WHERE part = 7`)
	var late pgx.Batch
	late.Queue(`UPDATE test_cursor SET pos = 2 WHERE part = 7 AND log_part = 8`)
	if err := p.Store(t.Context(), &late); !errors.Is(err, follow.ErrLost) || !p.Lost() {
		t.Fatalf("stored: %v", err)
	}
	var pos int64
	if err := w.db.For(7).QueryRow(t.Context(), `SELECT pos FROM test_cursor WHERE part = 7 AND log_part = 8`).Scan(&pos); err != nil || pos != 1 {
		t.Errorf("position %d, %v", pos, err)
	}
	w.waitFor("the partition was not given up", func() bool { _, has := one.Get(7); return !has })
}

// An entry that cannot be processed becomes a dead letter under the role's name; what follows it arrives.
func TestDeadLetter(t *testing.T) {
	w := newWorld(t)
	one := w.start("one", follow.SamePartition, func(k *worker, _ *follow.Config[*keeper]) {
		k.bad = func(d bus.Delivery) error {
			if d.Part == 5 && slices.ContainsFunc(d.Entries, func(e *logv1.Entry) bool { return e.Pos == 2 }) {
				return bus.Unprocessable(errors.New("no"))
			}
			return nil
		}
	})
	w.all(one)
	for range 3 {
		w.write(5)
	}
	w.waitFor("what follows did not arrive", func() bool { return times(place{5, 5, 3}, one) == 1 })
	if there, err := deadletter.Exists(t.Context(), w.db, 5, role, 2); err != nil || !there {
		t.Errorf("no dead letter: %v", err)
	}
}

// A cursor does not pass what a keeper has not delivered: the next owner gets that again.
func TestPinned(t *testing.T) {
	w := newWorld(t)
	one := w.start("one", follow.WholeLog, func(k *worker, _ *follow.Config[*keeper]) { k.pin = 2 })
	w.all(one)
	for range 3 {
		w.write(9)
	}
	w.waitFor("did not arrive", func() bool { return times(place{30, 9, 3}, one) == 1 })
	one.End()
	two := w.start("two", follow.WholeLog)
	w.waitFor("did not arrive again", func() bool { return times(place{30, 9, 3}, two) == 1 })
	if times(place{30, 9, 1}, two) != 0 || times(place{30, 9, 2}, two) != 1 {
		t.Errorf("got again: %v", two.got)
	}
}

// A shard that does not answer keeps nobody from the partitions of the others: they are taken, get what comes, and store how far they
// are. Those of the shard are taken when it answers again.
func TestShardDoesNotAnswer(t *testing.T) {
	for reach := range map[follow.Reach]bool{follow.SamePartition: true, follow.WholeLog: true} {
		t.Run(fmt.Sprint(reach), func(t *testing.T) {
			w := newSharded(t, 2)
			hangs := w.db.All()[1]
			hang := func() (answer func()) {
				t.Helper()
				tx, err := hangs.Begin(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if _, err := tx.Exec(t.Context(), `SET LOCAL idle_in_transaction_session_timeout = 0; LOCK TABLE test_owner IN ACCESS EXCLUSIVE MODE`); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = tx.Rollback(context.Background()) }) // if the test ended early
				return func() { _ = tx.Rollback(context.Background()) }
			}
			var good []uint32
			for part := range w.db.P() {
				if w.db.For(part) != hangs {
					good = append(good, part)
				}
			}
			answer := hang()
			one := w.start("one", reach)
			w.waitFor("the other shard's partitions are not taken", func() bool { return len(one.All()) == len(good) })
			w.write(good[0])
			w.waitFor("did not arrive", func() bool { return times(place{good[0], good[0], 1}, one) == 1 })
			answer()
			w.waitFor("the shard's partitions are not taken", func() bool { return len(one.All()) == int(w.db.P()) })

			answer = hang()
			defer answer()
			all := everyPart(w.db.P())
			w.write(all...)
			last := good[len(good)-1]
			w.waitFor("cursors of the other shard are not stored", func() bool {
				var pos int64
				err := w.db.For(last).QueryRow(t.Context(), `SELECT coalesce(max(pos), 0) FROM test_cursor WHERE part = $1 AND log_part = $1`, int32(last)).Scan(&pos)
				if err != nil {
					t.Fatal(err)
				}
				return pos == 1
			})
		})
	}
}
