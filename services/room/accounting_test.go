package room

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hanse/pkg/bus"
	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	"hanse/pkg/pg"
	logv1 "hanse/proto/log/v1"
	roomv1 "hanse/proto/room/v1"

	"google.golang.org/grpc"
)

// mischief makes appends of all workers go wrong at random.
type mischief struct {
	on    atomic.Bool
	stall atomic.Int64 // milliseconds that the next append stands still
	lost  atomic.Int64 // answers lost
}

func (m *mischief) faults() faults {
	return faults{
		before: func() {
			if ms := m.stall.Swap(0); ms > 0 {
				<-time.After(time.Duration(ms) * time.Millisecond)
			}
		},
		commit: func(err error) error {
			if err == nil && m.on.Load() && rand.IntN(40) == 0 {
				m.lost.Add(1)
				return fmt.Errorf("lost answer: %w", io.ErrUnexpectedEOF)
			}
			return err
		},
	}
}

// ledger is what the log reader of the test has seen.
type ledger struct {
	mu     sync.Mutex
	events map[uint32]map[int64]string // by partition and position
	bad    []string
}

func (l *ledger) handle(_ context.Context, d bus.Delivery) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range d.Entries {
		seen := l.events[d.Part]
		if seen == nil {
			seen = make(map[int64]string)
			l.events[d.Part] = seen
		}
		if _, again := seen[e.Pos]; again {
			l.bad = append(l.bad, fmt.Sprintf("position %d/%d came twice", d.Part, e.Pos))
		}
		seen[e.Pos] = e.GetEvent().GetEventId()
	}
	return nil
}

// Many writers, owners that are replaced, stand still and do not hear the answers of their commits: every acknowledged
// event is in the log once, at the position that was named, in the order in which its sender sent; positions are dense;
// the bus and the log agree.
func TestAccounting(t *testing.T) {
	m := new(mischief)
	c := newClusterFaulty(t, 3, m.faults())
	const rooms, senders = 6, 18
	took := 6 * time.Second
	if testing.Short() {
		took = 2 * time.Second
	}
	roomIDs := make([]string, rooms)
	for i := range roomIDs {
		roomIDs[i] = c.create("12", alice, "public")
		for s := range senders {
			if _, err := c.join(roomIDs[i], user(s)); err != nil {
				t.Fatal(err)
			}
		}
	}
	book := &ledger{events: make(map[uint32]map[int64]string)}
	reader := readAll(t, c, book)

	m.on.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), took)
	defer cancel()
	acked := make([][]ack, senders)
	var wg sync.WaitGroup
	for s := range senders {
		wg.Go(func() { acked[s] = c.sendUntil(ctx, t, user(s), roomIDs) })
	}
	wg.Go(func() { c.harass(ctx, t, m) })
	wg.Wait()
	m.on.Store(false)
	c.settle()

	var total int
	for _, a := range acked {
		total += len(a)
	}
	t.Logf("%d acknowledged, %d answers lost", total, m.lost.Load())
	if total < senders {
		t.Fatal("hardly anything was sent")
	}
	c.audit(t, acked, book, reader)
}

func user(n int) string { return fmt.Sprintf("@user%d:hanse.test", n) }

type ack struct {
	room  string
	event string
	part  uint32
	pos   int64
}

func readAll(t *testing.T, c *cluster, book *ledger) *bus.LogReader {
	rows := partition.NewRows(c.db)
	heads, err := rows.Heads(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	reader := bus.NewLogReader(c.nats.Open("reader"), bus.ReaderConfig{Name: "test", Source: c.read, Heads: rows.Heads,
		HeadInterval: 500 * time.Millisecond, Handle: book.handle})
	t.Cleanup(reader.Close)
	for part, head := range heads {
		if err := reader.Add(part, head); err != nil {
			t.Fatal(err)
		}
	}
	return reader
}

// sendUntil sends one message after the other, each until it is acknowledged.
func (c *cluster) sendUntil(ctx context.Context, t *testing.T, sender string, rooms []string) []ack {
	var acks []ack
	for n := 0; ctx.Err() == nil; n++ {
		roomID := rooms[rand.IntN(len(rooms))]
		req := &roomv1.SendRequest{RoomId: roomID, Cause: &roomv1.Cause{UserId: sender, DeviceId: "D", TxnId: fmt.Sprint(n)},
			Events: []*roomv1.EventIntent{{Type: "m.room.message", Content: []byte(fmt.Sprintf(`{"body":"%d"}`, n)), Sender: sender}}}
		var resp *roomv1.SendResponse
		err := c.router.Call(context.Background(), partition.Of(roomID), func(ctx context.Context, conn grpc.ClientConnInterface) (err error) {
			resp, err = roomv1.NewRoomClient(conn).Send(ctx, req)
			return err
		})
		if err != nil {
			t.Errorf("send: %v", err)
			return acks
		}
		acks = append(acks, ack{roomID, resp.EventIds[0], resp.Part, resp.Pos})
	}
	return acks
}

func (c *cluster) any() *worker {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.workers[rand.IntN(len(c.workers))]
}

// harass takes partitions away, lets appends stand still, and replaces workers.
func (c *cluster) harass(ctx context.Context, t *testing.T, m *mischief) {
	rows := partition.NewRows(c.db)
	replaced, wiped := 0, false
	for ctx.Err() == nil {
		switch rand.IntN(10) {
		case 0:
			m.stall.Store(int64(50 + rand.IntN(200)))
		case 1:
			if replaced < 3 {
				replaced++
				c.replace()
			}
		case 2:
			// As if PostgreSQL had lost a connection, maybe in the middle of a commit. Errors show as those of the others.
			_, _ = c.db.For(0).Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%hanse_fence%' LIMIT 1`)
		case 3:
			if !wiped {
				wiped = true
				c.nats.Wipe()
				c.nats.Start()
			}
		default:
			w := c.any()
			_, err := rows.Acquire(ctx, rand.Uint32N(c.db.P()), w.name, w.grpc.Addr())
			if err != nil && ctx.Err() == nil && !pg.Transient(errors.Unwrap(err)) {
				t.Errorf("steal: %v", err)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(20+rand.IntN(80)) * time.Millisecond):
		}
	}
}

// replace ends one worker without any grace towards its partitions, after a new one has started.
func (c *cluster) replace() {
	c.start()
	c.mu.Lock()
	old := c.workers[0]
	c.workers = c.workers[1:]
	c.mu.Unlock()
	old.stop()
}

// audit compares what was acknowledged with the log, the log with the bus, and the log with itself.
func (c *cluster) audit(t *testing.T, acked [][]ack, book *ledger, reader *bus.LogReader) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	log := make(map[uint32]map[int64]*logv1.Event)
	heads, err := c.read.Heads(ctx)
	if err != nil {
		t.Fatal(err)
	}
	where := make(map[string]int64)
	for part, head := range heads {
		log[part] = make(map[int64]*logv1.Event)
		entries, err := c.read.ReadLog(ctx, part, 1, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range entries {
			if e.Pos != int64(i+1) {
				t.Fatalf("partition %d: position %d where %d should be", part, e.Pos, i+1)
			}
			if _, twice := where[e.GetEvent().EventId]; twice {
				t.Fatalf("event %s is in the log twice", e.GetEvent().EventId)
			}
			where[e.GetEvent().EventId] = e.Pos
			log[part][e.Pos] = e.GetEvent()
		}
		if int64(len(entries)) != head {
			t.Fatalf("partition %d: head %d, %d entries", part, head, len(entries))
		}
		if err := reader.WaitFor(ctx, part, head); err != nil {
			t.Fatalf("reader of partition %d: %v", part, err)
		}
	}
	sent := make(map[string]int)
	for _, of := range acked {
		last := make(map[string]int64)
		for _, a := range of {
			e := log[a.part][a.pos]
			if e == nil || e.EventId != a.event {
				t.Fatalf("acknowledged %s at %d/%d: %v is there", a.event, a.part, a.pos, e)
			}
			if a.pos <= last[a.room] {
				t.Fatalf("%s at %d, after one at %d", a.event, a.pos, last[a.room])
			}
			last[a.room] = a.pos
			sent[e.Sender]++
		}
	}
	inLog := make(map[string]int)
	for part := range log {
		for pos, e := range log[part] {
			if e.Type == "m.room.message" {
				inLog[e.Sender]++
			}
			if got, ok := book.events[part][pos]; ok && got != e.EventId {
				t.Fatalf("%d/%d: the bus said %s, the log %s", part, pos, got, e.EventId)
			}
		}
	}
	for sender, n := range inLog {
		if sent[sender] != n {
			t.Errorf("%s: %d acknowledged, %d in the log", sender, sent[sender], n)
		}
	}
	book.mu.Lock()
	defer book.mu.Unlock()
	for _, b := range book.bad {
		t.Error(b)
	}
	c.auditRooms(t)
}

// auditRooms compares the rows of rooms with what the events say.
func (c *cluster) auditRooms(t *testing.T) {
	rows, err := c.db.For(0).Query(context.Background(), `SELECT room_id FROM room`)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for rows.Next() {
		var r string
		if err := rows.Scan(&r); err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	for _, roomID := range all {
		r := c.room(roomID)
		events := c.timeline(roomID)
		joined := 0
		for k, eventID := range c.state(roomID) {
			if len(k) > 14 && k[:14] == "m.room.member|" {
				e, err := c.read.EventByID(context.Background(), r, eventID)
				if err != nil {
					t.Fatal(err)
				}
				if e.Membership() == "join" {
					joined++
				}
			}
		}
		var depth int64
		seen := make(map[id.Event]bool)
		for _, e := range events {
			seen[e.ID] = true
			for _, p := range e.PrevEvents {
				if !seen[p] {
					t.Fatalf("%s: prev event %s is not in the timeline before it", e.ID, p)
				}
			}
			depth = max(depth, e.Depth)
		}
		last := events[len(events)-1]
		if r.Joined != joined || r.Depth != depth || r.LastPos != last.Ord || len(r.Extremities) != 1 || r.Extremities[0] != last.NID || r.NotifySeq != last.NotifySeq {
			t.Fatalf("room %+v: %d joined, depth %d, last %d at %d", r, joined, depth, last.NID, last.Ord)
		}
	}
}
