package timeline

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"testing"

	"hanse/pkg/pg/pgtest"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	"hanse/services/client/core"
)

// Client-server API, GET /rooms/{roomId}/joined_members: profiles as they are, whatever other servers have put there.
func TestAppendProfile(t *testing.T) {
	for content, want := range map[string]string{
		`{"membership":"join"}`: `{"display_name":null,"avatar_url":null}`,
		`{"avatar_url":"mxc://x/y","displayname":"A \"B\" ü","membership":"join"}`: `{"display_name":"A \"B\" ü","avatar_url":"mxc://x/y"}`,
		`{"avatar_url":null,"displayname":7,"membership":"join"}`:                  `{"display_name":null,"avatar_url":null}`,
		`{"avatar_url":{"x":1},"displayname":"","membership":"join"}`:              `{"display_name":"","avatar_url":null}`,
		`{"avatar_url":"","displayname":["x"],"membership":"join"}`:                `{"display_name":null,"avatar_url":""}`,
	} {
		if got := appendProfile(nil, []byte(content)); string(got) != want {
			t.Errorf("%s: %s, want %s", content, got, want)
		}
	}
}

// The joined members of a room are those with a join, without the profile if the event was redacted; also of events that
// have to be parsed.
func TestAppendJoined(t *testing.T) {
	const part = 3
	ctx := context.Background()
	shards := pgtest.New(t)
	for _, sql := range []string{
		`INSERT INTO room (part, room_nid, room_id, version, sid, extremities, depth) VALUES ($1, 1, '!r:x', '10', 0, '{}', 0)`,
		`INSERT INTO event (part, room_nid, event_nid, event_id, type, state_key, sender, depth, origin_ts, auth, prev, redacted_by, json)
		SELECT $1, 1, i, '$' || i, 'm.room.member', '@u' || i || ':x', '@u' || i || ':x', 1, 1, '{}', '{}', CASE i % 7 WHEN 0 THEN 1 END,
			convert_to(format('{"auth_events":[],"content":{"displayname":"U%s","membership":"%s"},"depth":1,"origin_server_ts":%s,"prev_events":[],"room_id":"!r:x","sender":"@u%s:x","state_key":"@u%s:x","type":"m.room.member"}',
				i, CASE i % 4 WHEN 0 THEN 'leave' ELSE 'join' END, CASE i % 5 WHEN 0 THEN '1.5' ELSE '1' END, i, i), 'UTF8')
		FROM generate_series(1, 500) i`,
	} {
		if _, err := shards.For(part).Exec(ctx, sql, part); err != nil {
			t.Fatal(err)
		}
	}
	c := &Timeline{Core: &core.Core{Rooms: roomdb.Open(shards, state.NewStore(state.DefaultConfig(), nil), roomdb.DefaultConfig(), nil)}}
	type profile struct {
		Name   *string `json:"display_name"`
		Avatar *string `json:"avatar_url"`
	}
	shown := func(m map[string]profile) map[string]string {
		out := make(map[string]string)
		for user, p := range m {
			if out[user] = "null"; p.Name != nil {
				out[user] = *p.Name
			}
		}
		return out
	}
	want := make(map[string]string)
	var nids []int64
	for i := range 500 {
		n := i + 1
		nids = append(nids, int64(n))
		if n%4 == 0 {
			continue
		}
		user := fmt.Sprintf("@u%d:x", n)
		if want[user] = fmt.Sprint("U", n); n%7 == 0 {
			want[user] = "null"
		}
	}
	list, err := c.appendJoined(ctx, roomdb.RoomKey{Part: part, NID: 1}, []byte(`{`), nids)
	if err != nil {
		t.Fatal(err)
	}
	var decoded map[string]profile
	if err := json.Unmarshal(append(list, '}'), &decoded); err != nil {
		t.Fatal(err)
	}
	if got := shown(decoded); !maps.Equal(got, want) {
		t.Fatalf("%d members, not these %d: %v", len(got), len(want), got)
	}
}
