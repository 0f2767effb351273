package sync

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"

	"hanse/pkg/httpx"
	"hanse/pkg/matrix/id"
	"hanse/pkg/pg/pgtest"
	"hanse/pkg/roomdb"
	"hanse/pkg/session"
	"hanse/pkg/state"
	"hanse/pkg/userdb"
)

// inLargeRoom is a service that reads a room of n members, whose state is told to a device.
func inLargeRoom(tb testing.TB, n int) (*Service, *roomView) {
	tb.Helper()
	const part = 3
	shards := pgtest.New(tb)
	for _, sql := range []string{
		`INSERT INTO room (part, room_nid, room_id, version, sid, extremities, depth) VALUES ($1, 1, '!r:x', '11', 0, '{}', 0)`,
		`INSERT INTO event (part, room_nid, event_nid, event_id, type, state_key, sender, depth, origin_ts, flags, auth, prev, json)
		SELECT $1, 1, i, '$' || i, 'm.room.member', '@u' || i || ':x', '@u' || i || ':x', 1, 0, 0, '{}', '{}',
			convert_to(format('{"type":"m.room.member","room_id":"!r:x","sender":"@u%s:x","state_key":"@u%s:x","content":{"membership":"join"},"depth":1,"origin_server_ts":1,"prev_events":[],"auth_events":[],"pad":"%s"}',
				i, i, repeat('x', 500)), 'UTF8')
		FROM generate_series(1, ` + fmt.Sprint(n) + `) i`,
	} {
		if _, err := shards.For(part).Exec(context.Background(), sql, part); err != nil {
			tb.Fatal(err)
		}
	}
	v := &roomView{r: &userdb.Membership{RoomPart: part, RoomNID: 1}}
	for i := range n {
		v.later = append(v.later, int64(i+1))
	}
	s := &Service{large: httpx.NewLarge("sync", nil),
		rooms: roomdb.Open(shards, state.NewStore(state.DefaultConfig(), nil), roomdb.DefaultConfig(), nil)}
	return s, v
}

// sendLarge returns the list of a large state as it is sent.
func sendLarge(tb testing.TB, s *Service, v *roomView, p *poll, before string) []byte {
	tb.Helper()
	json := []byte(before + `]`)
	v.rest = rest{room: v, at: len(before), more: len(before) > 1}
	w := httptest.NewRecorder()
	w.Body = bytes.NewBuffer(make([]byte, 0, 600*len(v.later)))
	if err := s.send(tb.Context(), w, p, &body{json: &json, rests: []rest{v.rest}}); err != nil {
		tb.Fatal(err)
	}
	return w.Body.Bytes()
}

// A large state has the same events as if it were written at once, whatever the filter (client-server API, "Syncing":
// rooms.join.state).
func TestLargeState(t *testing.T) {
	s, v := inLargeRoom(t, 4003)
	for _, filter := range []string{`{}`, `{"room":{"state":{"not_senders":["@u1:x"]}}}`, `{"room":{"state":{"senders":["@u1500:x","@u2003:x"]}}}`,
		`{"room":{"state":{"types":["m.room.member"]}}}`, `{"room":{"state":{"not_rooms":["!r:x"]}}}`, `{"event_fields":["event_id","sender"]}`} {
		for _, before := range []string{`[`, `[{"event_id":"$other"}`} {
			f, err := parseFilter([]byte(filter))
			if err != nil {
				t.Fatal(err)
			}
			p := &poll{asker: asker{who: &session.Identity{User: "@a:x"}}, filter: f}
			got := sendLarge(t, s, v, p, before)
			all, err := s.rooms.InOrder(context.Background(), v.r.RoomPart, v.later)
			if err != nil {
				t.Fatal(err)
			}
			want := []byte(before)
			events := filterState(&f.Room.State, slices.Clone(all))
			if len(before) > 1 && len(events) > 0 {
				want = append(want, ',')
			}
			if want, err = s.appendTold(context.Background(), p, want, events, nil); err != nil {
				t.Fatal(err)
			}
			var a, b []map[string]any
			if err := errors.Join(json.Unmarshal(got, &a), json.Unmarshal(append(want, ']'), &b)); err != nil {
				t.Fatalf("%s: %v", filter, err)
			}
			for _, list := range [][]map[string]any{a, b} {
				for _, e := range list {
					delete(e, "unsigned") // has the age
				}
				slices.SortFunc(list, func(a, b map[string]any) int { return strings.Compare(a["event_id"].(string), b["event_id"].(string)) })
			}
			if !reflect.DeepEqual(a, b) {
				t.Fatalf("%s: %d events, not these %d", filter, len(a), len(b))
			}
		}
	}
}

// The rest of each large state is sent in its place in the answer, between whatever other rooms there are (client-server API,
// GET /sync, rooms.join).
func TestLargeAnswer(t *testing.T) {
	s, large := inLargeRoom(t, 2500)
	p := &poll{asker: asker{who: &session.Identity{User: "@a:x"}}, filter: noFilter}
	first, err := s.rooms.InOrder(t.Context(), large.r.RoomPart, large.later[:1])
	if err != nil {
		t.Fatal(err)
	}
	a := &answer{user: "@a:x"}
	want := map[string]int{"!a:x": 0, "!b:x": 2500, "!c:x": 1, "!d:x": 2501, "!e:x": 0}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		v := &roomView{r: &userdb.Membership{RoomPart: large.r.RoomPart, RoomNID: 1, Membership: "join"}}
		if want[name] > 1 {
			v.later = slices.Clone(large.later)
		}
		if want[name]%2 == 1 {
			v.state = first
		}
		room := roomAnswer{id: id.Room(name)}
		if room.json, err = s.write(t.Context(), p, v); err != nil {
			t.Fatal(err)
		}
		if len(v.later) > 0 {
			room.rest = &v.rest
		}
		a.join = append(a.join, room)
	}
	w := httptest.NewRecorder()
	if err := s.send(t.Context(), w, p, a.encode()); err != nil {
		t.Fatal(err)
	}
	var got struct {
		NextBatch string `json:"next_batch"`
		Rooms     struct {
			Join map[string]struct {
				State struct {
					Events []struct {
						Sender string `json:"sender"`
					} `json:"events"`
				} `json:"state"`
			} `json:"join"`
		} `json:"rooms"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || got.NextBatch == "" || len(got.Rooms.Join) != len(want) {
		t.Fatalf("%d rooms, %v", len(got.Rooms.Join), err)
	}
	for name, n := range want {
		if events := got.Rooms.Join[name].State.Events; len(events) != n {
			t.Errorf("%s has %d events, not %d", name, len(events), n)
		}
	}
}

// BenchmarkLargeState is about what one device is told of the network's largest room.
func BenchmarkLargeState(b *testing.B) {
	s, v := inLargeRoom(b, 323_368)
	p := &poll{asker: asker{who: &session.Identity{User: "@a:x"}}, filter: noFilter}
	b.ReportAllocs()
	for b.Loop() {
		b.SetBytes(int64(len(sendLarge(b, s, v, p, `[`))))
	}
}
