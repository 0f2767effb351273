package room

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"hanse/pkg/authgraph"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/resolve"
	"hanse/pkg/state"
	roomv1 "hanse/proto/room/v1"
)

// whileResolving calls do at the begin of each resolution of a cluster for which the room is not locked.
func whileResolving(c *cluster, do func(context.Context, *room) error) {
	for _, w := range c.workers {
		w.faults.resolving = func(ctx context.Context, r *room) error {
			if len(r.sem) > 0 { // one that is made under the lock
				return nil
			}
			return do(ctx, r)
		}
	}
}

// receive gives events to the first server in the background.
func (f *branching) receive(ctx context.Context, pdus ...*event.PDU) <-chan error {
	raw := make([][]byte, len(pdus))
	for i, p := range pdus {
		raw[i] = p.JSON
	}
	done := make(chan error, 1)
	go func() {
		_, err := f.a.workers[0].Receive(ctx, &roomv1.ReceiveRequest{RoomId: f.room, Origin: string(two), Pdus: raw})
		done <- err
	}()
	return done
}

// places are where events stand in the first server's timeline.
func (f *branching) places(pdus ...*event.PDU) (at []int) {
	f.t.Helper()
	tl := f.a.timeline(f.room)
	for _, p := range pdus {
		n := 0
		for i, e := range tl {
			if e.ID == p.ID {
				at = append(at, i)
				n++
			}
		}
		if n != 1 {
			f.t.Errorf("%s is there %d times", p.Type, n)
		}
	}
	return at
}

func (f *branching) check() {
	f.t.Helper()
	f.a.checkResolved(f.room)
	f.a.checkAuth(f.room)
	f.a.auditSplit(f.t.(*testing.T), f.room)
}

// While the state of a room is resolved, its own users write, change its state and read it; what other servers send waits,
// and comes in its order. A change of the state makes the resolution void: another one begins, of the states that there are
// now.
func TestRoomGoesOnWhileItResolves(t *testing.T) {
	f := newBranching(t, "11")
	ok := must[*roomv1.SendResponse](t)
	w := f.a.workers[0]
	began, letGo := make(chan struct{}, maxUnlocked), make(chan struct{})
	whileResolving(f.a, func(ctx context.Context, _ *room) error {
		began <- struct{}{}
		select {
		case <-letGo:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	empty := ""
	first := f.event(bert, "org.example.state", &empty, `{}`)
	second, third := f.message(bert, first), f.message(birgt, first)
	done := f.receive(context.Background(), first, second)
	<-began
	next := f.receive(context.Background(), third)
	for i := range 5 {
		ok(f.a.say(f.room, anna, fmt.Sprint("while it resolves ", i)))
	}
	if len(began) > 0 {
		t.Error("resolved anew after messages")
	}
	ok(f.a.setState(f.room, anna, "m.room.name", "", `{"name":"changed meanwhile"}`))
	<-began
	if _, err := w.MakeMembership(context.Background(), &roomv1.MakeMembershipRequest{RoomId: f.room, UserId: bert, Origin: string(two), Membership: "leave"}); err != nil {
		t.Error(err)
	}
	if len(began) > 0 {
		t.Error("two resolutions of one room at once")
	}
	close(letGo)
	for _, c := range []<-chan error{done, next} {
		if err := <-c; err != nil {
			t.Fatal(err)
		}
	}
	if at := f.places(first, second, third); !slices.IsSorted(at) {
		t.Errorf("places %v", at)
	}
	for _, p := range []*event.PDU{first, second, third} {
		if got := f.flags(p); got != 0 {
			t.Errorf("flags %d", got)
		}
	}
	if n := counter(w.metrics.unlocked); n != 1 {
		t.Errorf("%v resolutions without the lock", n)
	}
	f.check()
}

// Servers that change what they like while the other side's events are resolved without the lock come to the state of the
// specification's algorithm, and to that of a server that resolves everything with the room locked.
func TestNetsplitWhileResolving(t *testing.T) {
	sides := newSides(t)
	unlocked, locked := sides[0], sides[1]
	for _, w := range locked.c.workers {
		w.brief = resolve.Budget{} // no bounds
	}
	rng := rand.New(rand.NewPCG(7, 8))
	changed := 0
	whileResolving(unlocked.c, func(_ context.Context, r *room) error {
		switch {
		case r.still.Load() != nil: // the state waits for this
			unlocked.speak(t, string(r.id))
		case rng.IntN(2) == 0:
			changed++
			unlocked.act(t, rng, string(r.id), 1+rng.IntN(2))
		}
		return nil
	})
	netsplit(t, sides)
	made := counter(unlocked.c.workers[0].metrics.unlocked)
	t.Logf("%v resolutions without the lock, %d with changes meanwhile", made, changed)
	if made == 0 || changed == 0 {
		t.Error("nothing was resolved without the lock")
	}
	for _, w := range locked.c.workers {
		if n := counter(w.metrics.unlocked); n > 10*12 { // the first in each room reads the auth graph
			t.Errorf("%v resolutions without the lock where they have no bounds", n)
		}
	}
}

// However often the state of a room changes, an event of another server gets in: in the end changes wait for it, but
// messages do not.
func TestStateStandsStill(t *testing.T) {
	f := newBranching(t, "12")
	ok := must[*roomv1.SendResponse](t)
	made := 0
	change := func() (*roomv1.SendResponse, error) {
		return f.a.setState(f.room, anna, "org.example.changes", "", fmt.Sprintf(`{"n":%d}`, made))
	}
	late := make(chan error, 1)
	whileResolving(f.a, func(_ context.Context, r *room) error {
		made++
		ok(f.a.say(f.room, anna, "nobody waits to say something"))
		if r.still.Load() == nil {
			ok(change())
			return nil
		}
		go func() {
			_, err := change()
			late <- err
		}()
		return nil
	})
	empty := ""
	e := f.event(bert, "org.example.state", &empty, `{}`)
	if r := f.send(e); r[0].Error != "" {
		t.Fatal(r[0].Error)
	}
	if err := <-late; err != nil {
		t.Error(err)
	}
	if made != freeUnlocked+1 {
		t.Errorf("resolved %d times", made)
	}
	if got := f.flags(e); got != 0 {
		t.Errorf("flags %d", got)
	}
	f.check()
}

// The first message of ours that stands upon all extremities of a room makes the resolution void, which ends at once; those that follow
// it do not.
func TestEndsMergedWhileResolving(t *testing.T) {
	f := newBranching(t, "11")
	ok := must[*roomv1.SendResponse](t)
	made, empty := 0, ""
	e := f.event(bert, "org.example.state", &empty, `{}`)
	f.send(e)
	if n := len(f.a.extremities(f.room)); n != 2 {
		t.Fatalf("%d extremities", n)
	}
	whileResolving(f.a, func(ctx context.Context, _ *room) error {
		made++
		ok(f.a.say(f.room, anna, "upon all extremities"))
		if made == 1 {
			<-ctx.Done()
			return ctx.Err()
		}
		return ctx.Err()
	})
	levels := f.event(bert, "m.room.power_levels", &empty, `{"users":{"@anna:one.test":100,"@bert:two.test":100}}`, e)
	if r := f.send(levels); r[0].Error != "" {
		t.Fatal(r[0].Error)
	}
	if made != 2 {
		t.Errorf("resolved %d times", made)
	}
	f.check()
}

// A request that ends while its events are resolved leaves nothing behind that would hold the room up; when they come again
// they are taken in.
func TestCancelledWhileResolving(t *testing.T) {
	f := newBranching(t, "11")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	whileResolving(f.a, func(ctx context.Context, _ *room) error {
		cancel()
		<-ctx.Done()
		return ctx.Err()
	})
	empty := ""
	levels := f.event(bert, "m.room.power_levels", &empty, `{"users":{"@anna:one.test":100,"@bert:two.test":100},"events":{"m.room.topic":0}}`)
	e := f.event(bert, "org.example.state", &empty, `{}`, levels)
	if err := <-f.receive(ctx, levels, e); err == nil {
		t.Fatal("no error")
	}
	whileResolving(f.a, func(context.Context, *room) error { return nil })
	must[*roomv1.SendResponse](t)(f.a.setState(f.room, anna, "m.room.name", "", `{"name":"and on"}`))
	for _, r := range f.send(levels, e) {
		if r.Error != "" {
			t.Error(r.Error)
		}
	}
	f.places(levels, e)
	f.check()
}

// What a room's forks cost is charged as ever: the event whose resolution was too much is taken in, the next one waits.
func TestOverdrawnWhileResolving(t *testing.T) {
	f := newBranching(t, "11")
	whileResolving(f.a, func(_ context.Context, r *room) error {
		r.allowance.spend(time.Now(), time.Hour)
		return nil
	})
	empty := ""
	e := f.event(bert, "org.example.state", &empty, `{}`)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second) // less than is owed
	defer cancel()
	if err := <-f.receive(ctx, e); err != nil {
		t.Fatal(err)
	}
	wantCode(t, <-f.receive(ctx, f.message(bert, e)), merr.CodeLimitExceeded)
	f.places(e)
	f.check()
}

// The auth graph of a room is read while its users change the state: nothing of that is missing in it.
func TestGraphReadWhileRoomGoesOn(t *testing.T) {
	f := newBranching(t, "11")
	ok := must[*roomv1.SendResponse](t)
	w, ctx := f.a.workers[0], context.Background()
	for range graphLoads {
		if err := w.loads.enter(ctx); err != nil {
			t.Fatal(err)
		}
	}
	empty := ""
	done := f.receive(ctx, f.event(bert, "org.example.state", &empty, `{}`))
	waitFor(t, func() bool { return w.loads.waiting() > 0 })
	for i := range 3 {
		ok(f.a.setState(f.room, anna, "org.example.changes", fmt.Sprint(i), `{}`))
	}
	for range graphLoads {
		w.loads.leave()
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	ok(f.a.setState(f.room, anna, "org.example.changes", "afterwards", `{}`))
	r, err := w.lockRoom(ctx, id.Room(f.room))
	if err != nil {
		t.Fatal(err)
	}
	defer r.unlock()
	g, found := w.graphs.Get(r)
	if !found {
		t.Fatal("no graph")
	}
	err = g.walk(false, func(by *resolve.Resolver) error {
		g := by.Graph()
		for key, nid := range r.head.state.All() {
			if g.Find(nid) == authgraph.None {
				t.Errorf("%v is missing", key)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	f.check()
}

// What is added to a graph while somebody walks it is in it for the next who does, and does not wait.
func TestGraphGrowsWhileWalked(t *testing.T) {
	node := func(nid int64, auth ...int64) authgraph.Node {
		return authgraph.Node{NID: nid, Key: state.Key{Type: "t", StateKey: fmt.Sprint(nid)}, Auth: auth}
	}
	g := &growing{known: resolve.NewResolver(authgraph.New())}
	length := func(wait bool) (n int, err error) {
		err = g.walk(wait, func(by *resolve.Resolver) error { n = by.Graph().Len(); return nil })
		return n, err
	}
	add := func(n authgraph.Node) {
		t.Helper()
		if err := g.add(n); err != nil {
			t.Fatal(err)
		}
	}
	add(node(1))
	waited := make(chan int, 1)
	err := g.walk(false, func(by *resolve.Resolver) error {
		walked := by.Graph()
		if n, err := length(false); n != 1 || err != nil {
			t.Errorf("two at once: %d events, %v", n, err)
		}
		add(node(2, 1))
		add(node(3, 2))
		if _, err := length(false); !errors.Is(err, errWalked) {
			t.Errorf("a walk that would lack something: %v", err)
		}
		if walked.Len() != 1 {
			t.Error("it grew under who walks it")
		}
		go func() {
			n, _ := length(true)
			waited <- n
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := <-waited; n != 3 {
		t.Errorf("%d events", n)
	}
	if err := g.add(node(5, 4)); err == nil {
		t.Error("an event fits that cites what is not there")
	}
}
