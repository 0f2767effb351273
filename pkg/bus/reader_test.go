package bus_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/encoding/protowire"

	"hanse/pkg/bus"
	"hanse/pkg/bus/bustest"
	logv1 "hanse/proto/log/v1"
)

// truth is the log as PostgreSQL has it: dense positions, in order.
type truth struct {
	mu    sync.Mutex
	log   map[uint32][]*logv1.Entry
	down  bool
	size  int // bytes in each entry
	reads int
}

func newTruth() *truth { return &truth{log: make(map[uint32][]*logv1.Entry)} }

// append writes entries, changed before anybody can read them.
func (s *truth) append(part uint32, n int, change ...func(*logv1.Entry)) *logv1.Batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	var es []*logv1.Entry
	for range n {
		pos := int64(len(s.log[part]) + 1)
		e := &logv1.Entry{Pos: pos, RoomId: fmt.Sprintf("!%d:%d", part, pos), Body: &logv1.Entry_Receipt{Receipt: &logv1.Receipt{}}}
		if s.size > 0 {
			e.Body = &logv1.Entry_Event{Event: &logv1.Event{Json: make([]byte, s.size)}}
		}
		for _, f := range change {
			f(e)
		}
		s.log[part] = append(s.log[part], e)
		es = append(es, e)
	}
	return &logv1.Batch{Part: part, Head: int64(len(s.log[part])), Entries: es, CommittedUs: time.Now().UnixMicro()}
}

func (s *truth) ReadLog(_ context.Context, part uint32, from int64, limit int) ([]*logv1.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	if s.down {
		return nil, errors.New("database is away")
	}
	log := s.log[part]
	if from > int64(len(log)) {
		return nil, nil
	}
	log = log[from-1:]
	return append([]*logv1.Entry(nil), log[:min(limit, len(log))]...), nil
}

func (s *truth) heads(context.Context) (map[uint32]int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := make(map[uint32]int64)
	for part, log := range s.log {
		m[part] = int64(len(log))
	}
	return m, nil
}

// sink checks that what arrives is dense and in order.
type sink struct {
	mu   sync.Mutex
	next map[uint32]int64
	errs []error
}

func newSink() *sink { return &sink{next: make(map[uint32]int64)} }

func (k *sink) handle(_ context.Context, d bus.Delivery) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range d.Entries {
		if want := k.next[d.Part] + 1; e.Pos != want || e.RoomId != fmt.Sprintf("!%d:%d", d.Part, want) {
			k.errs = append(k.errs, fmt.Errorf("partition %d: got %d (%s), want %d", d.Part, e.Pos, e.RoomId, want))
		}
		k.next[d.Part] = e.Pos
	}
	return nil
}

func (k *sink) check(t *testing.T) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, err := range k.errs {
		t.Error(err)
	}
}

func patience(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// A bus that loses, doubles and reorders, and is wiped while everything runs.
func TestReaderOverBadBus(t *testing.T) {
	srv := bustest.New(t)
	src, got := newTruth(), newSink()
	pub, sub := srv.Open("publisher"), srv.Open("reader")
	r := bus.NewLogReader(sub, bus.ReaderConfig{Name: "test", Source: src, Heads: src.heads,
		HeadInterval: 100 * time.Millisecond, Handle: got.handle, CatchUpLimit: 7})
	defer r.Close()
	const parts = 4
	for part := range uint32(parts) {
		if err := r.Add(part, 0); err != nil {
			t.Fatal(err)
		}
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	var held []*logv1.Batch
	publish := func(b *logv1.Batch) {
		_ = pub.PublishLog(b) // errors while NATS is away are part of the test
	}
	for i := range 3000 {
		b := src.append(rnd.Uint32N(parts), 1+rnd.IntN(5))
		switch rnd.IntN(10) {
		case 0: // lost
		case 1: // twice
			publish(b)
			publish(b)
		case 2: // late
			held = append(held, b)
		case 3: // only the beacon
			publish(&logv1.Batch{Part: b.Part, Head: b.Head})
		default:
			publish(b)
		}
		if len(held) > 3 {
			publish(held[0])
			held = held[1:]
		}
		switch i {
		case 1000:
			srv.Wipe()
		case 1500:
			srv.Start()
		case 2000:
			src.mu.Lock()
			src.down = true
			src.mu.Unlock()
		case 2200:
			src.mu.Lock()
			src.down = false
			src.mu.Unlock()
		}
	}
	heads, _ := src.heads(t.Context())
	ctx := patience(t)
	for part, head := range heads {
		if err := r.WaitFor(ctx, part, head); err != nil {
			t.Fatal(err)
		}
	}
	got.check(t)
	r.Close()
	if pos := r.Positions(); len(pos) != 0 {
		t.Fatalf("after Close: %v", pos)
	}
}

// The last batch is lost, and nothing follows: the comparison of heads finds it.
func TestLostTail(t *testing.T) {
	srv := bustest.New(t)
	src, got := newTruth(), newSink()
	caught := make(chan struct{})
	r := bus.NewLogReader(srv.Open("r"), bus.ReaderConfig{Name: "test", Source: src, Heads: src.heads,
		HeadInterval: 20 * time.Millisecond, Handle: func(ctx context.Context, d bus.Delivery) error {
			if d.Entries[len(d.Entries)-1].Pos == 9 {
				close(caught)
			}
			return got.handle(ctx, d)
		}})
	defer r.Close()
	if err := r.Add(3, 0); err != nil {
		t.Fatal(err)
	}
	src.append(3, 9)
	select {
	case <-caught:
	case <-patience(t).Done():
		t.Fatal("tail never came")
	}
	got.check(t)
}

// polled is a reader whose regular comparison of heads never comes in the life of a test.
func polled(t *testing.T, srv *bustest.Server, src *truth, interval time.Duration) (arrived chan bus.Delivery, gauge func() float64) {
	t.Helper()
	reg := prometheus.NewRegistry()
	b, err := bus.Open(t.Context(), bus.Config{URL: srv.URL(), Name: "r", Registerer: reg})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	arrived = make(chan bus.Delivery, 100)
	r := bus.NewLogReader(b, bus.ReaderConfig{Name: "test", Source: src, Heads: src.heads, HeadInterval: interval,
		Handle: func(_ context.Context, d bus.Delivery) error { arrived <- d; return nil }})
	t.Cleanup(r.Close)
	for part := range uint32(3) {
		if err := r.Add(part, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Conn().Flush(); err != nil { // the server has heard of the subscriptions
		t.Fatal(err)
	}
	return arrived, func() float64 {
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "hanse_log_polling" {
				return f.Metric[0].Gauge.GetValue()
			}
		}
		return -1
	}
}

// comes waits for the entries up to a position of a partition, and says whether the bus brought the last of them.
func comes(t *testing.T, arrived chan bus.Delivery, part uint32, pos int64) (live bool) {
	t.Helper()
	ctx := patience(t)
	for {
		select {
		case d := <-arrived:
			if d.Part == part && d.Entries[len(d.Entries)-1].Pos >= pos {
				return d.Live
			}
		case <-ctx.Done():
			t.Fatalf("entry %d of partition %d does not come", pos, part)
		}
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx := patience(t)
	for !ok() {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal(what)
		}
	}
}

// While NATS is away the heads are asked for several times a second, not when the regular comparison comes; when it is
// back, it brings what is published.
func TestPolledWhileAway(t *testing.T) {
	srv := bustest.New(t)
	src := newTruth()
	arrived, polling := polled(t, srv, src, time.Hour)
	pub := srv.Open("publisher")
	publish := func() { _ = pub.PublishLog(src.append(0, 1)) } // fails while NATS is away
	publish()
	comes(t, arrived, 0, 1)
	srv.Stop()
	eventually(t, "the heads are not polled", func() bool { return polling() == 1 })
	for pos := range int64(5) {
		publish()
		if comes(t, arrived, 0, pos+2) {
			t.Error("a bus that is away has brought something")
		}
	}
	src.append(2, 3)
	comes(t, arrived, 2, 3)

	srv.Start()
	eventually(t, "the heads are still polled", func() bool { return polling() == 0 })
	eventually(t, "the publisher is not back", pub.Connected)
	// What is published before the server has heard of the subscription is lost; what comes later shows it.
	eventually(t, "the bus brings nothing", func() bool {
		publish()
		select {
		case d := <-arrived:
			return d.Live
		case <-time.After(200 * time.Millisecond):
			return false
		}
	})
}

// A bus that is there but brings nothing is not waited for again after the first loss.
func TestPolledWhileLosing(t *testing.T) {
	srv := bustest.New(t)
	src := newTruth()
	arrived, polling := polled(t, srv, src, time.Second)
	if err := srv.Open("publisher").PublishLog(src.append(0, 1)); err != nil {
		t.Fatal(err)
	}
	comes(t, arrived, 0, 1) // what PostgreSQL had at the start has been read
	// The reader may happen to look, as it does some time after its connection was made: what it finds then is not lost.
	for pos := int64(2); polling() != 1; pos++ {
		src.append(0, 1)
		if comes(t, arrived, 0, pos) || pos > 10 {
			t.Fatalf("nothing of %d entries was published, and the heads are not polled", pos)
		}
	}
	src.append(1, 2)
	comes(t, arrived, 1, 2)
}

// A handler that stands still delays neither other partitions nor other readers, its queue stays
// within its bound, and it misses nothing.
func TestSlowConsumer(t *testing.T) {
	srv := bustest.New(t)
	src, slowGot, fastGot := newTruth(), newSink(), newSink()
	b := srv.Open("both")
	release := make(chan struct{})
	slow := bus.NewLogReader(b, bus.ReaderConfig{Name: "slow", Source: src, QueueMsgs: 4, QueueBytes: 1 << 10,
		Handle: func(ctx context.Context, d bus.Delivery) error {
			if d.Part == 0 {
				<-release
			}
			return slowGot.handle(ctx, d)
		}})
	defer slow.Close()
	fast := bus.NewLogReader(b, bus.ReaderConfig{Name: "fast", Source: src, Handle: fastGot.handle})
	defer fast.Close()
	for _, r := range []*bus.LogReader{slow, fast} {
		for part := range uint32(2) {
			if err := r.Add(part, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 500 {
		for part := range uint32(2) {
			if err := b.PublishLog(src.append(part, 1)); err != nil {
				t.Fatal(err)
			}
		}
	}
	ctx := patience(t)
	for part := range uint32(2) {
		if err := fast.WaitFor(ctx, part, 500); err != nil {
			t.Fatal(err)
		}
	}
	if err := slow.WaitFor(ctx, 1, 500); err != nil {
		t.Fatal(err)
	}
	if pos, _ := slow.Position(0); pos != 0 {
		t.Fatalf("slow partition is at %d", pos)
	}
	close(release)
	if err := slow.WaitFor(ctx, 0, 500); err != nil {
		t.Fatal(err)
	}
	slowGot.check(t)
	fastGot.check(t)
}

// Errors are retried with the same entries; what is unprocessable, or panics, goes to the dead
// letters alone.
func TestFailingHandler(t *testing.T) {
	srv := bustest.New(t)
	src := newTruth()
	var mu sync.Mutex
	var order []int64
	var dead []int64
	failed := false
	r := bus.NewLogReader(srv.Open("r"), bus.ReaderConfig{Name: "test", Source: src,
		Handle: func(_ context.Context, d bus.Delivery) error {
			mu.Lock()
			defer mu.Unlock()
			for _, e := range d.Entries {
				switch {
				case e.Pos == 2 && !failed:
					failed = true
					return errors.New("try again")
				case e.Pos == 4:
					return bus.Unprocessable(errors.New("bad entry"))
				case e.Pos == 6:
					panic("very bad entry")
				}
			}
			for _, e := range d.Entries {
				order = append(order, e.Pos)
			}
			return nil
		},
		DeadLetter: func(_ context.Context, d bus.Delivery, cause error) error {
			mu.Lock()
			defer mu.Unlock()
			dead = append(dead, d.Entries[0].Pos)
			return nil
		}})
	defer r.Close()
	src.append(0, 8)
	if err := r.Add(0, 0); err != nil {
		t.Fatal(err)
	}
	if err := r.WaitFor(patience(t), 0, 8); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if fmt.Sprint(order) != "[1 2 3 5 7 8]" || fmt.Sprint(dead) != "[4 6]" {
		t.Fatalf("handled %v, dead %v", order, dead)
	}
}

// What a newer program wrote goes to the dead letters alone, whether it is read from PostgreSQL or heard on the bus, where
// it comes with a body that this program does not know.
func TestUnknownEntry(t *testing.T) {
	srv := bustest.New(t)
	src := newTruth()
	arrived, dead := make(chan int64, 10), make(chan int64, 10)
	r := bus.NewLogReader(srv.Open("r"), bus.ReaderConfig{Name: "test", Source: src,
		Handle: func(_ context.Context, d bus.Delivery) error {
			for _, e := range d.Entries {
				arrived <- e.Pos
			}
			return nil
		},
		DeadLetter: func(_ context.Context, d bus.Delivery, cause error) error {
			if len(d.Entries) != 1 || cause == nil {
				t.Errorf("dead letter %v: %v", d.Entries, cause)
			}
			dead <- d.Entries[0].Pos
			return nil
		}})
	defer r.Close()
	unknown := func(e *logv1.Entry) {
		if e.Pos == 2 || e.Pos == 5 {
			e.Body = nil
			e.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, 100, protowire.BytesType), []byte("of another kind")))
		}
	}
	src.append(0, 3, unknown) // read
	if err := r.Add(0, 0); err != nil {
		t.Fatal(err)
	}
	if err := r.WaitFor(patience(t), 0, 3); err != nil {
		t.Fatal(err)
	}
	if err := srv.Open("w").PublishLog(src.append(0, 3, unknown)); err != nil {
		t.Fatal(err)
	}
	if err := r.WaitFor(patience(t), 0, 6); err != nil {
		t.Fatal(err)
	}
	close(arrived)
	close(dead)
	if a, d := slices.Collect(each(arrived)), slices.Collect(each(dead)); !slices.Equal(a, []int64{1, 3, 4, 6}) || !slices.Equal(d, []int64{2, 5}) {
		t.Fatalf("handled %v, dead %v", a, d)
	}
}

func each(ch <-chan int64) iter.Seq[int64] {
	return func(yield func(int64) bool) {
		for n := range ch {
			if !yield(n) {
				return
			}
		}
	}
}

// A batch that is larger than a NATS message arrives in pieces that follow each other.
func TestLargeBatch(t *testing.T) {
	b, err := bus.Open(t.Context(), bus.Config{StoreDir: t.TempDir()}) // the embedded server
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	src, got := newTruth(), newSink()
	pieces := make(chan *logv1.Batch, 100)
	if _, err := bus.Subscribe(b, "hanse.room.0", func(_ string, m *logv1.Batch) { pieces <- m }); err != nil {
		t.Fatal(err)
	}
	r := bus.NewLogReader(b, bus.ReaderConfig{Name: "test", Source: src, Handle: got.handle})
	defer r.Close()
	if err := r.Add(0, 0); err != nil {
		t.Fatal(err)
	}
	src.size = 64 << 10
	if err := b.PublishLog(src.append(0, 40)); err != nil {
		t.Fatal(err)
	}
	ctx := patience(t)
	if err := r.WaitFor(ctx, 0, 40); err != nil {
		t.Fatal(err)
	}
	for next := int64(1); next <= 40; {
		select {
		case p := <-pieces:
			if p.Entries[0].Pos != next || p.Head != next+int64(len(p.Entries))-1 {
				t.Fatalf("piece of %d entries from %d with head %d, want to start at %d", len(p.Entries), p.Entries[0].Pos, p.Head, next)
			}
			next = p.Head + 1
		case <-ctx.Done():
			t.Fatal("a piece did not come")
		}
	}
	got.check(t)
}

func TestHints(t *testing.T) {
	b, err := bus.Open(t.Context(), bus.Config{StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	got := make(chan string, 10)
	subs := []func() (*bus.Subscription, error){
		func() (*bus.Subscription, error) {
			return b.SubscribeUsers(func(u *logv1.UserChanges) { got <- fmt.Sprintf("user %s %d", u.Users[0].UserId, u.Users[0].Seq) })
		},
		func() (*bus.Subscription, error) {
			return b.SubscribeTyping(func(m *logv1.Typing) { got <- "typing " + m.UserId })
		},
		func() (*bus.Subscription, error) {
			return b.SubscribeFedout(func(part uint32) { got <- fmt.Sprint("fedout ", part) })
		},
	}
	for _, s := range subs {
		if _, err := s(); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(b.UserChanged(5, "@a:b", 7), b.PublishTyping(3, &logv1.Typing{UserId: "@t:b"}), b.WakeFedout(63)); err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{"user @a:b 7": true, "typing @t:b": true, "fedout 63": true}
	for range len(want) {
		select {
		case s := <-got:
			if !want[s] {
				t.Errorf("got %q", s)
			}
		case <-patience(t).Done():
			t.Fatal("a hint did not come")
		}
	}
}
