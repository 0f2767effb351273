package room

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/resolve"
	"hanse/pkg/roomdb"
	roomv1 "hanse/proto/room/v1"
)

// forked makes a room of two servers and lets bert, on the other one, begin a branch at its beginning that changes the
// topic so many times. Nothing of it is sent yet; the position after which it is is returned.
func forked(t *testing.T, a, b *cluster, changes int) (roomID string, after int64) {
	t.Helper()
	ok := must[*roomv1.SendResponse](t)
	roomID = a.create("11", anna, "public")
	ok(a.setState(roomID, anna, "m.room.power_levels", "", `{"users":{"@anna:one.test":100,"@bert:two.test":100}}`))
	ok(b.join(roomID, bert, string(one)))
	for i := range changes {
		resp := ok(b.setState(roomID, bert, "m.room.topic", "", fmt.Sprintf(`{"topic":"branch %d"}`, i)))
		if i == 0 {
			after = resp.Pos - 1
		}
	}
	return roomID, after
}

// nothing is what no resolution can do with: all are made without the lock.
var nothing = resolve.Budget{Visits: 1}

// endless makes the resolutions of a room on all workers of a cluster go on until they are let go.
func endless(c *cluster, roomID string) (began, letGo chan struct{}) {
	began, letGo = make(chan struct{}), make(chan struct{})
	var once sync.Once
	for _, w := range c.workers {
		w.turns = newTurns(1)
		w.faults.resolving = func(ctx context.Context, r *room) error {
			if string(r.id) != roomID {
				return nil
			}
			once.Do(func() { close(began) })
			for ctx.Err() == nil {
				select {
				case <-letGo:
					return nil
				default:
				}
			}
			return ctx.Err()
		}
	}
	return began, letGo
}

// While a room resolves without end on the only processor that there is for it, other rooms are written to, and resolve
// their own forks; the room goes on when it is done.
func TestForkBesideNeighbours(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	ok := must[*roomv1.SendResponse](t)
	roomID, after := forked(t, a, b, 1)
	neighbour, neighbourAfter := forked(t, a, b, 3)
	for _, in := range []string{roomID, neighbour} {
		ok(a.setState(in, anna, "m.room.topic", "", `{"topic":"ours"}`))
	}
	began, letGo := endless(a, roomID)
	done := make(chan struct{})
	go func() {
		defer close(done)
		carry(b, a, two, roomID, after)
	}()
	<-began
	for i := range 20 {
		ok(a.say(neighbour, anna, fmt.Sprint(i)))
	}
	carry(b, a, two, neighbour, neighbourAfter)
	if extremities := len(a.room(neighbour).Extremities); extremities != 2 {
		t.Errorf("the neighbour has %d extremities", extremities)
	}
	a.checkResolved(neighbour)
	select {
	case <-done:
		t.Fatal("the endless resolution has ended")
	default:
	}
	close(letGo)
	<-done
	a.checkResolved(roomID)
	ok(a.say(roomID, anna, "and on"))
}

// A room that has used up its processor time takes in no events of other servers, who are told to come again, until it has
// some again; its own users do not notice.
func TestOverdrawnRoom(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	ok := must[*roomv1.SendResponse](t)
	roomID, after := forked(t, a, b, 2)
	ok(a.setState(roomID, anna, "m.room.topic", "", `{"topic":"ours"}`))
	s := a.workers[0].Service
	r, err := s.joinedRoom(context.Background(), id.Room(roomID))
	if err != nil {
		t.Fatal(err)
	}
	r.unlock()
	r.allowance.spend(time.Now(), time.Hour)
	branch := b.timeline(roomID)
	first := branch[slices.IndexFunc(branch, func(e *roomdb.Event) bool { return e.Ord > after })]

	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second) // less than is owed
	defer cancel()
	_, err = s.Receive(ctx, &roomv1.ReceiveRequest{RoomId: roomID, Origin: string(two), Pdus: [][]byte{first.JSON}})
	wantCode(t, err, merr.CodeLimitExceeded)
	if extremities := len(a.room(roomID).Extremities); extremities != 1 {
		t.Errorf("%d extremities", extremities)
	}
	ok(a.say(roomID, anna, "nobody notices"))

	came := make(chan struct{})
	go func() { // without a deadline it waits
		defer close(came)
		carry(b, a, two, roomID, after)
	}()
	r.allowance.mu.Lock()
	r.allowance.balance = -time.Millisecond
	r.allowance.mu.Unlock()
	<-came
	a.checkResolved(roomID)
}

// A room of many members (20,000 if HANSE_FULL is set) that somebody forks from its beginning, event by event, while it is
// written to, and so is a room in the same partition: the state is what the specification makes of it, and nobody waits for
// the forks to be resolved.
func TestLargeFork(t *testing.T) {
	members, changes := 1500, 6
	if os.Getenv("HANSE_FULL") != "" {
		members, changes = 20_000, 20
	}
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	roomID, after := forked(t, a, b, changes)
	neighbour := a.create("11", anna, "public")
	for a.room(neighbour).Part != a.room(roomID).Part {
		neighbour = a.create("11", anna, "public")
	}
	var joins sync.WaitGroup
	for w := range 32 {
		joins.Go(func() {
			for i := w; i < members; i += 32 {
				if _, err := a.join(roomID, fmt.Sprintf("@member%d:one.test", i)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	joins.Wait()

	w := a.workers[0]
	w.brief = briefBounds
	send, within := sending(t, a, neighbour), sending(t, a, roomID)
	before, quiet := send(200, nil), within(200, nil)
	start := time.Now()
	carried := make(chan struct{})
	go func() {
		defer close(carried)
		for _, e := range b.timeline(roomID) {
			if e.Ord > after {
				a.insist(roomID, two, e.JSON)
			}
		}
	}()
	var busy []time.Duration
	var own sync.WaitGroup
	own.Go(func() { busy = within(1<<30, carried) })
	during := send(1<<30, carried)
	own.Wait()
	took := time.Since(start)
	t.Logf("%d members, a branch of %d events taken in after %v; sends in the neighbour: p50 %v p99 %v before, p50 %v p99 %v of %d meanwhile",
		members, changes, took.Round(time.Millisecond), at(before, 50), at(before, 99), at(during, 50), at(during, 99), len(during))
	t.Logf("sends in the room itself: p50 %v p99 %v before, p50 %v p99 %v of %d meanwhile", at(quiet, 50), at(quiet, 99), at(busy, 50), at(busy, 99), len(busy))
	if counter(w.metrics.unlocked) == 0 {
		t.Error("no fork was resolved without the lock")
	}
	if b := w.graphs.Bytes(); b == 0 || b > Defaults().Graphs {
		t.Errorf("auth graphs of %d bytes", b)
	}
	if r := a.room(roomID); r.Joined != members+2 || len(r.Extremities) > 2 {
		t.Errorf("%d members, %d extremities", r.Joined, len(r.Extremities))
	}
	a.checkResolved(roomID)
	a.checkAuth(roomID)
	healing(t, n, a, roomID)
}

// healing forks a large room at its end, again and again, in one key, and takes the fork in.
func healing(t *testing.T, n *network, a *cluster, roomID string) {
	t.Helper()
	const cora = "@cora:three.test"
	c := newFedCluster(t, n, "three.test", 1)
	ok := must[*roomv1.SendResponse](t)
	ok(a.setState(roomID, anna, "m.room.power_levels", "", `{"users":{"@anna:one.test":100,"@bert:two.test":100,"@cora:three.test":100}}`))
	start := time.Now()
	ok(c.join(roomID, cora, string(one)))
	joined := time.Since(start)
	var took []time.Duration
	for i := range 20 {
		told := ok(a.setState(roomID, anna, "m.room.topic", "", fmt.Sprintf(`{"topic":"a %d"}`, i))).Pos - 1
		theirs := ok(c.setState(roomID, cora, "m.room.topic", "", fmt.Sprintf(`{"topic":"c %d"}`, i))).Pos - 1
		start := time.Now()
		carry(c, a, "three.test", roomID, theirs)
		took = append(took, time.Since(start))
		carry(a, c, one, roomID, told)
		ok(c.say(roomID, cora, "healed"))
		carry(c, a, "three.test", roomID, theirs+1)
		if extremities := len(a.room(roomID).Extremities); extremities != 1 {
			t.Fatalf("%d extremities", extremities)
		}
	}
	sameState(t, a, c, roomID)
	slices.Sort(took)
	t.Logf("%d events of state joined in %v; a fork of one key taken in after %v (median), %v at most", len(a.stateEvents(roomID)),
		joined.Round(time.Millisecond), at(took, 50), took[len(took)-1].Round(time.Microsecond))
}

// insist sends an event again as long as the other side is too slow or busy, as servers do.
func (c *cluster) insist(roomID string, origin id.Server, pdu []byte) {
	for range 100 {
		err := c.call(context.Background(), roomID, func(ctx context.Context, r roomv1.RoomClient) error {
			_, err := r.Receive(ctx, &roomv1.ReceiveRequest{RoomId: roomID, Origin: string(origin), Pdus: [][]byte{pdu}})
			return err
		})
		if err == nil {
			return
		}
	}
	c.tb.Error("an event is not taken in")
}

// sending returns a function that sends so many messages, or until something happens, and returns what each took, sorted.
func sending(t *testing.T, c *cluster, roomID string) func(n int, until chan struct{}) []time.Duration {
	return func(n int, until chan struct{}) (took []time.Duration) {
		for range n {
			select {
			case <-until:
				slices.Sort(took)
				return took
			default:
			}
			start := time.Now()
			if _, err := c.say(roomID, anna, strings.Repeat("x", 50)); err != nil {
				t.Error(err)
				return nil
			}
			took = append(took, time.Since(start))
		}
		slices.Sort(took)
		return took
	}
}

func at(sorted []time.Duration, percent int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[len(sorted)*percent/100].Round(10 * time.Microsecond)
}

// While owners die, stand still and do not hear of their commits, state events become visible in the order of their
// numeric ids: a graph that was read piece by piece, by somebody who is no owner, lacks nothing.
func TestGraphFollows(t *testing.T) {
	m := new(mischief)
	c := newClusterFaulty(t, 2, m.faults())
	roomIDs := []string{c.create("11", alice, "public"), c.create("12", alice, "public")}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
	defer cancel()
	m.on.Store(true)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ { // what fails is what happens to be under way when an owner dies
				_, _ = c.setState(roomIDs[n%2], alice, "org.hanse.test", fmt.Sprint(i), fmt.Sprintf(`{"n":%d}`, n))
			}
		})
	}
	wg.Go(func() { c.harass(ctx, t, m) })
	chain := func(db *roomdb.DB, roomID string) []int64 {
		r := c.room(roomID)
		state, err := db.State(context.Background(), r.Part, r.SID)
		if err != nil {
			t.Fatal(err)
		}
		nids, err := db.AuthChain(context.Background(), r.Key(), slices.Collect(maps.Values(maps.Collect(state.All()))), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		return nids
	}
	for ctx.Err() == nil {
		for _, roomID := range roomIDs {
			chain(c.read, roomID)
		}
	}
	wg.Wait()
	m.on.Store(false)
	c.settle()
	for _, roomID := range roomIDs {
		c.checkAuth(roomID)
		r := c.room(roomID)
		var all []int64
		err := c.db.For(r.Part).QueryRow(context.Background(), `SELECT array_agg(event_nid ORDER BY event_nid) FROM event
			WHERE part = $1 AND room_nid = $2 AND state_key IS NOT NULL`, int32(r.Part), r.NID).Scan(&all)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d state events", len(all))
		// Of each event, so that one that is missing is missed.
		if _, err := c.read.AuthChain(context.Background(), r.Key(), all, 1<<20); err != nil {
			t.Error(err)
		}
	}
}
