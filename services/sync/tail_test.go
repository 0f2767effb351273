package sync

import (
	"context"
	"encoding/json"
	"slices"
	"testing"

	"hanse/pkg/bus"
	"hanse/pkg/matrix/event"
	"hanse/pkg/matrix/id"
	"hanse/pkg/matrix/roomversion"
	"hanse/pkg/matrix/signing"
	"hanse/pkg/roomdb"
	"hanse/pkg/token"
	logv1 "hanse/proto/log/v1"
)

// message returns a log entry with a message.
func message(t *testing.T, pos, room int64, body, redacts string) *logv1.Entry {
	t.Helper()
	key, err := signing.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	rules, _ := roomversion.Get("11")
	content, err := json.Marshal(map[string]string{"body": body})
	if err != nil {
		t.Fatal(err)
	}
	pdu, err := event.Build(event.Draft{RoomID: "!r:a", Type: "m.room.message", Sender: "@u:a", Content: content}, rules, "a", key)
	if err != nil {
		t.Fatal(err)
	}
	return &logv1.Entry{Pos: pos, RoomNid: room, RoomId: "!r:a", Body: &logv1.Entry_Event{Event: &logv1.Event{
		Nid: pos, EventId: string(pdu.ID), RoomVersion: "11", Json: pdu.JSON, Type: pdu.Type, Sender: "@u:a", Redacts: redacts,
	}}}
}

func newTestTail(t *testing.T, budget int64, head int64) (*tail, *[]int64) {
	t.Helper()
	var woken []int64
	tl := newTail(1, budget, map[uint32]int64{0: head}, func(_ uint32, rooms []int64) { woken = append(woken, rooms...) },
		func(roomdb.RoomKey, id.User, int64) {})
	return tl, &woken
}

func deliver(t *testing.T, tl *tail, entries ...*logv1.Entry) {
	t.Helper()
	if err := tl.handle(context.Background(), bus.Delivery{Part: 0, Entries: entries}); err != nil {
		t.Fatal(err)
	}
}

func positions(entries []*entry) []int64 {
	out := []int64{}
	for _, e := range entries {
		out = append(out, e.pos)
	}
	return out
}

func TestTailHoldsRoomsOfInterestOnly(t *testing.T) {
	tl, woken := newTestTail(t, 1<<20, 10)
	tl.watch(0, 1, "!r:a")
	deliver(t, tl, message(t, 11, 1, "a", ""), message(t, 12, 2, "b", ""), message(t, 13, 1, "c", ""))
	if got, ok := tl.since(0, 1, 10, 13); !ok || len(got) != 2 || got[0].pos != 11 || got[1].pos != 13 {
		t.Errorf("since(10) = %v, %v", positions(got), ok)
	}
	if got, ok := tl.since(0, 1, 11, 12); !ok || len(got) != 0 {
		t.Errorf("since(11, 12) = %v, %v; want nothing", positions(got), ok)
	}
	if _, ok := tl.since(0, 1, 9, 13); ok {
		t.Error("the tail claims to reach back before it began")
	}
	if _, ok := tl.since(0, 2, 10, 13); ok {
		t.Error("the tail claims to know a room of nobody's")
	}
	if !slices.Equal(*woken, []int64{1}) {
		t.Errorf("woken for %v", *woken)
	}
	if tl.head(0) != 13 {
		t.Errorf("head %d, want 13", tl.head(0))
	}
}

// A room that gets its first user later must not seem complete from before.
func TestTailBeginsWithTheFirstUser(t *testing.T) {
	tl, _ := newTestTail(t, 1<<20, 10)
	deliver(t, tl, message(t, 11, 1, "a", ""))
	tl.watch(0, 1, "!r:a")
	if _, known := tl.parts[0].changed(1, 10); known {
		t.Error("the tail claims to know what happened before the room was watched")
	}
	if changed, known := tl.parts[0].changed(1, 11); changed || !known {
		t.Errorf("changed(11) = %v, %v; want no change, known", changed, known)
	}
	tl.unwatch(0, 1)
	if _, known := tl.parts[0].changed(1, 11); known {
		t.Error("the tail knows a room after its last user is gone")
	}
}

func TestTailForgetsTheOldest(t *testing.T) {
	tl, _ := newTestTail(t, 5000, 0)
	tl.watch(0, 1, "!r:a")
	for pos := int64(1); pos <= 20; pos++ {
		deliver(t, tl, message(t, pos, 1, "hello", ""))
	}
	if tl.bytes() > 5000 {
		t.Errorf("%d bytes held, budget 5000", tl.bytes())
	}
	if _, ok := tl.since(0, 1, 0, 20); ok {
		t.Error("the tail claims to hold what it has forgotten")
	}
	if got, ok := tl.since(0, 1, 19, 20); !ok || len(got) != 1 {
		t.Errorf("the newest entry is gone: %v, %v", positions(got), ok)
	}
}

// Client-server API, section "Redactions": what was redacted is not shown any more.
func TestTailDropsWhatARedactionMayConcern(t *testing.T) {
	tl, _ := newTestTail(t, 1<<20, 0)
	tl.watch(0, 1, "!r:a")
	deliver(t, tl, message(t, 1, 1, "secret", ""), message(t, 2, 1, "", "$x"))
	if _, ok := tl.since(0, 1, 0, 2); ok {
		t.Error("an event that may have been redacted is still served from memory")
	}
	if got, ok := tl.since(0, 1, 1, 2); !ok || len(got) != 1 {
		t.Errorf("the redaction itself: %v, %v", positions(got), ok)
	}
}

func TestTailCallsGarbageUnprocessable(t *testing.T) {
	tl, _ := newTestTail(t, 1<<20, 0)
	tl.watch(0, 1, "!r:a")
	bad := message(t, 1, 1, "x", "")
	bad.GetEvent().Json = []byte("{")
	if err := tl.handle(context.Background(), bus.Delivery{Entries: []*logv1.Entry{bad}}); err == nil {
		t.Error("an entry that does not parse is no error")
	}
}

// A token never moves past what could not be told (law 7): the room is read from PostgreSQL from there on.
func TestTailSkipsGarbage(t *testing.T) {
	tl, _ := newTestTail(t, 1<<20, 0)
	tl.watch(0, 1, "!r:a")
	deliver(t, tl, message(t, 1, 1, "a", ""))
	tl.skip(0, 1, 2)
	deliver(t, tl, message(t, 3, 1, "c", ""))
	if _, ok := tl.since(0, 1, 0, 3); ok {
		t.Error("the tail claims to hold an entry that it skipped")
	}
	if got, ok := tl.since(0, 1, 2, 3); !ok || len(got) != 1 {
		t.Errorf("what follows: %v, %v", positions(got), ok)
	}
}

// Client-server API, section "Filtering".
func TestFilterTypes(t *testing.T) {
	for _, c := range []struct {
		types, not []string
		typ        string
		want       bool
	}{
		{nil, nil, "m.room.message", true},
		{[]string{}, nil, "m.room.message", false},
		{[]string{"m.room.*"}, nil, "m.room.message", true},
		{[]string{"m.*.message"}, nil, "m.room.message", true},
		{[]string{"*"}, []string{"m.room.message"}, "m.room.message", false},
		{[]string{"m.room.mess"}, nil, "m.room.message", false},
		{nil, []string{"*.message"}, "m.room.message", false},
		{nil, []string{"m.*x*"}, "m.room.message", true},
	} {
		f := eventFilter{Types: c.types, NotTypes: c.not}
		if got := f.wantsType(c.typ); got != c.want {
			t.Errorf("types %q, not %q: wants %s = %v", c.types, c.not, c.typ, got)
		}
	}
}

// Client-server API, module "Typing Notifications".
func TestTyping(t *testing.T) {
	eph := newEphemeral("w")
	woken := make(chan id.Room, 16)
	ty := newTyping(eph, func(r id.Room) { woken <- r })
	before := eph.now()
	ty.heard(&logv1.Typing{RoomId: "!r:a", UserId: "@u:a", Typing: true, TimeoutMs: 30_000})
	<-woken
	if tell, news := ty.changed("!r:a", before); !tell || !news || !ty.any(before) {
		t.Error("typing is no news")
	}
	if got := string(ty.event("!r:a")); got != `{"content":{"user_ids":["@u:a"]},"type":"m.typing"}` {
		t.Errorf("event %s", got)
	}
	now := eph.now()
	ty.heard(&logv1.Typing{RoomId: "!r:a", UserId: "@u:a", Typing: true, TimeoutMs: 30_000})
	if tell, _ := ty.changed("!r:a", now); tell {
		t.Error("saying so again is news")
	}
	other := now
	other.Worker++
	if tell, news := ty.changed("!r:a", other); !tell || news {
		t.Errorf("to another worker's token: tell %v, news %v; it may not have heard, but must not be woken by it", tell, news)
	}
	other.Counter = before.Counter - 1
	if _, news := ty.changed("!r:a", other); !news {
		t.Error("to an older token of another worker, somebody who types is no news")
	}
	if tell, _ := ty.changed("!r:a", token.Ephemeral{}); !tell {
		t.Error("an initial sync does not tell who types")
	}
	ty.heard(&logv1.Typing{RoomId: "!r:a", UserId: "@u:a", Typing: true, TimeoutMs: 1})
	room := <-woken
	if _, news := ty.changed("!r:a", now); room != "!r:a" || !news {
		t.Error("the end of the timeout is no news")
	}
	if tell, _ := ty.changed("!r:a", token.Ephemeral{}); tell {
		t.Error("an initial sync tells that nobody types")
	}
	if got := string(ty.event("!r:a")); got != `{"content":{"user_ids":[]},"type":"m.typing"}` {
		t.Errorf("event %s", got)
	}
}

// Client-server API, section "Filtering", event_fields.
func TestEventFields(t *testing.T) {
	f := filter{EventFields: []string{"type", "content.body", `content.m\.x.y`, "missing"}}
	got, err := f.prune([][]byte{[]byte(`{"content":{"body":"b","m.x":{"y":1,"z":2},"other":1},"sender":"@a:b","type":"t"}`)})
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"content":{"body":"b","m.x":{"y":1}},"type":"t"}`; string(got[0]) != want {
		t.Errorf("pruned to %s, want %s", got[0], want)
	}
}
