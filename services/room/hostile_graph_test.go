package room

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	roomv1 "hanse/proto/room/v1"
)

// hostile is a room on one server that a member of another one, bert, does harm to, and a room beside it.
type hostile struct {
	t         *testing.T
	n         *network
	a, b      *cluster
	room      string
	neighbour string
	on        *roomdb.Event // the last event that both have
}

func newHostile(t *testing.T, version string) *hostile {
	t.Helper()
	n := newNetwork()
	h := &hostile{t: t, n: n, a: newFedCluster(t, n, one, 1), b: newFedCluster(t, n, two, 1)}
	h.renew(version)
	return h
}

// renew makes new rooms.
func (h *hostile) renew(version string) {
	h.t.Helper()
	h.neighbour = h.a.create(version, anna, "public")
	h.enter(h.a.create(version, anna, "public"))
}

// enter goes on in another room.
func (h *hostile) enter(room string) {
	h.t.Helper()
	h.room = room
	must[*roomv1.SendResponse](h.t)(h.b.join(h.room, bert, string(one)))
	h.on = h.b.last(h.room)
}

// hear hands what happened since h.on to the other server.
func (h *hostile) hear() {
	h.t.Helper()
	carry(h.a, h.b, one, h.room, h.a.event(h.room, h.on.ID).Ord)
}

// goesOn demands that nothing has happened to the room but what is named, and that both rooms can be written to.
func (h *hostile) goesOn(before map[string]id.Event) {
	h.t.Helper()
	if after := h.a.state(h.room); !maps.Equal(before, after) {
		h.t.Fatalf("the state was %v and is %v", before, after)
	}
	must[*roomv1.SendResponse](h.t)(h.a.say(h.room, anna, "the room goes on"))
	must[*roomv1.SendResponse](h.t)(h.a.say(h.neighbour, anna, "the neighbour too"))
	h.a.auditSplit(h.t, h.room)
}

// message is an event of bert's after some others.
func (h *hostile) message(depth int64, prev ...id.Event) *event.PDU {
	d := draftOn(h.b, h.room, h.on)
	d.Depth = depth
	if len(prev) > 0 {
		d.PrevEvents = prev
	}
	return h.b.build(d, h.on.PDU)
}

// state makes a state event of somebody of the other server.
func (h *hostile) state(typ, key, content string, prev id.Event, auth ...id.Event) *event.PDU {
	d := draftOn(h.b, h.room, h.on)
	d.Type, d.StateKey, d.Content, d.PrevEvents = typ, &key, []byte(content), []id.Event{prev}
	d.AuthEvents = append(d.AuthEvents, auth...)
	return h.b.build(d, h.on.PDU)
}

func unknownEvent(i int) id.Event {
	return id.Event(fmt.Sprintf("$%s%07d", strings.Repeat("u", 36), i))
}

func lists(events map[string][]id.Event) func([]string, url.Values) any {
	return func([]string, url.Values) any { return events }
}

func pdus(name string, events ...*event.PDU) func([]string, url.Values) any {
	list := make([]json.RawMessage, len(events))
	for i, e := range events {
		list[i] = e.JSON
	}
	return func([]string, url.Values) any { return map[string]any{name: list, "auth_chain": list} }
}

// The origin tells a state before a missing event that cannot be one, or that nobody can check: the event that needs it
// is refused, or judged without what could not be had, and what the room is does not change (server-server API,
// "Retrieving events"; "Checks performed on receipt of a PDU").
func TestClaimedStates(t *testing.T) {
	for _, version := range []string{"2", "10", "12"} {
		h := newHostile(t, version)
		full := slices.Collect(maps.Values(h.a.state(h.room)))
		gone := h.message(100)
		orphan := h.state("m.room.topic", "", `{"topic":"x"}`, gone.ID, unknownEvent(1)) // cites what nobody has
		twin := h.state("m.room.member", bert, `{"membership":"join","displayname":"twin"}`, h.on.ID, h.b.state(h.room)["m.room.join_rules|"])
		elsewhere := slices.Collect(maps.Values(h.a.state(h.neighbour)))
		many := make([]id.Event, maxOutliers+1)
		for i := range many {
			many[i] = "$m" // the answer is long enough as it is
		}
		cases := []struct {
			name    string
			state   []id.Event
			taken   bool
			missing bool // the event whose state it is is kept back, too
		}{
			{name: "that is right", state: full, taken: true},
			{name: "that lacks auth events", state: append(slices.Clone(full), orphan.ID), taken: true},
			{name: "with two events for one key", state: append(slices.Clone(full), twin.ID)},
			{name: "without the create event", state: []id.Event{h.b.state(h.room)["m.room.member|"+bert]}},
			{name: "of another room", state: elsewhere},
			{name: "of nothing", state: nil},
			{name: "of events that nobody has", state: []id.Event{unknownEvent(1), unknownEvent(2)}},
			{name: "of a million events", state: many},
			{name: "of an event that cannot be had", state: full, missing: true},
		}
		for i, c := range cases {
			t.Run("v"+version+"/"+c.name, func(t *testing.T) {
				h.t = t
				missing := h.message(int64(100 + i))
				next := h.message(int64(200+i), missing.ID)
				given := map[string]*event.PDU{string(orphan.ID): orphan, string(twin.ID): twin}
				if !c.missing {
					given[string(missing.ID)] = missing
				}
				h.n.lie(map[string]func([]string, url.Values) any{
					"get_missing_events": lists(map[string][]id.Event{"events": {}}),
					"state_ids":          lists(map[string][]id.Event{"pdu_ids": c.state, "auth_chain_ids": {}}),
					"state":              pdus("pdus", orphan, twin),
					"event": func(args []string, _ url.Values) any {
						if e := given[args[0]]; e != nil {
							return map[string]any{"pdus": []json.RawMessage{e.JSON}}
						}
						return nil
					},
				})
				defer h.n.lie(nil)
				before := h.a.state(h.room)
				r := h.a.receive(h.room, two, next.JSON)[0]
				if (r.Error == "") != c.taken {
					t.Errorf("answer: %q", r.Error)
				}
				h.goesOn(before)
			})
		}
	}
}

// Events that name one another, or themselves, as versions 1 and 2 can express it: none is taken for authorised by the
// other, and nobody walks in circles.
func TestForgedCycles(t *testing.T) {
	for _, version := range []string{"1", "2"} {
		h := newHostile(t, version)
		named := func(eventID string, change func(e map[string]any)) *event.PDU {
			raw := reforge(t, h.b, h.message(50), func(e map[string]any) { e["event_id"] = eventID; change(e) })
			pdu, err := event.ParseTrusted(raw, id.Event(eventID), h.on.Rules) // Parse refuses those that name themselves
			if err != nil {
				t.Fatal(err)
			}
			return pdu
		}
		ref := func(eventID string) []any { return []any{[]any{eventID, map[string]string{"sha256": "x"}}} }
		prev := func(to string) func(map[string]any) { return func(e map[string]any) { e["prev_events"] = ref(to) } }
		auth := func(to string) func(map[string]any) {
			return func(e map[string]any) { e["auth_events"] = append(e["auth_events"].([]any), ref(to)...) }
		}
		const x, y = "$x:two.test", "$y:two.test"
		full := slices.Collect(maps.Values(h.a.state(h.room)))
		for name, pair := range map[string][2]*event.PDU{
			"prev of itself":   {named(x, prev(x))},
			"auth of itself":   {named(x, auth(x))},
			"prev in a circle": {named(x, prev(y)), named(y, prev(x))},
			"auth in a circle": {named(x, auth(y)), named(y, auth(x))},
		} {
			t.Run("v"+version+"/"+name, func(t *testing.T) {
				h.t = t
				var all []*event.PDU
				for _, p := range pair {
					if p != nil {
						all = append(all, p)
					}
				}
				h.n.lie(map[string]func([]string, url.Values) any{
					"get_missing_events": pdus("events", all...),
					"state_ids":          lists(map[string][]id.Event{"pdu_ids": full, "auth_chain_ids": {x, y}}),
					"event_auth":         pdus("auth_chain", all...),
					"event": func(args []string, _ url.Values) any {
						for _, p := range all {
							if args[0] == string(p.ID) {
								return map[string]any{"pdus": []json.RawMessage{p.JSON}}
							}
						}
						return nil
					},
				})
				defer h.n.lie(nil)
				before := h.a.state(h.room)
				for _, p := range all {
					r := h.a.receive(h.room, two, p.JSON)[0]
					if strings.Contains(name, "auth") && r.Error == "" {
						t.Error("accepted")
					}
				}
				h.goesOn(before)
				h.renew(version) // ids are free again
				full = slices.Collect(maps.Values(h.a.state(h.room)))
			})
		}
		// The id of an event of another room, which the same server made up.
		h.t = t
		other := named("$z:two.test", func(map[string]any) {})
		h.a.take(h.room, two, other)
		next := h.a.create(version, anna, "public")
		for h.a.room(next).Part != h.a.room(h.room).Part { // ids are random: one in as many as there are partitions
			next = h.a.create(version, anna, "public")
		}
		h.enter(next)
		before := h.a.state(h.room)
		if r := h.a.receive(h.room, two, named("$z:two.test", func(map[string]any) {}).JSON)[0]; r.Error == "" {
			t.Error("an id was taken twice")
		}
		h.goesOn(before)
	}
}

// Auth chains: a long one that is there is got, one that nobody can want is not.
func TestLongAuthChains(t *testing.T) {
	h := newHostile(t, "11")
	ok := must[*roomv1.SendResponse](t)
	ok(h.a.setState(h.room, anna, "m.room.power_levels", "", `{"users":{"@anna:one.test":100,"@bert:two.test":100}}`))
	h.hear()
	h.on = h.b.last(h.room)
	st := h.b.state(h.room)
	create, own := st["m.room.create|"], st["m.room.member|"+bert]
	levels, prev := st["m.room.power_levels|"], h.on.ID
	var chain []*event.PDU
	key := ""
	for i := range 3000 {
		d := event.Draft{RoomID: id.Room(h.room), Type: "m.room.power_levels", StateKey: &key, Sender: bert, Depth: h.on.Depth + 1 + int64(i), OriginServerTS: int64(1e12 + i),
			Content:    []byte(fmt.Sprintf(`{"users":{"@anna:one.test":100,"@bert:two.test":100},"events":{"org.example.x":%d}}`, i%100)),
			PrevEvents: []id.Event{prev}, AuthEvents: []id.Event{create, levels, own}}
		pdu := h.b.build(d, h.on.PDU)
		chain, levels, prev = append(chain, pdu), pdu.ID, pdu.ID
	}
	d := draftOn(h.b, h.room, h.on)
	d.AuthEvents = []id.Event{create, levels, own}
	last := h.b.build(d, h.on.PDU)
	before := h.a.state(h.room)
	h.n.lie(map[string]func([]string, url.Values) any{"event_auth": pdus("auth_chain", chain...)})
	// The levels that it cites are not those of the room, but it may speak under both.
	if r := h.a.receive(h.room, two, last.JSON)[0]; r.Error != "" {
		t.Errorf("after a chain that is there: %q", r.Error)
	}
	if e, err := h.a.read.EventByID(context.Background(), h.a.room(h.room), chain[2999].ID); err != nil || e.Flags != roomdb.Outlier {
		t.Errorf("the end of the chain: %+v, %v", e, err)
	}
	h.goesOn(before)

	million := make([]json.RawMessage, 1_000_000)
	for i := range million {
		million[i] = json.RawMessage(`{}`)
	}
	h.n.lie(map[string]func([]string, url.Values) any{"event_auth": func([]string, url.Values) any { return map[string]any{"auth_chain": million} }})
	defer h.n.lie(nil)
	d.AuthEvents = []id.Event{create, unknownEvent(7), own}
	if r := h.a.receive(h.room, two, h.b.build(d, h.on.PDU).JSON)[0]; !strings.Contains(r.Error, "1000000") {
		t.Errorf("after a million: %q", r.Error)
	}
	h.goesOn(before)
}

// What one request may make us ask for is bounded, whatever its events lack.
func TestMissingIsBounded(t *testing.T) {
	h := newHostile(t, "12")
	before := h.a.state(h.room)
	var gap []*event.PDU
	for i := range missingLimit {
		var prev []id.Event
		for k := range missingStates {
			prev = append(prev, unknownEvent(i*10+k))
		}
		gap = append(gap, h.message(int64(50+i), prev...))
	}
	h.n.lie(map[string]func([]string, url.Values) any{
		"get_missing_events": pdus("events", gap...),
		"state_ids":          lists(map[string][]id.Event{"pdu_ids": {}, "auth_chain_ids": {}}),
	})
	defer h.n.lie(nil)
	var ids []id.Event
	for _, p := range gap {
		ids = append(ids, p.ID)
	}
	var raw [][]byte
	for i := range 50 {
		raw = append(raw, h.message(int64(100+i), ids[:10]...).JSON)
	}
	for _, r := range h.a.receive(h.room, two, raw...) {
		if r.Error == "" {
			t.Error("accepted")
		}
	}
	if n := h.n.askedFor("state_ids"); n > maxFetches {
		t.Errorf("%d states were asked for", n)
	}
	h.goesOn(before)
}

// Keys that come twice have no canonical form (appendices, "Canonical JSON"). Where the room version asks for that form
// (from version 6 on) the event is refused; before, the last one counts, and nothing of the others is kept: no two servers
// must read an event in two ways.
func TestDuplicateJSONKeys(t *testing.T) {
	for _, version := range []string{"1", "5", "6", "12"} {
		h := newHostile(t, version)
		before := h.a.state(h.room)
		raw := string(h.message(60).JSON)
		for _, forged := range []string{
			`{"type":"m.room.topic",` + raw[1:],
			strings.Replace(raw, `"content":{`, `"content":{"body":"other",`, 1),
			strings.Replace(raw, `"signatures":{`, `"signatures":{"two.test":{},`, 1),
		} {
			r := h.a.receive(h.room, two, []byte(forged))[0]
			if refused := r.Error != ""; refused != h.on.Rules.StrictCanonicalJSON {
				t.Errorf("version %s: %q for %s", version, r.Error, forged)
			}
		}
		for _, e := range h.a.timeline(h.room) {
			if e.Sender == bert && e.StateKey == nil && string(e.JSON) != raw {
				t.Errorf("version %s: stored is %s", version, e.JSON)
			}
		}
		h.goesOn(before)
	}
}

// Events that are queued for a commit are found even if the cache has forgotten them.
func TestQueuedEventsAreKept(t *testing.T) {
	hold, held := make(chan struct{}), make(chan struct{}, 100)
	armed := make(chan bool, 1)
	c := newClusterFaulty(t, 1, faults{before: func() {
		select {
		case <-armed:
			held <- struct{}{}
			<-hold
		default:
		}
	}, commit: func(err error) error { return err }})
	roomID := c.create("12", alice, "public")
	armed <- true
	first := make(chan error, 1)
	go func() {
		_, err := c.setState(roomID, alice, "m.room.power_levels", "", `{"users":{},"events":{"org.example.x":7}}`)
		first <- err
	}()
	<-held
	c.workers[0].Service.cache.Purge()
	second := make(chan error, 1)
	go func() {
		_, err := c.say(roomID, alice, "builds upon what is not written yet")
		second <- err
	}()
	r, err := c.workers[0].roomIn(c.workers[0].leases[c.room(roomID).Part].Load(), id.Room(roomID))
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return r.pending.Load() == 2 || len(second) > 0 })
	close(hold)
	for _, ch := range []chan error{first, second} {
		if err := <-ch; err != nil {
			t.Error(err)
		}
	}
}

// An event that only a refused one names is a forward extremity of the room when it comes (as in Synapse): otherwise a user who is about to
// be banned could keep the ban out of the current state, by naming it first.
func TestNamedByRefused(t *testing.T) {
	for _, version := range []string{"2", "11", "12"} {
		h := newHostile(t, version)
		c := newFedCluster(t, h.n, three, 1)
		ok := must[*roomv1.SendResponse](t)
		const cara = "@cara:three.test"
		ok(c.join(h.room, cara, string(one)))
		levels := `{"users":{"@anna:one.test":100,"@cara:three.test":100}}`
		if version == "12" {
			levels = `{"users":{"@cara:three.test":100}}`
		}
		ok(h.a.setState(h.room, anna, "m.room.power_levels", "", levels))
		carry(h.a, c, one, h.room, 0)
		ok(c.setState(h.room, cara, typeMember, bert, `{"membership":"ban"}`))
		ban, st := c.last(h.room).PDU, h.a.state(h.room)
		h.n.lie(map[string]func([]string, url.Values) any{
			"get_missing_events": lists(map[string][]id.Event{"events": {}}),
			"state_ids":          lists(map[string][]id.Event{"pdu_ids": slices.Collect(maps.Values(st)), "auth_chain_ids": {}}),
			"event":              pdus("pdus", ban),
		})
		refused := h.b.forgeAfter(st, event.Draft{Type: "m.room.message", Sender: bert, Content: []byte(`{"body":"too late"}`)}, ban)
		if r := h.a.receive(h.room, two, refused.JSON)[0]; r.Error == "" {
			t.Fatal("somebody who is banned was heard")
		}
		h.n.lie(nil)
		h.a.take(h.room, three, ban)
		if got := h.a.state(h.room)["m.room.member|"+bert]; got != ban.ID {
			t.Fatalf("version %s: %s stands where the ban should", version, got)
		}
		h.a.checkResolved(h.room)
		// It is not asked for any more.
		err := h.a.call(context.Background(), h.room, func(ctx context.Context, r roomv1.RoomClient) error {
			resp, err := r.Backfill(ctx, &roomv1.BackfillRequest{RoomId: h.room, Limit: 10})
			if err == nil && !resp.Complete {
				t.Errorf("version %s: history is not complete", version)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		ok(h.a.say(h.room, anna, "goes on"))
		if extremities := len(h.a.room(h.room).Extremities); extremities != 1 {
			t.Errorf("version %s: %d extremities", version, extremities)
		}
		h.a.auditSplit(t, h.room)
	}
}

// An event that cannot be judged leaves nothing in a draft that may go on without it, as one of history does: neither what it
// lacks, nor that it is to be judged again, which would never come to an end.
func TestNothingOfAnEventThatIsNotJudged(t *testing.T) {
	p := newPartialJoin(t, "11", 1, "ids")
	p.enter()
	st, on := p.a.state(p.room), p.b.last(p.room).PDU
	d := follow(event.Draft{Type: "m.room.message", Sender: anna, Content: []byte(`{"body":"x"}`)}, st, on)
	d.PrevEvents = append(d.PrevEvents, unknownEvent(1))
	pdu := p.a.build(d, on)
	w := p.b.workers[0]
	r, err := w.lockRoom(context.Background(), id.Room(p.room))
	if err != nil {
		t.Fatal(err)
	}
	defer r.unlock()
	ctx, cancel := context.WithCancel(context.Background())
	draft := w.newWriter(ctx, r)
	if err := draft.lookUp(ctx, pdu); err != nil {
		t.Fatal(err)
	}
	cancel() // what it reads from here on is read in vain
	w.Service.cache.Purge()
	if _, err := draft.receive(ctx, pdu, arrival{}); err == nil || !strings.Contains(err.Error(), "read events") {
		t.Fatalf("it was judged, or not as far as this: %v", err)
	}
	if c := draft.c; len(c.lacks)+len(c.found)+len(c.partial.unsure)+len(c.events) != 0 {
		t.Errorf("%d lacks, %d found, %d to be judged again, %d events", len(c.lacks), len(c.found), len(c.partial.unsure), len(c.events))
	}
}
