package view_test

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"hanse/pkg/pg/pgtest"
	"hanse/pkg/roomdb"
	"hanse/pkg/state"
	"hanse/pkg/view"
)

const statePart = 3

// storedState is a room of n state events of all kinds: some replaced others, some are redacted, some cannot be copied.
func storedState(tb testing.TB, n int) *roomdb.DB {
	tb.Helper()
	shards := pgtest.New(tb)
	for _, sql := range []string{
		`INSERT INTO room (part, room_nid, room_id, version, sid, extremities, depth) VALUES ($1, 1, '!r:x', '10', 0, '{}', 0)`,
		`INSERT INTO event (part, room_nid, event_nid, event_id, type, state_key, sender, depth, origin_ts, flags, auth, prev, replaces, redacted_by, json)
		SELECT $1, 1, i, '$' || i, 'm.room.member', '@u' || i || ':x', '@u' || i || ':x', 1, 1, 0, '{}', '{}',
			CASE WHEN i % 5 = 0 THEN i - 3 ELSE 0 END, CASE WHEN i % 7 = 0 THEN i - 1 END,
			convert_to(format('{"auth_events":[],"content":{"displayname":"\"%s\"","membership":"%s"},"depth":1,"origin_server_ts":%s,"prev_events":[],"redacts":"$1","room_id":"!r:x","sender":"@u%s:x","state_key":"@u%s:x","type":"%s","x":"%s"}',
				i, CASE i % 4 WHEN 0 THEN 'leave' ELSE 'join' END, i, i, i, CASE i % 13 WHEN 0 THEN 'm.room.redaction' ELSE 'm.room.member' END, repeat('x', 300)), 'UTF8')
		FROM generate_series(1, ` + fmt.Sprint(n) + `) i`,
	} {
		if _, err := shards.For(statePart).Exec(context.Background(), sql, statePart); err != nil {
			tb.Fatal(err)
		}
	}
	return roomdb.Open(shards, state.NewStore(state.DefaultConfig(), nil), roomdb.DefaultConfig(), nil)
}

func byID(t *testing.T, list []byte) map[string]any {
	t.Helper()
	var events []map[string]any
	if err := json.Unmarshal(list, &events); err != nil {
		t.Fatalf("%v: %.200s", err, list)
	}
	out := make(map[string]any, len(events))
	for _, e := range events {
		out[e["event_id"].(string)] = e
	}
	if len(out) != len(events) {
		t.Fatalf("%d events, %d of them different", len(events), len(out))
	}
	return out
}

// Client-server API, "Room event format": a state that is copied looks as if each event had been parsed and written.
func TestStateList(t *testing.T) {
	const n = 4500
	ctx := context.Background()
	db := storedState(t, n)
	nids := []int64{n + 5} // does not exist
	for i := int64(n); i > 0; i-- {
		nids = append(nids, i)
	}
	for _, withRoomID := range []bool{false, true} {
		for _, keep := range []func([]byte) bool{nil, func(content []byte) bool { return strings.Contains(string(content), `"join"`) }} {
			f := view.Format{User: "@a:x", Device: "D", WithRoomID: withRoomID, Now: time.UnixMilli(1 << 40)}
			l := view.StateList{DB: db, Format: f, Room: roomdb.RoomKey{Part: statePart, NID: 1}, RoomID: "!r:x", Keep: keep}
			got := []byte{'['}
			for step := range view.Steps(nids) {
				if len(got) > 1 {
					got = append(got, ',')
				}
				var err error
				if got, err = l.Append(ctx, got, step); err != nil {
					t.Fatal(err)
				}
			}
			found, err := db.EventsOnce(ctx, statePart, nids)
			if err != nil {
				t.Fatal(err)
			}
			var events []*roomdb.Event
			for _, e := range found {
				if keep == nil || keep(e.Content) {
					events = append(events, e)
				}
			}
			want, err := view.Append(ctx, db, f, []byte{'['}, events)
			if err != nil {
				t.Fatal(err)
			}
			a, b := byID(t, append(got, ']')), byID(t, append(want, ']'))
			if len(a) != len(b) || len(b) < n/2 {
				t.Fatalf("%d events, not %d", len(a), len(b))
			}
			for id, e := range b {
				if !reflect.DeepEqual(a[id], e) {
					t.Fatalf("%s is\n%v, not\n%v", id, a[id], e)
				}
			}
		}
	}
}
