package sync

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"hanse/pkg/matrix/id"
	"hanse/pkg/roomdb"
	"hanse/pkg/userdb"
	logv1 "hanse/proto/log/v1"
)

// An order that rooms are moved in is the same as one that is sorted.
func TestOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := &order{mu: new(sync.RWMutex), at: make(map[id.Room]*place)}
		model := make(map[id.Room]*place)
		for range rapid.IntRange(1, 30).Draw(t, "moves") {
			moved := make(map[id.Room]*place)
			for range rapid.IntRange(1, 2*manyMoved).Draw(t, "rooms") {
				room := id.Room(fmt.Sprint("!", rapid.IntRange(0, 150).Draw(t, "room")))
				if rapid.IntRange(0, 5).Draw(t, "leave") == 0 {
					moved[room] = nil
					continue
				}
				stamp := rapid.Int64Range(0, 40).Draw(t, "stamp")
				moved[room] = &place{&userdb.Membership{Room: room}, activity{stamp, stamp}}
			}
			before, copied := o.rooms, slices.Clone(o.rooms)
			o.move(moved)
			if !slices.Equal(before, copied) {
				t.Fatal("a list that a request may hold has changed")
			}
			for room, p := range moved {
				if p == nil {
					delete(model, room)
				} else {
					model[room] = p
				}
			}
			if want := slices.SortedFunc(maps.Values(model), byActivity); !slices.Equal(o.rooms, want) || !maps.Equal(o.at, model) {
				t.Fatalf("%d rooms, want %d", len(o.rooms), len(want))
			}
		}
	})
}

// What the tail says at once of the rooms of a partition is what it says of each: whatever is watched, delivered, redacted and
// forgotten meanwhile.
func TestChangedAtOnce(t *testing.T) {
	for _, budget := range []int64{1 << 20, 3000} {
		tl, _ := newTestTail(t, budget, 0)
		for nid := range int64(6) {
			tl.watch(0, nid, id.Room(fmt.Sprint("!", nid)))
		}
		quick := 0
		for pos := int64(1); pos < 400; pos++ {
			redacts := ""
			if pos%17 == 0 {
				redacts = "$x"
			}
			switch room := rand.Int64N(8); {
			case pos%23 == 0:
				tl.skip(0, room, pos)
			case pos%5 == 0:
				deliver(t, tl, &logv1.Entry{Pos: pos, RoomNid: room, RoomId: "!r:a", Body: &logv1.Entry_DeviceChange{DeviceChange: &logv1.DeviceChange{UserId: "@u:a"}}})
			default:
				deliver(t, tl, message(t, pos, room, "x", redacts))
			}
			after := pos - rand.Int64N(12)
			changed := make(map[int64]bool)
			if !tl.changedIn(0, after, 10, func(nid int64) { changed[nid] = true }) {
				continue
			}
			quick++
			for nid := range int64(6) {
				is, known := tl.parts[0].changed(nid, after)
				if known && is != changed[nid] {
					t.Fatalf("room %d behind %d at %d: %t, %t", nid, after, pos, is, changed[nid])
				}
			}
		}
		if quick < 50 {
			t.Errorf("only %d answers at once", quick)
		}
	}
}

// A room's activity is the newest that the log or PostgreSQL knows of.
func TestStamps(t *testing.T) {
	tl, _ := newTestTail(t, 1<<20, 0)
	key := roomdb.RoomKey{NID: 1}
	tl.watch(0, 1, "!r:a")
	if _, known := tl.stamp(key); known {
		t.Error("nobody has said when")
	}
	e := message(t, 1, 1, "x", "")
	e.GetEvent().ActiveTs = 50
	deliver(t, tl, e)
	if got := tl.setStamp(key, activity{40, 30}); got != (activity{50, 50}) {
		t.Errorf("the log was faster: %v", got)
	}
	name := message(t, 2, 1, "x", "")
	name.GetEvent().ActiveTs, name.GetEvent().Type = 60, "m.room.name"
	deliver(t, tl, name)
	if got, known := tl.stamp(key); !known || got != (activity{60, 50}) {
		t.Errorf("a name is activity, but no news: %v, %t", got, known)
	}
}

// A worker that begins to watch a room lacks what happened there before, also if another worker has told the user of the room: until
// the tail has all of the partition's rooms, PostgreSQL is asked (client-server API, "Syncing": nothing is left out).
func TestIndexOfAnotherWorkersJoin(t *testing.T) {
	head := int64(5)
	heads := func(uint32) int64 { return head }
	room := func(nid int64, part uint32) *userdb.Membership {
		return &userdb.Membership{Room: id.Room(fmt.Sprint("!", nid)), RoomPart: part, RoomNID: nid, Membership: "join"}
	}
	u := &user{rooms: map[id.Room]*userdb.Membership{"!1": room(1, 0), "!3": room(3, 7)}}
	u.index(heads)
	head = 20
	u.rooms = map[id.Room]*userdb.Membership{"!1": room(1, 0), "!2": room(2, 0), "!3": room(3, 7)}
	u.index(heads)
	if u.parts[0].from != 20 || u.parts[1].from != 5 {
		t.Errorf("held from %d and %d on, want 20, as a room came, and 5", u.parts[0].from, u.parts[1].from)
	}
	head = 30
	u.index(heads)
	if u.parts[0].from != 20 {
		t.Errorf("held from %d on, want 20 still", u.parts[0].from)
	}
}
