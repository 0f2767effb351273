package room

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"hanse/pkg/bus/bustest"
	"hanse/pkg/growth"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/pg/pgtest"
	roomv1 "hanse/proto/room/v1"
)

// lone and many are the members of rooms in which the same costs the same.
const lone, many = 10, 300

// newCounted is a cluster of one worker whose statements are counted.
func newCounted(t *testing.T, n *network, name id.Server) (*cluster, *pgtest.Counter) {
	t.Helper()
	c := &cluster{tb: t, pg: pgtest.Config(t, 1), nats: bustest.New(t), names: newNames(t, name)}
	counter := pgtest.Counted(&c.pg)
	if n != nil {
		c.fedout = n
		n.clusters[name] = c
	}
	return c.open(1), counter
}

// fill lets members of a server into a room.
func (c *cluster) fill(roomID string, server id.Server, members int) {
	c.tb.Helper()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for m := g; m < members; m += 8 {
				if _, err := c.join(roomID, member(server, m)); err != nil {
					c.tb.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// each is what one of some operations costs.
func each(t *testing.T, counter *pgtest.Counter, times int, op func(i int) error) growth.Cost {
	t.Helper()
	statements, rows := counter.Each(times, func(i int) {
		if err := op(i); err != nil {
			t.Fatal(err)
		}
	})
	return growth.Cost{"statements": statements, "rows": rows}
}

// What is done in a room costs the same however many members it has: docs/performance.md, "Nothing grows with the members", and
// BenchmarkSendMembers.
func TestMembersCostNothing(t *testing.T) {
	const server = "hanse.test"
	c, counter := newCounted(t, nil, server)
	rooms := map[int]string{}
	for _, members := range []int{lone, many} {
		rooms[members] = c.create("12", alice, "public")
		c.fill(rooms[members], server, members)
	}
	ops := map[string]func(roomID string, i int) error{
		"a message": func(roomID string, i int) error { _, err := c.say(roomID, alice, fmt.Sprint(i)); return err },
		"a state event": func(roomID string, i int) error {
			_, err := c.setState(roomID, alice, "m.room.topic", "", fmt.Sprintf(`{"topic":"%d"}`, i))
			return err
		},
		"an invite": func(roomID string, i int) error {
			_, err := c.invite(roomID, alice, fmt.Sprintf("@invited%d:%s", i, server))
			return err
		},
		"a join": func(roomID string, i int) error {
			_, err := c.join(roomID, fmt.Sprintf("@joins%d:%s", i, server))
			return err
		},
		"a leave": func(roomID string, i int) error { _, err := c.leave(roomID, member(server, i%lone)); return err },
	}
	for _, what := range []string{"a message", "a state event", "an invite", "a join", "a leave"} {
		growth.Flat(t, what, lone, many, 2, func(members int) growth.Cost {
			return each(t, counter, lone, func(i int) error { return ops[what](rooms[members], i) })
		})
	}
}

// An event of another server that forks the room, and the resolution that follows, cost the same however many members the room
// has: docs/state.md, "Who resolves, and when".
func TestForkCostsNoMembers(t *testing.T) {
	n := newNetwork()
	a, counter := newCounted(t, n, one)
	b := newFedCluster(t, n, two, 1)
	rooms := map[int]*branching{}
	for _, members := range []int{lone, many} {
		f := &branching{t: t, n: n, a: a, b: b, room: a.create("12", anna, "public")}
		must[*roomv1.SendResponse](t)(a.setState(f.room, anna, "m.room.power_levels", "", `{"users":{},"state_default":0}`))
		a.fill(f.room, one, members)
		must[*roomv1.SendResponse](t)(b.join(f.room, bert, string(one)))
		b.whole(f.room)
		f.on, f.st = b.last(f.room), b.state(f.room)
		must[*roomv1.SendResponse](t)(a.setState(f.room, anna, "m.room.topic", "", `{"topic":"ours"}`))
		rooms[members] = f
	}
	const warm, counted = 2, 8
	forks := map[int][]*event.PDU{}
	for members, f := range rooms {
		for i := range warm + counted {
			key := fmt.Sprint(i)
			forks[members] = append(forks[members], f.event(bert, "org.example.state", &key, `{}`))
		}
		a.take(f.room, two, forks[members][:warm]...)
	}
	growth.Flat(t, "an event that forks the room", lone, many, 2, func(members int) growth.Cost {
		return each(t, counter, counted, func(i int) error {
			a.take(rooms[members].room, two, forks[members][warm+i])
			return nil
		})
	})
}

// To judge an event again, and what follows it, costs the same however many members the room has, and however much happened before that
// event: docs/state.md, "What is believed".
func TestReviewCostsWhatFollows(t *testing.T) {
	const missed = 8
	cost := func(members, messages int) growth.Cost {
		gate := newBarrier("begin")
		n := newNetwork()
		x := &told{n: n, a: newFedCluster(t, n, one, 1), b: newFedCluster(t, n, two, 1)}
		x.c = &cluster{tb: t, pg: pgtest.Config(t, 1), nats: bustest.New(t), names: newNames(t, three), fedout: n,
			faults: faults{review: gate.fill}}
		beside := pgtest.Open(t, x.c.pg)
		counted := pgtest.Counted(&x.c.pg)
		n.clusters[three] = x.c
		x.c.open(1)
		t.Cleanup(gate.release)
		x.begin(t, missed, members, messages)
		for i := range 10 {
			must[*roomv1.SendResponse](t)(x.c.say(x.room, caro, fmt.Sprint("follows ", i)))
		}
		err := x.c.call(t.Context(), x.room, func(ctx context.Context, r roomv1.RoomClient) error { // what was missed, and no more
			_, err := r.Backfill(ctx, &roomv1.BackfillRequest{RoomId: x.room, Limit: backfillLimit})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		<-gate.reached
		r, err := x.c.workers[0].lockRoom(t.Context(), id.Room(x.room)) // whose auth graph is read once
		if err != nil {
			t.Fatal(err)
		}
		r.unlock()
		if _, err := r.readGraphUnlocked(t.Context()); err != nil {
			t.Fatal(err)
		}
		heard := x.c.event(x.room, x.heard.ID).NID
		seen := x.c.workers[0].metrics.reviewed
		before := counter(seen)
		statements, rows := counted.Of(func() {
			gate.release()
			waitFor(t, func() bool {
				var left int
				if err := beside.For(0).QueryRow(t.Context(), `SELECT count(*) FROM told_event WHERE event_nid = $1`, heard).Scan(&left); err != nil {
					t.Fatal(err)
				}
				return left == 0
			})
		})
		x.c.forgetRead()
		sameState(t, x.a, x.c, x.room)
		return growth.Cost{"statements": statements, "rows": rows, "events looked at": counter(seen) - before}
	}
	growth.Flat(t, "a review in a room of members", lone, many, 2, func(members int) growth.Cost { return cost(members, 0) })
	growth.Flat(t, "a review behind messages", lone, many, 2, func(messages int) growth.Cost { return cost(0, messages) })
}

// A join of a room of another server, before its members come, costs the same however many there are: docs/state.md, "Joining
// without the members".
func TestJoinWithoutMembersCostsNone(t *testing.T) {
	n := newNetwork()
	n.setOmit(true)
	a := newFedCluster(t, n, one, 1)
	hold := newBarrier("ids")
	b := &cluster{tb: t, pg: pgtest.Config(t, 1), nats: bustest.New(t), names: newNames(t, two), fedout: n,
		faults: faults{fill: hold.fill}}
	counter := pgtest.Counted(&b.pg)
	n.clusters[two] = b
	b.open(1)
	t.Cleanup(hold.release) // before the cluster ends
	growth.Flat(t, "a join of another server's room", lone, many, 2, func(members int) growth.Cost {
		var least growth.Cost
		for range 3 { // the worker reads by the clock which partitions there are: 64 rows, which may fall into a join
			roomID := a.create("12", anna, "public")
			a.fill(roomID, one, members)
			cost := each(t, counter, 1, func(int) error { _, err := b.join(roomID, bert, string(one)); return err })
			if least == nil || cost["rows"] < least["rows"] {
				least = cost
			}
		}
		return least
	})
}
