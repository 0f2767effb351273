package keys_test

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	"hanse/pkg/state"
	"hanse/pkg/userdb"
	fedv1 "hanse/proto/federation/v1"
	"hanse/services/client/clienttest"
)

// putRoom makes users members of a room, each anew: nobody's membership is the event that it was before.
func putRoom(t *testing.T, c *clienttest.Cluster, room id.Room, sid int64, members map[id.User]string) {
	t.Helper()
	part := partition.Of(string(room))
	q := new(pgx.Batch)
	q.Queue(`INSERT INTO room (part, room_nid, room_id, version, sid, extremities, depth) VALUES ($1, 1, $2, '11', 1, '{}', 1) ON CONFLICT DO NOTHING`,
		int32(part), string(room))
	nid := sid * 100
	entries := make(map[state.Key]int64, len(members))
	for u, membership := range members {
		nid++
		entries[state.Key{Type: "m.room.member", StateKey: string(u)}] = nid
		q.Queue(`INSERT INTO event (part, event_nid, room_nid, event_id, ord, depth, type, state_key, sender, origin_ts, auth, prev, json)
			VALUES ($1, $2, 1, $3, $2, 1, 'm.room.member', $4, $4, 1, '{}', '{}', $5)`, int32(part), nid, fmt.Sprintf("$%d", nid), string(u),
			fmt.Appendf(nil, `{"type":"m.room.member","room_id":%q,"sender":%q,"state_key":%q,"content":{"membership":%q},"depth":1,"origin_server_ts":1,"prev_events":[],"auth_events":[],"hashes":{},"signatures":{}}`, room, u, u, membership))
	}
	b := state.NewWriter(state.NewStore(state.DefaultConfig(), nil)).Batch()
	_, err := b.Root(part, sid, state.New(func(yield func(state.Key, int64) bool) {
		for k, nid := range entries {
			if !yield(k, nid) {
				return
			}
		}
	}))
	clienttest.Must(t, err)
	b.Queue(q)
	q.Queue(`UPDATE room SET sid = $1 WHERE part = $2 AND room_nid = 1`, sid, int32(part))
	clienttest.Must(t, c.Shards.For(part).SendBatch(t.Context(), q).Close())
}

// Server-server API, "Device Management": a device list is of use as long as its user's server tells us of changes. It does
// while a room is shared, and not from when the last one was left until one is shared again.
func TestListsOutOfSight(t *testing.T) {
	c := clienttest.New(t)
	anna := c.Register("anna")
	const room, rita = id.Room("!shared:far.example"), id.User("@rita:far.example")
	fetched, asked, meanwhile := 0, 0, func() {}
	c.Remote.Answer = func(q *fedv1.DoRequest) (int, string) {
		switch q.Uri {
		case "/_matrix/federation/v1/user/devices/@rita:far.example":
			fetched++
			meanwhile()
			return 200, fmt.Sprintf(`{"user_id":"@rita:far.example","stream_id":1,"devices":[{"device_id":"R%d","keys":{"user_id":"@rita:far.example","device_id":"R%[1]d"}}]}`, fetched)
		case "/_matrix/federation/v1/user/keys/query":
			asked++
			return 200, `{"device_keys":{"@rita:far.example":{"Q":{"user_id":"@rita:far.example","device_id":"Q"}}}}`
		}
		return 404, `{"errcode":"M_UNRECOGNIZED","error":"?"}`
	}
	query := func(what, device string, wantFetched, wantAsked int) {
		t.Helper()
		a := anna.Do("POST", v3+"/keys/query", map[string]any{"device_keys": map[string]any{string(rita): []string{}}}).OK()
		devices, _ := a.Get("device_keys", string(rita)).(map[string]any)
		if len(devices) != 1 || devices[device] == nil || fetched != wantFetched || asked != wantAsked {
			t.Errorf("%s: %s, not %s; fetched %d times, asked %d times", what, a.Raw, device, fetched, asked)
		}
	}
	query("no room is shared", "Q", 0, 1)
	c.Join(anna.ID, room, "join")
	putRoom(t, c, room, 1, map[id.User]string{anna.ID: "join", rita: "join"})
	query("a room is shared", "R1", 1, 1)
	query("as before", "R1", 1, 1)
	putRoom(t, c, room, 2, map[id.User]string{anna.ID: "join", rita: "leave"})
	query("rita has left", "Q", 1, 2)
	putRoom(t, c, room, 3, map[id.User]string{anna.ID: "join", rita: "join"})
	query("rita is back", "R2", 2, 2)
	putRoom(t, c, room, 4, map[id.User]string{anna.ID: "join", rita: "join"})
	query("either may have been away", "R3", 3, 2)
	putRoom(t, c, room, 5, map[id.User]string{anna.ID: "leave", rita: "join"})
	query("anna has left", "Q", 3, 3)
	putRoom(t, c, room, 6, map[id.User]string{anna.ID: "join", rita: "join"})
	meanwhile = func() { // an update that the answer may not know of yet
		clienttest.Must(t, c.Users.UpdateRemoteList(t.Context(), rita, func(old userdb.RemoteList) (userdb.RemoteList, bool) {
			if !old.Followed() {
				t.Error("an update that comes while the list is fetched is of no interest")
			}
			old.News++
			return old, true
		}))
	}
	query("news meanwhile", "R4", 4, 3)
	meanwhile = func() {}
	query("after that", "R5", 5, 3)
	query("without news", "R5", 5, 3)
}
