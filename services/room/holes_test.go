package room

import (
	"context"
	"fmt"
	"math"
	"net/url"
	"slices"
	"testing"

	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	"hanse/pkg/roomdb"
	roomv1 "hanse/proto/room/v1"
)

// unheard is a room of two clusters: the second has not heard of n messages and the ban of a third user, but of the last one.
func unheard(t *testing.T, a, b *cluster, n int) (roomID string, last *roomdb.Event) {
	t.Helper()
	ok := must[*roomv1.SendResponse](t)
	roomID = a.create("11", anna, "public")
	ok(b.join(roomID, bert, string(one)))
	backfillAll(t, b, roomID)
	first := ok(a.say(roomID, anna, "before"))
	ok(a.join(roomID, birgt1))
	carry(a, b, one, roomID, first.Pos-1)
	for i := range n {
		if i == n/2 {
			ok(a.setState(roomID, anna, "m.room.member", birgt1, `{"membership":"ban"}`))
			continue
		}
		ok(a.say(roomID, anna, fmt.Sprint("unheard ", i)))
	}
	said := ok(a.say(roomID, anna, "heard"))
	carry(a, b, one, roomID, said.Pos-1)
	return roomID, b.event(roomID, id.Event(said.EventIds[0]))
}

// birgt1 is a third user of the first server.
const birgt1 = "@third:one.test"

// inOrder checks that a cluster has the same timeline as another one, from the creation of the room on.
func inOrder(t *testing.T, a, b *cluster, roomID string) {
	t.Helper()
	if x, y := ids(a.timeline(roomID)), ids(b.timeline(roomID)); !slices.Equal(x, y) {
		t.Fatalf("%d events here, %d there, or in another order:\n%v\n%v", len(x), len(y), x, y)
	}
}

func (c *cluster) newestHole(roomID string) *roomdb.Hole {
	c.tb.Helper()
	r := c.room(roomID)
	h, err := c.read.HoleBefore(context.Background(), r.Part, r.NID, roomdb.End, math.MaxInt64)
	if err != nil {
		c.tb.Fatal(err)
	}
	return h
}

// Server-server API, "Retrieving missing events": a server tells at most so many at once, and is asked for what is before these.
func TestMissingEventsAreAskedForAgain(t *testing.T) {
	n := newNetwork()
	n.setOmit(false)
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	roomID, last := unheard(t, a, b, 40)
	if last.Flags != 0 || b.newestHole(roomID) != nil {
		t.Errorf("the last event has flags %d, and the hole is %+v", last.Flags, b.newestHole(roomID))
	}
	inOrder(t, a, b, roomID)
	sameState(t, a, b, roomID)
	if asked := n.askedFor("get_missing_events"); asked < 2 || asked > missingAsks {
		t.Errorf("asked %d times", asked)
	}
}

// Client-server API, "Getting events for a room", "Syncing" (limited, prev_batch): what is missing in the middle of a timeline is
// a hole there, and what is fetched later gets its place in it.
func TestHistoryFillsItsHole(t *testing.T) {
	n := newNetwork()
	n.setOmit(false)
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 2)
	roomID, last := unheard(t, a, b, 250)
	hole := b.newestHole(roomID)
	if last.Flags != 0 || hole == nil || hole.Floor == roomdb.Start || hole.Low > last.Place() {
		t.Fatalf("the last event is at %d with flags %d, the hole %+v", last.Place(), last.Flags, hole)
	}
	tl := b.timeline(roomID)
	at := slices.IndexFunc(tl, func(e *roomdb.Event) bool { return e.Place() == hole.Low })
	if at < 1 || tl[at].Depth <= tl[at-1].Depth+1 || len(tl)-at != missingAsks*missingLimit+1 {
		t.Fatalf("the hole is before event %d of %d", at, len(tl))
	}
	sameState(t, a, b, roomID) // with the ban

	// It is filled from above, step by step, and each step leaves the rest of it below.
	before := *hole
	fillOnce(t, b, roomID, hole.Pos)
	if hole = b.newestHole(roomID); hole == nil || hole.Pos != before.Pos || hole.Low >= before.Low || hole.Floor != before.Floor {
		t.Fatalf("after a step the hole is %+v, it was %+v", hole, before)
	}

	// The next step's owner loses the room in the middle of it: whoever has it then goes on.
	held := n.hold()
	done := make(chan error, 1)
	go func() {
		done <- b.call(context.Background(), roomID, func(ctx context.Context, r roomv1.RoomClient) error {
			_, err := r.Backfill(ctx, &roomv1.BackfillRequest{RoomId: roomID, Limit: 100, Hole: hole.Pos})
			return err
		})
	}()
	n.waitHeld(t)
	w := b.any()
	if _, err := partition.NewRows(b.db).Acquire(context.Background(), partition.Of(roomID), w.name, w.grpc.Addr()); err != nil {
		t.Fatal(err)
	}
	close(held)
	n.mu.Lock()
	n.held = nil
	n.mu.Unlock()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	backfillAll(t, b, roomID)
	if hole := b.newestHole(roomID); hole != nil {
		t.Errorf("filled, and still %+v", hole)
	}
	inOrder(t, a, b, roomID)
	sameStates(t, a, b, roomID)
	for _, e := range b.timeline(roomID) {
		if e.Place() > before.Floor && e.Place() < before.Low && e.NotifySeq != before.NotifySeq {
			t.Errorf("up to %s %d events notify, not %d", e.ID, e.NotifySeq, before.NotifySeq)
		}
	}
}

func fillOnce(t *testing.T, c *cluster, roomID string, hole int64) {
	t.Helper()
	err := c.call(context.Background(), roomID, func(ctx context.Context, r roomv1.RoomClient) error {
		resp, err := r.Backfill(ctx, &roomv1.BackfillRequest{RoomId: roomID, Limit: 30, Hole: hole})
		if err == nil && resp.Stored == 0 {
			t.Error("nothing came into the hole")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Joining again after having left: what happened meanwhile is a hole between the two stays.
func TestHoleBetweenStays(t *testing.T) {
	n := newNetwork()
	n.setOmit(false)
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	ok := must[*roomv1.SendResponse](t)
	roomID := a.create("11", anna, "public")
	ok(b.join(roomID, bert, string(one)))
	backfillAll(t, b, roomID)
	ok(b.leave(roomID, bert))
	carry(b, a, two, roomID, 0)
	for i := range 30 {
		ok(a.say(roomID, anna, fmt.Sprint("meanwhile ", i)))
	}
	back := ok(b.join(roomID, bert, string(one)))
	if hole := b.newestHole(roomID); hole == nil || hole.Pos != back.Pos {
		t.Fatalf("joined again at %d, the hole is %+v", back.Pos, hole)
	}
	// An event that names one from before the second join does not bring it in as new.
	if depth, join := b.since(roomID), b.event(roomID, id.Event(back.EventIds[0])); depth != join.Depth {
		t.Errorf("the stay begins at depth %d, not %d", depth, join.Depth)
	}
	backfillAll(t, b, roomID)
	inOrder(t, a, b, roomID)
}

func (c *cluster) since(roomID string) (depth int64) {
	c.tb.Helper()
	r, err := c.any().joinedRoom(context.Background(), id.Room(roomID))
	if err != nil {
		c.tb.Fatal(err)
	}
	defer r.unlock()
	if depth, err = r.since(context.Background()); err != nil {
		c.tb.Fatal(err)
	}
	return depth
}

// A prev event that nobody has leaves its hole open, and hides nothing that is before it. Servers that do not answer are no sign
// that there is no more.
func TestHoleThatNobodyFills(t *testing.T) {
	n := newNetwork()
	n.setOmit(false)
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	nothing := func([]string, url.Values) any { return map[string]any{"events": []any{}, "pdus": []any{}} }
	n.lie(map[string]func([]string, url.Values) any{"get_missing_events": nothing})
	roomID, last := unheard(t, a, b, 10)
	n.lie(map[string]func([]string, url.Values) any{"backfill": nothing})
	hole := b.newestHole(roomID)
	if hole == nil || hole.Pos != last.Ord {
		t.Fatalf("the last event is at %d, the hole %+v", last.Ord, hole)
	}
	ask := func() *roomv1.BackfillResponse {
		t.Helper()
		var resp *roomv1.BackfillResponse
		err := b.call(context.Background(), roomID, func(ctx context.Context, r roomv1.RoomClient) (err error) {
			resp, err = r.Backfill(ctx, &roomv1.BackfillRequest{RoomId: roomID, Limit: 10, Hole: hole.Pos})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	if resp := ask(); resp.Stored != 0 || !resp.Complete {
		t.Errorf("nobody has it: %v", resp)
	}
	n.setCut(one, true)
	if resp := ask(); resp.Stored != 0 || resp.Complete {
		t.Errorf("nobody answers: %v", resp)
	}
	n.setCut(one, false)
	n.lie(nil)
	if resp := ask(); resp.Stored != 10 || b.newestHole(roomID) != nil {
		t.Errorf("%v, the hole is %+v", resp, b.newestHole(roomID))
	}
	inOrder(t, a, b, roomID)
}
