package room

import (
	"context"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hanse/pkg/merr"
	"hanse/pkg/partition"
	roomv1 "hanse/proto/room/v1"
)

// A worker that has lost a partition and does not know it refuses nobody: the room may be another one by now.
func TestLostOwnerRefusesNobody(t *testing.T) {
	c := newCluster(t, 1)
	const alice, bob = "@alice:hanse.test", "@bob:hanse.test"
	room := c.create("12", alice, "invite")
	conn, err := c.workers[0].conns.To(c.workers[0].grpc.Addr())
	if err != nil {
		t.Fatal(err)
	}
	ask := func() error {
		_, err := roomv1.NewRoomClient(conn).Send(context.Background(), &roomv1.SendRequest{RoomId: room, Cause: newCause(bob),
			Events: []*roomv1.EventIntent{{Type: "m.room.message", Content: []byte(`{"body":"let me in"}`), Sender: bob}}})
		return err
	}
	wantCode(t, ask(), merr.CodeForbidden)
	if _, err := partition.NewRows(c.db).Acquire(context.Background(), partition.Of(room), "nobody", "nowhere"); err != nil {
		t.Fatal(err)
	}
	err = ask()
	if _, elsewhere := partition.AsNotOwner(err); !elsewhere && status.Code(err) != codes.Unavailable {
		t.Errorf("by one that has lost it: %v", err)
	}
	// Who follows the owner hears the same from the new one.
	_, err = c.say(room, bob, "let me in")
	wantCode(t, err, merr.CodeForbidden)
}
