package sync

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"

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
	s := &Service{large: make(chan struct{}, largeAnswers),
		rooms: roomdb.Open(shards, state.NewStore(state.DefaultConfig(), nil), roomdb.DefaultConfig(), nil)}
	return s, v
}

// A large state is the same list as if it were written at once, also if the filter leaves out the first or the last
// events of it (client-server API, "Syncing": rooms.join.state).
func TestLargeState(t *testing.T) {
	s, v := inLargeRoom(t, 2*largeStep+3)
	for _, filter := range []string{`{}`, `{"room":{"state":{"not_senders":["@u1:x"]}}}`, `{"room":{"state":{"senders":["@u1500:x","@u2003:x"]}}}`,
		`{"room":{"state":{"types":["m.room.name"]}}}`, `{"event_fields":["sender"]}`} {
		f, err := parseFilter([]byte(filter))
		if err != nil {
			t.Fatal(err)
		}
		p := &poll{who: &session.Identity{User: "@a:x"}, filter: f}
		got, err := s.appendLater(context.Background(), p, v, []byte(`[`), 1)
		if err != nil {
			t.Fatal(err)
		}
		all, err := s.rooms.InOrder(context.Background(), v.r.RoomPart, v.later)
		if err != nil {
			t.Fatal(err)
		}
		want, err := s.appendTold(context.Background(), p, []byte(`[`), filterState(&f.Room.State, slices.Clone(all)))
		if err != nil {
			t.Fatal(err)
		}
		var a, b []map[string]any
		if err := errors.Join(json.Unmarshal(append(got, ']'), &a), json.Unmarshal(append(want, ']'), &b)); err != nil {
			t.Fatalf("%s: %v", filter, err)
		}
		if len(a) != len(b) {
			t.Fatalf("%s: %d events, not %d", filter, len(a), len(b))
		}
		for i := range a {
			delete(a[i], "unsigned") // has the age
			delete(b[i], "unsigned")
			x, _ := json.Marshal(a[i])
			y, _ := json.Marshal(b[i])
			if !bytes.Equal(x, y) {
				t.Fatalf("%s: %s, not %s", filter, x, y)
			}
		}
	}
}

// Only some large answers are under way at once; a poll has one slot, however many large rooms it tells.
func TestLargeAnswers(t *testing.T) {
	s := &Service{large: make(chan struct{}, largeAnswers)}
	polls := make([]*poll, largeAnswers)
	for i := range polls {
		polls[i] = new(poll)
		for range 2 {
			if err := s.beginLarge(t.Context(), polls[i]); err != nil {
				t.Fatal(err)
			}
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	late := new(poll)
	if err := s.beginLarge(gone, late); !errors.Is(err, context.Canceled) {
		t.Fatalf("one too many: %v", err)
	}
	s.endLarge(late)
	waiting := make(chan error)
	go func() { waiting <- s.beginLarge(t.Context(), late) }()
	s.endLarge(polls[0])
	if err := <-waiting; err != nil {
		t.Fatal(err)
	}
	s.endLarge(late)
	s.endLarge(polls[1])
	if len(s.large) != 0 {
		t.Fatalf("%d slots are taken", len(s.large))
	}
}

// BenchmarkLargeState is about what one device is told of the network's largest room.
func BenchmarkLargeState(b *testing.B) {
	s, v := inLargeRoom(b, 323_368)
	p := &poll{who: &session.Identity{User: "@a:x"}, filter: noFilter}
	for _, later := range []bool{true, false} {
		b.Run(fmt.Sprintf("later=%t", later), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				var body []byte
				var err error
				if later {
					body, err = s.appendLater(context.Background(), p, v, make([]byte, 0, len(v.later)*largeEvent), 0)
				} else { // as it was
					var events []*roomdb.Event
					if events, err = s.rooms.InOrder(context.Background(), v.r.RoomPart, v.later); err == nil {
						body, err = s.appendTold(context.Background(), p, nil, events)
					}
				}
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(len(body)))
			}
		})
	}
}
