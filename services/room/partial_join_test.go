package room

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"hanse/pkg/matrix/id"
	"hanse/pkg/state"
	roomv1 "hanse/proto/room/v1"
)

// What tests of joins without members share.

const three = id.Server("three.test")

// barrier holds the filling of rooms back at a step.
type barrier struct {
	at      string
	once    sync.Once
	reached chan struct{}
	open    chan struct{}
	opened  sync.Once
}

func newBarrier(at string) *barrier {
	return &barrier{at: at, reached: make(chan struct{}), open: make(chan struct{})}
}

func (g *barrier) fill(step string) {
	if step == g.at {
		g.once.Do(func() { close(g.reached) })
		<-g.open
	}
}

func (g *barrier) release() { g.opened.Do(func() { close(g.open) }) }

// newPartialClusters are two clusters of which the first omits members; fill looks on at the second.
func newPartialClusters(t *testing.T, workers int, fill func(string)) (*network, *cluster, *cluster) {
	t.Helper()
	n := newNetwork()
	n.omit = true
	a := newFedCluster(t, n, one, 1)
	b := newFedClusterFaulty(t, n, two, workers, faults{fill: fill})
	return n, a, b
}

// partialJoin is a room of anna's with 30 more members, which bert joins from another cluster without them.
type partialJoin struct {
	*barrier // of the filling
	t        *testing.T
	n        *network
	a, b     *cluster
	room     string
}

// newPartialJoin makes the room. The filling of rooms at b, which has so many workers, is held back at a step.
func newPartialJoin(t *testing.T, version string, workers int, step string) *partialJoin {
	t.Helper()
	p := &partialJoin{barrier: newBarrier(step), t: t}
	p.n, p.a, p.b = newPartialClusters(t, workers, p.fill)
	t.Cleanup(p.release) // before the clusters end
	p.room = p.a.create(version, anna, "public")
	populate(t, p.a, p.room, one, 30)
	return p
}

// enter lets bert join and waits until the filling is held back.
func (p *partialJoin) enter() {
	p.t.Helper()
	must[*roomv1.SendResponse](p.t)(p.b.join(p.room, bert, string(one)))
	<-p.reached
}

// bannedModerator makes a member a moderator, in a room in which everybody may set the topic, and bans it. It returns the state
// between the two.
func (p *partialJoin) bannedModerator() (id.User, map[string]id.Event) {
	p.t.Helper()
	ok, bad := must[*roomv1.SendResponse](p.t), member(one, 5)
	ok(p.a.setState(p.room, anna, "m.room.power_levels", "", fmt.Sprintf(`{"users":{%q:100,%q:50},"events":{"m.room.topic":0}}`, anna, bad)))
	st := p.a.state(p.room)
	ok(p.a.setState(p.room, anna, typeMember, bad, `{"membership":"ban"}`))
	return id.User(bad), st
}

// populate lets users of a cluster's server join.
func populate(t *testing.T, c *cluster, roomID string, server id.Server, n int) {
	t.Helper()
	for i := range n {
		must[*roomv1.SendResponse](t)(c.join(roomID, member(server, i)))
	}
}

func member(server id.Server, i int) string { return fmt.Sprintf("@member%d:%s", i, server) }

// rows counts what the filling of rooms has stored.
func (c *cluster) rows(table string) (n int) {
	c.tb.Helper()
	if err := c.db.For(0).QueryRow(context.Background(), `SELECT count(*) FROM `+table).Scan(&n); err != nil {
		c.tb.Fatal(err)
	}
	return n
}

// filled waits until nothing is left of the filling of rooms.
func (c *cluster) filled() {
	c.tb.Helper()
	for _, table := range []string{"partial_room", "partial_event", "partial_spool"} {
		waitFor(c.tb, func() bool { return c.rows(table) == 0 })
	}
}

// auditPartial demands that a room is whole, in all that is stored of it, and as the other cluster sees it.
func auditPartial(t *testing.T, a, b *cluster, roomID string) {
	t.Helper()
	r := b.whole(roomID)
	sameState(t, a, b, roomID)
	b.auditSplit(t, roomID)
	b.filled()
	entries, err := b.read.ReadLog(context.Background(), r.Part, r.FullPos, 1)
	if err != nil || len(entries) != 1 || entries[0].GetFilled() == nil {
		t.Fatalf("entry %d of the log is %v, %v", r.FullPos, entries, err)
	}
	// Each state since the join has all members, and each event's own place in it.
	for _, e := range b.timeline(roomID) {
		if e.Flags != 0 {
			t.Fatalf("event %s with flags %d in the timeline", e.ID, e.Flags)
		}
		m, err := b.read.State(context.Background(), r.Part, e.SID)
		if err != nil {
			t.Fatal(err)
		}
		if e.Ord > 0 && !m.Has(state.Key{Type: typeMember, StateKey: anna}) {
			t.Fatalf("the state before %s (%s) lacks members", e.ID, e.Type)
		}
	}
}

func (c *cluster) currentHas(roomID, user string) bool {
	c.tb.Helper()
	r := c.room(roomID)
	m, err := c.read.State(context.Background(), r.Part, r.SID)
	if err != nil {
		c.tb.Fatal(err)
	}
	return m.Has(state.Key{Type: typeMember, StateKey: user})
}
