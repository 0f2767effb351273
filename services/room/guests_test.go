package room

import (
	"testing"

	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	roomv1 "hanse/proto/room/v1"
)

// guestTasks counts the tasks to remove guests from a room, and deletes them.
func (c *cluster) guestTasks(roomID string) int64 {
	c.tb.Helper()
	part := partition.Of(roomID)
	done, err := c.db.For(part).Exec(c.tb.Context(), `DELETE FROM user_task WHERE part = $1 AND user_id = $2 AND kind = 'guests'`, int32(part), roomID)
	if err != nil {
		c.tb.Fatal(err)
	}
	return done.RowsAffected()
}

// Client-server API, "Guest Access", "Server behaviour": when guest access ends, here or at another server, guests are to be
// removed; the task is there before the change is told.
func TestGuestAccessEnds(t *testing.T) {
	n := newNetwork()
	a, b := newFedCluster(t, n, one, 1), newFedCluster(t, n, two, 2)
	ok := must[*roomv1.SendResponse](t)
	roomID := a.create("11", anna, "public")
	set := func(access string) *roomv1.SendResponse {
		return ok(a.setState(roomID, anna, "m.room.guest_access", "", `{"guest_access":"`+access+`"}`))
	}
	set("forbidden") // as without the event
	set("can_join")
	ok(b.join(roomID, bert, string(one)))
	if x, y := a.guestTasks(roomID), b.guestTasks(roomID); x+y != 0 {
		t.Errorf("guest access began: %d and %d tasks", x, y)
	}
	ended := set("forbidden")
	carry(a, b, one, roomID, ended.Pos-1)
	if x, y := a.guestTasks(roomID), b.guestTasks(roomID); x != 1 || y != 1 {
		t.Errorf("guest access ended: %d and %d tasks", x, y)
	}
	begun := set("can_join")
	redaction := ok(a.send(roomID, &roomv1.SendRequest{Cause: newCause(anna), Events: []*roomv1.EventIntent{
		{Type: "m.room.redaction", Content: []byte(`{}`), Sender: anna, Redacts: begun.EventIds[0]}}}))
	carry(a, b, one, roomID, begun.Pos-1)
	if x, y := a.guestTasks(roomID), b.guestTasks(roomID); x != 1 || y != 1 {
		t.Errorf("guest access redacted by %v: %d and %d tasks", id.Event(redaction.EventIds[0]), x, y)
	}
}
