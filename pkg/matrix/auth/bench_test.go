package auth_test

import (
	"fmt"
	"testing"

	"hanse/pkg/matrix/auth"
	"hanse/pkg/matrix/id"
)

// benchRoom is a room with many members and many levels.
func benchRoom(t testing.TB, version string) *room {
	r := newRoom(t, version)
	users := content{string(alice): 50}
	for i := range 1000 {
		u := id.User(fmt.Sprintf("@u%d:s%d", i, i%50))
		r.member(u, "join")
		users[string(u)] = i % 50
	}
	r.powerLevels(content{"users": users, "events": content{"m.room.message": 1}})
	return r
}

func BenchmarkCheckMessage(b *testing.B) {
	r := benchRoom(b, "12")
	ev := r.message(alice)
	b.ReportAllocs()
	for b.Loop() {
		if err := auth.Check(ev, r.state, auth.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCheckJoin(b *testing.B) {
	r := benchRoom(b, "12")
	ev := r.memberEvent(carol, carol, "join")
	b.ReportAllocs()
	for b.Loop() {
		if err := auth.Check(ev, r.state, auth.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCheckJoinCold(b *testing.B) {
	r := benchRoom(b, "12")
	b.ReportAllocs()
	for b.Loop() {
		ev := r.memberEvent(carol, carol, "join")
		if err := auth.Check(ev, r.state, auth.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCheckPowerLevels(b *testing.B) {
	r := benchRoom(b, "12")
	old := r.state.StateEvent("m.room.power_levels", "")
	ev := r.stateEvent(creator, "m.room.power_levels", "", string(old.Content))
	b.ReportAllocs()
	for b.Loop() {
		if err := auth.Check(ev, r.state, auth.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParsePowerLevels(b *testing.B) {
	r := benchRoom(b, "12")
	raw := r.state.StateEvent("m.room.power_levels", "").Content
	b.ReportAllocs()
	for b.Loop() {
		if _, err := auth.ParsePowerLevels(raw, r.rules); err != nil {
			b.Fatal(err)
		}
	}
}

// A check of a message against warm state must not allocate: it is done for
// each event, several times.
func TestCheckMessageDoesNotAllocate(t *testing.T) {
	r := benchRoom(t, "12")
	ev := r.message(alice)
	if n := testing.AllocsPerRun(100, func() { _ = auth.Check(ev, r.state, auth.Options{}) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
