package room

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hanse/pkg/merr"
	"hanse/pkg/partition"
	roomv1 "hanse/proto/room/v1"
)

// direct asks a worker itself, whoever owns the partition.
func (w *worker) direct(t *testing.T) roomv1.RoomClient {
	t.Helper()
	conn, err := w.conns.To(w.grpc.Addr())
	if err != nil {
		t.Fatal(err)
	}
	return roomv1.NewRoomClient(conn)
}

// takeAway gives a room's partition to somebody else; its owner does not hear of it.
func (c *cluster) takeAway(room string) {
	c.tb.Helper()
	if _, err := partition.NewRows(c.db).Acquire(context.Background(), partition.Of(room), "nobody", "nowhere"); err != nil {
		c.tb.Fatal(err)
	}
}

func wantElsewhere(t *testing.T, err error) {
	t.Helper()
	if _, elsewhere := partition.AsNotOwner(err); !elsewhere && status.Code(err) != codes.Unavailable {
		t.Errorf("by one that has lost it: %v", err)
	}
}

// A worker that has lost a partition and does not know it judges nobody: the room may be another one by now. It neither
// refuses nor says that there is nothing to do.
func TestLostOwnerAnswersNobody(t *testing.T) {
	c := newCluster(t, 1)
	ctx := context.Background()
	for _, of := range []struct {
		name string
		// ask is answered without a write.
		ask func(r roomv1.RoomClient, room, event string) error
		// code is the refusal by an owner, "" for none.
		code string
	}{
		{"refusal", func(r roomv1.RoomClient, room, _ string) error {
			_, err := r.Send(ctx, &roomv1.SendRequest{RoomId: room, Cause: newCause(carol),
				Events: []*roomv1.EventIntent{{Type: "m.room.message", Content: []byte(`{"body":"let me in"}`), Sender: carol}}})
			return err
		}, merr.CodeForbidden},
		{"join of a member", func(r roomv1.RoomClient, room, _ string) error {
			_, err := r.Join(ctx, &roomv1.JoinRequest{RoomId: room, UserId: bob, Cause: newCause(bob)})
			return err
		}, ""},
		{"state that is there", func(r roomv1.RoomClient, room, _ string) error {
			_, err := r.Send(ctx, &roomv1.SendRequest{RoomId: room, Cause: newCause(alice),
				Events: []*roomv1.EventIntent{stateIntent(alice, "m.room.join_rules", "", `{"join_rule":"public"}`)}})
			return err
		}, ""},
		{"receipt that is behind", func(r roomv1.RoomClient, room, event string) error {
			_, err := r.Receipts(ctx, &roomv1.ReceiptsRequest{RoomId: room, Receipts: []*roomv1.ReceiptIntent{
				{UserId: bob, Type: "m.read", EventId: event, Ts: 1, Local: true}}})
			return err
		}, ""},
		{"device change that nobody hears", func(r roomv1.RoomClient, room, _ string) error {
			_, err := r.DeviceChanges(ctx, &roomv1.DeviceChangesRequest{Part: partition.Of(room), RoomIds: []string{beside(room)}, UserId: bob, StreamId: 1})
			return err
		}, ""},
	} {
		t.Run(of.name, func(t *testing.T) {
			room := c.create("12", alice, "public")
			must[*roomv1.SendResponse](t)(c.join(room, bob))
			said := must[*roomv1.SendResponse](t)(c.say(room, alice, "hello"))
			ask := func(r roomv1.RoomClient) error { return of.ask(r, room, said.EventIds[0]) }
			owner := c.workers[0].direct(t)
			if err := c.call(ctx, room, func(_ context.Context, r roomv1.RoomClient) error { return ask(r) }); of.code == "" && err != nil {
				t.Fatal(err)
			}
			head := c.head(room)
			err := ask(owner)
			if of.code == "" && err != nil || of.code != "" && !merr.HasCode(err, of.code) {
				t.Fatalf("by the owner: %v", err)
			}
			if now := c.head(room); now != head {
				t.Fatalf("the log went from %d to %d: the case needs an answer without a write", head, now)
			}
			c.takeAway(room)
			wantElsewhere(t, ask(owner))
			// Who follows the owner hears the same from the new one.
			err = c.call(ctx, room, func(_ context.Context, r roomv1.RoomClient) error { return ask(r) })
			if of.code == "" && err != nil || of.code != "" && !merr.HasCode(err, of.code) {
				t.Fatalf("by the new owner: %v", err)
			}
		})
	}
}

// beside is a room of the same partition that does not exist.
func beside(room string) string {
	for i := 0; ; i++ {
		if other := fmt.Sprintf("!%d:hanse.test", i); partition.Of(other) == partition.Of(room) {
			return other
		}
	}
}

// head is where the log of a room's partition ends.
func (c *cluster) head(room string) (head int64) {
	c.tb.Helper()
	part := partition.Of(room)
	if err := c.db.For(part).QueryRow(context.Background(), `SELECT head FROM partition WHERE part = $1`, int32(part)).Scan(&head); err != nil {
		c.tb.Fatal(err)
	}
	return head
}

// turnstile stops the appends of a cluster while it is shut.
type turnstile struct {
	shut    atomic.Bool
	reached chan struct{} // an append stands before it
	open    chan struct{}
}

func (g *turnstile) before() {
	if g.shut.Load() {
		select {
		case g.reached <- struct{}{}:
			<-g.open
		case <-g.open:
		}
	}
}

// An answer without a write waits for what others have queued, and goes down with it.
func TestAnswerRestsOnCommits(t *testing.T) {
	g := &turnstile{reached: make(chan struct{}), open: make(chan struct{})}
	c := newClusterFaulty(t, 1, faults{before: g.before})
	t.Cleanup(func() { close(g.open) }) // before the workers end
	room := c.create("12", alice, "public")
	owner := c.workers[0].direct(t)
	topic := func(ctx context.Context, text string) (*roomv1.SendResponse, error) {
		return owner.Send(ctx, &roomv1.SendRequest{RoomId: room, Cause: newCause(alice),
			Events: []*roomv1.EventIntent{stateIntent(alice, "m.room.topic", "", fmt.Sprintf(`{"topic":%q}`, text))}})
	}
	type outcome struct {
		resp *roomv1.SendResponse
		err  error
	}
	start := func(text string) <-chan outcome {
		done := make(chan outcome, 1)
		go func() {
			resp, err := topic(context.Background(), text)
			done <- outcome{resp, err}
		}()
		return done
	}

	g.shut.Store(true)
	first := start("one")
	<-g.reached
	impatient, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if resp, err := topic(impatient, "one"); err == nil {
		t.Fatalf("%v was answered before its commit", resp.EventIds)
	}
	second := start("one")
	g.shut.Store(false)
	g.open <- struct{}{}
	a, b := <-first, <-second
	if a.err != nil || b.err != nil || a.resp.EventIds[0] != b.resp.EventIds[0] {
		t.Fatalf("%v %v, %v %v", a.resp, a.err, b.resp, b.err)
	}

	g.shut.Store(true)
	first = start("two")
	<-g.reached
	second = start("two")
	c.takeAway(room)
	g.shut.Store(false)
	g.open <- struct{}{}
	wantElsewhere(t, (<-first).err)
	wantElsewhere(t, (<-second).err)
}
