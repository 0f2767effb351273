package timeline_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/partition"
	fedv1 "hanse/proto/federation/v1"
	"hanse/services/client/clienttest"
)

// Client-server API, "Getting an event ID by timestamp": "If the server lacks the history, it asks other servers."
func TestTimeFromOtherServers(t *testing.T) {
	c := clienttest.New(t)
	anna := c.Register("anna")
	room := id.Room("!far:one.example")
	c.Join(anna.ID, room, "join")
	key, err := signing.NewKey()
	clienttest.Must(t, err)
	rules, _ := roomversion.Get("11")
	first, err := event.Build(event.Draft{RoomID: room, Type: "m.room.create", StateKey: new(string), Sender: "@eve:one.example",
		Content: json.RawMessage(`{"room_version":"11"}`), Depth: 1, OriginServerTS: 1000}, rules, "one.example", key)
	clienttest.Must(t, err)
	part := partition.Of(string(room))
	exec := func(sql string, args ...any) {
		t.Helper()
		_, err := c.Shards.For(part).Exec(t.Context(), sql, append([]any{int32(part)}, args...)...)
		clienttest.Must(t, err)
	}
	exec(`INSERT INTO room (part, room_nid, room_id, version, sid, extremities, depth, first_ord, last_pos, joined, joined_local)
		VALUES ($1, 1, $2, '11', 0, '{1}', 1, 3, 3, 2, 1)`, string(room))
	exec(`INSERT INTO event (part, event_nid, room_nid, event_id, ord, depth, type, state_key, sender, origin_ts, auth, prev, json)
		VALUES ($1, 1, 1, $2, 3, 1, 'm.room.create', '', '@eve:one.example', 1000, '{}', '{}', $3)`, string(first.ID), first.JSON)
	for _, server := range []string{"one.example", "two.example", "a.example"} {
		exec(`INSERT INTO room_server (part, room_nid, server, joined) VALUES ($1, 1, $2, 1)`, server)
	}
	times := map[string]int64{"one.example": 700, "two.example": 650}
	c.Remote.Mu.Lock()
	c.Remote.Answer = func(q *fedv1.DoRequest) (int, string) {
		return 200, fmt.Sprintf(`{"event_id":"$of-%s","origin_server_ts":%d}`, q.Destination, times[q.Destination])
	}
	c.Remote.Mu.Unlock()
	find := func(ts int, dir string) string {
		t.Helper()
		return anna.Do("GET", fmt.Sprintf("/_matrix/client/v1/rooms/%s/timestamp_to_event?ts=%d&dir=%s", room, ts, dir), nil).OK().Str("event_id")
	}
	if got := find(600, "f"); got != string(first.ID) || len(c.Remote.Asked) != 0 {
		t.Errorf("nothing is missing: %s, %d servers asked", got, len(c.Remote.Asked))
	}
	exec(`INSERT INTO missing_prev (part, room_nid, event_id, child, hole) VALUES ($1, 1, '$lost', 1, 3)`)
	for _, tc := range []struct {
		ts   int
		dir  string
		want string
	}{
		{600, "f", "$of-two.example"}, {660, "f", "$of-one.example"}, {800, "f", string(first.ID)}, // theirs lie before 800
		{800, "b", "$of-one.example"}, {680, "b", "$of-two.example"}, {1000, "b", string(first.ID)},
	} {
		if got := find(tc.ts, tc.dir); got != tc.want {
			t.Errorf("%d %s: %s, want %s", tc.ts, tc.dir, got, tc.want)
		}
	}
	anna.Do("GET", fmt.Sprintf("/_matrix/client/v1/rooms/%s/timestamp_to_event?ts=10&dir=b", room), nil).Fails(404, "M_NOT_FOUND")
	if slices.ContainsFunc(c.Remote.Asked, func(q *fedv1.DoRequest) bool { return q.Destination == "a.example" }) {
		t.Error("asked itself")
	}
}
