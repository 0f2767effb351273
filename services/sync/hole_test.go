package sync

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/pg/pgtest"
	"hanse/pkg/roomdb"
	"hanse/pkg/session"
	"hanse/pkg/state"
	"hanse/pkg/token"
	"hanse/pkg/userdb"
	logv1 "hanse/proto/log/v1"
)

// holed is room 1 of partition 0: a join of Bert at 2, who was banned in a hole before the message at 6. The hole is open, or was
// filled with the ban.
type holed struct {
	t       *testing.T
	s       *Service
	entries []*logv1.Entry
	names   map[string]int64
	key     *signing.Key
	batch   *state.Batch
}

const bertsBan = 100 // the number of the event in the hole

func newHoled(t *testing.T, filled bool) *holed {
	t.Helper()
	shards, states := pgtest.New(t), state.NewWriter(nil)
	h := &holed{t: t, names: make(map[string]int64), batch: states.Batch()}
	var err error
	if h.key, err = signing.NewKey(); err != nil {
		t.Fatal(err)
	}
	member := state.Key{Type: memberType, StateKey: "@bert:a"}
	topic := state.Key{Type: "m.room.topic"}
	base := state.Map{}.Set(state.Key{Type: "m.room.create"}, 1)
	for sid, m := range map[int64]state.Map{1001: base, 1002: base.Set(member, 2), 1003: base.Set(member, bertsBan), 1004: base.Set(member, bertsBan).Set(topic, 7)} {
		if _, err := h.batch.Root(0, sid, m); err != nil {
			t.Fatal(err)
		}
	}
	var q pgx.Batch
	h.batch.Queue(&q)
	if err := shards.For(0).SendBatch(t.Context(), &q).Close(); err != nil {
		t.Fatal(err)
	}
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := shards.For(0).Exec(t.Context(), sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	exec(`INSERT INTO room (part, room_nid, room_id, version, sid, extremities, depth, first_ord, last_pos) VALUES (0, 1, '!r:a', '11', 1004, '{}', 0, 1, 8)`)
	rules, _ := roomversion.Get("11")
	add := func(nid, ord, sid, before, after int64, typ string, stateKey *string, content string, hole bool) {
		t.Helper()
		pdu, err := event.Build(event.Draft{RoomID: "!r:a", Type: typ, StateKey: stateKey, Sender: "@anna:a", Content: json.RawMessage(content), Depth: nid}, rules, "a", h.key)
		if err != nil {
			t.Fatal(err)
		}
		exec(`INSERT INTO event (part, room_nid, event_nid, event_id, ord, type, state_key, sender, depth, origin_ts, sid, flags, auth, prev, json)
			VALUES (0, 1, $1, $2, nullif($3::bigint, 0), $4, $5, '@anna:a', 1, 0, $6, 0, '{}', '{}', $7)`, nid, string(pdu.ID), ord, typ, stateKey, sid, pdu.JSON)
		h.names[string(pdu.ID)] = nid
		if ord <= 0 {
			return
		}
		exec(`INSERT INTO log (part, pos, room_nid, kind, event_nid, current_before, current_after) VALUES (0, $1, 1, 1, $2, $3, $4)`, ord, nid, before, after)
		l := &logv1.Event{Nid: nid, EventId: string(pdu.ID), RoomVersion: "11", Json: pdu.JSON, Type: typ, StateKey: stateKey, Sender: "@anna:a",
			Sid: sid, CurrentBefore: before, CurrentAfter: after, Hole: hole, Membership: pdu.Membership()}
		h.entries = append(h.entries, &logv1.Entry{Pos: ord, RoomNid: 1, RoomId: "!r:a", Body: &logv1.Entry_Event{Event: l}})
	}
	bert, empty := "@bert:a", ""
	add(1, 1, 0, 0, 1001, "m.room.create", &empty, `{}`, false)
	add(2, 2, 1001, 1001, 1002, memberType, &bert, `{"membership":"join"}`, false)
	add(3, 3, 1002, 1002, 1002, "m.room.message", nil, `{"body":"before"}`, false)
	ban := int64(0)
	if filled {
		ban = roomdb.At(6).Before().LateOrd()
	}
	add(bertsBan, ban, 1002, 0, 0, memberType, &bert, `{"membership":"ban"}`, false)
	add(6, 6, 1003, 1002, 1003, "m.room.message", nil, `{"body":"behind"}`, true)
	add(7, 7, 1003, 1003, 1004, "m.room.topic", &empty, `{"topic":"t"}`, false)
	add(8, 8, 1004, 1004, 1004, "m.room.message", nil, `{"body":"last"}`, false)
	if !filled {
		exec(`INSERT INTO missing_prev (part, room_nid, event_id, child, hole) VALUES (0, 1, '$missing', 6, 6)`)
	}
	h.s = &Service{rooms: roomdb.Open(shards, state.NewStore(state.DefaultConfig(), nil), roomdb.DefaultConfig(), nil), openings: newOpenings(1<<20, nil)}
	return h
}

// nids are the numbers of events.
func nids(events []*roomdb.Event) []int64 {
	out := []int64{}
	for _, e := range events {
		out = append(out, e.NID)
	}
	return out
}

// Client-server API, "Syncing": timeline, limited, prev_batch and state of a room whose timeline has a hole. What is behind it is
// told with the state up to there, so that a client that applies one after the other ends with the right members.
func TestTimelineEndsAtAHole(t *testing.T) {
	r := &userdb.Membership{Room: "!r:a", RoomPart: 0, RoomNID: 1, Membership: "join"}
	behindHole := roomdb.At(6) - 1
	for _, filled := range []bool{false, true} {
		h := newHoled(t, filled)
		for _, from := range []string{"memory", "PostgreSQL"} {
			h.s.tail, _ = newTestTail(t, 1<<20, 0)
			if from == "memory" {
				h.s.tail.watch(0, 1, "!r:a")
				deliver(t, h.s.tail, h.entries...)
			}
			for _, stateAfter := range []bool{false, true} {
				for _, limit := range []int{10, 2} {
					name := fmt.Sprintf("filled %t, from %s, state_after %t, limit %d", filled, from, stateAfter, limit)
					f, err := parseFilter([]byte(fmt.Sprintf(`{"room":{"timeline":{"limit":%d}}}`, limit)))
					if err != nil {
						t.Fatal(err)
					}
					p := &poll{asker: asker{user: &user{id: "@anna:a", prefs: new(prefs)}, who: &session.Identity{User: "@anna:a"}, since: &token.Sync{}}, filter: f, stateAfter: stateAfter}
					d, err := h.s.delta(t.Context(), &p.asker, p.wanted(), new(prefs), r, 1, 8)
					if err != nil {
						t.Fatal(err)
					}
					v := &roomView{r: r, timeline: d.events, limited: d.limited, prevBatch: d.start(1, 8)}
					if err := h.s.addStateDelta(t.Context(), p, v, d); err != nil {
						t.Fatal(err)
					}
					timeline, before, limited, prev := []int64{6, 7, 8}, []int64{bertsBan}, true, behindHole
					if filled && from == "PostgreSQL" {
						timeline, before, limited, prev = []int64{2, 3, bertsBan, 6, 7, 8}, []int64{}, false, roomdb.At(2)-1
					}
					if limit == 2 {
						timeline, before, limited, prev = []int64{7, 8}, []int64{bertsBan}, true, roomdb.At(7)-1
					}
					if stateAfter {
						before = []int64{7, bertsBan}
					}
					state := nids(v.state)
					slices.Sort(state)
					if !slices.Equal(nids(v.timeline), timeline) || !slices.Equal(state, before) || v.limited != limited || v.prevBatch != prev {
						t.Errorf("%s: timeline %v (want %v), state %v (want %v), limited %t (want %t), prev_batch %s (want %s)", name,
							nids(v.timeline), timeline, state, before, v.limited, limited, v.prevBatch.Token(), prev.Token())
					}
				}
			}
		}
	}
}

// The same of a first sync.
func TestFirstTimelineEndsAtAHole(t *testing.T) {
	r := &userdb.Membership{Room: "!r:a", RoomPart: 0, RoomNID: 1, Membership: "join"}
	key := roomdb.RoomKey{Part: 0, NID: 1}
	for _, filled := range []bool{false, true} {
		h := newHoled(t, filled)
		for _, filter := range []string{`{}`, `{"room":{"timeline":{"not_types":["none.such"]}}}`} {
			f, err := parseFilter([]byte(filter))
			if err != nil {
				t.Fatal(err)
			}
			p := &poll{asker: asker{user: &user{id: "@anna:a", prefs: new(prefs)}, who: &session.Identity{User: "@anna:a"}}, filter: f}
			m := &moment{joined: []*userdb.Membership{r}, pos: []token.PartPos{{Part: 0, Pos: 8}}}
			l, err := h.s.loadFull(t.Context(), p, m, m.joined)
			if err != nil {
				t.Fatal(err)
			}
			timeline, limited, before := []int64{6, 7, 8}, true, []int64{1, bertsBan}
			if filled {
				timeline, limited, before = []int64{1, 2, 3, bertsBan, 6, 7, 8}, false, []int64{}
			}
			events := l.timelines[key]
			start := l.states[state.Ref{Part: 0, SID: events[0].SID}]
			state := p.stateBefore(start, l.states[state.Ref{Part: 0, SID: 1004}], events)
			slices.Sort(state)
			if !slices.Equal(nids(events), timeline) || l.limited[key] != limited || !slices.Equal(state, before) {
				t.Errorf("filled %t, filter %s: timeline %v, limited %t, state %v; want %v, %t, %v", filled, filter, nids(events), l.limited[key], state, timeline, limited, before)
			}
			if end := l.end(key, 8); !filled && end != roomdb.At(6)-1 || filled && end != roomdb.At(8) {
				t.Errorf("filled %t: an empty timeline ends at %s", filled, end.Token())
			}
		}
	}
}
