package room

import (
	"context"
	"errors"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	federationv1 "hanse/proto/federation/v1"
	roomv1 "hanse/proto/room/v1"
)

// Servers that back off come last, once more and for certain; nobody is asked after one that helped.
func TestInTurn(t *testing.T) {
	untried, err := status.New(codes.Unavailable, "backing off").WithDetails(&federationv1.Unreachable{Untried: true})
	if err != nil {
		t.Fatal(err)
	}
	failures := map[id.Server]error{"backs.off": untried.Err(), "fails": errors.New("no answer")}
	for _, helper := range []id.Server{"", "helps", "backs.off"} {
		var asked []string
		for ctx, server := range inTurn(t.Context(), []id.Server{"backs.off", "fails", "helps"}) {
			how := attemptOf(ctx)
			if how.always {
				asked = append(asked, "!"+string(server))
			} else {
				asked = append(asked, string(server))
				how.failed(failures[server])
			}
			if server == helper && (how.always || failures[server] == nil) {
				break
			}
		}
		want := []string{"backs.off", "fails", "helps", "!backs.off"}
		if helper == "helps" {
			want = want[:3]
		}
		if !slices.Equal(asked, want) {
			t.Errorf("%q helps: asked %v, want %v", helper, asked, want)
		}
	}
}

// What a user waits for goes to a server that backs off, too: a join, an invite, its rejection, a knock, and what is read
// of the past (server-server API, "Joining Rooms", "Leaving Rooms", "Inviting to a room", "Knocking upon a room",
// "Backfilling and retrieving missing events").
func TestUserWaitsForServerThatBacksOff(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	ok := must[*roomv1.SendResponse](t)
	roomID, private := a.create(roomversion.Default, anna, "public"), a.create(roomversion.Default, anna, "invite")
	closed := a.create(roomversion.Default, anna, "knock")
	for range 5 {
		ok(a.say(roomID, anna, "before"))
	}
	n.mu.Lock()
	n.backOff = map[id.Server]bool{one: true, two: true}
	n.mu.Unlock()

	ok(b.join(roomID, bert, string(one)))
	backfillAll(t, b, roomID)
	if got, want := len(b.timeline(roomID)), len(a.timeline(roomID)); got != want {
		t.Errorf("%d events of the past, want %d", got, want)
	}
	ok(a.invite(private, anna, bert))
	ok(b.leave(private, bert))
	if sent := n.askedFor("send_leave"); sent != 1 {
		t.Errorf("the rejection was sent %d times", sent)
	}
	cause := newCause(bert)
	err := b.call(t.Context(), closed, func(ctx context.Context, r roomv1.RoomClient) error {
		_, err := r.Knock(ctx, &roomv1.JoinRequest{RoomId: closed, UserId: bert, Via: []string{string(one)}, Cause: cause})
		return err
	})
	if err != nil {
		t.Errorf("knock: %v", err)
	}
}

// A server that has just sent an event is asked for what is missing before it even while it backs off: it is up (server-server
// API, "Checks performed on receipt of a PDU").
func TestSenderIsAskedThatBacksOff(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 1)
	ok := must[*roomv1.SendResponse](t)
	roomID := a.create(roomversion.Default, anna, "public")
	ok(b.join(roomID, bert, string(one)))
	a.take(roomID, two, b.last(roomID).PDU)
	ok(a.join(roomID, "@late:one.test"))
	ok(a.say(roomID, "@late:one.test", "my join did not arrive"))
	n.mu.Lock()
	n.backOff = map[id.Server]bool{one: true}
	n.mu.Unlock()
	b.take(roomID, one, a.last(roomID).PDU)
	sameState(t, a, b, roomID)
}
