package partition

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Of is stored in every database: it must not change.
func TestOfIsFixed(t *testing.T) {
	for s, want := range map[string]uint32{
		"": uint32(0xcbf29ce484222325 % 64), "a": uint32(0xaf63dc4c8601ec8c % 64), "foobar": uint32(0x85944171f73967e8 % 64),
	} {
		if got := Of(s); got != want {
			t.Errorf("Of(%q) = %d, want %d", s, got, want)
		}
	}
	if err := Fix(0); err == nil {
		t.Error("no partitions")
	}
}

// One worker more or less moves only the partitions that it gets or had.
func TestRendezvousMovesLittle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z0-9-]{1,12}`), 2, 12, rapid.ID[string]).Draw(t, "ids")
		for part := range uint32(64) {
			all := ids[rendezvous(part, ids)]
			fewer := ids[1:]
			if got := fewer[rendezvous(part, fewer)]; all != ids[0] && got != all {
				t.Fatalf("partition %d moved from %s to %s when %s left", part, all, got, ids[0])
			}
		}
	})
	if rendezvous(1, nil) != -1 {
		t.Error("an owner out of nobody")
	}
	share := make(map[int]int)
	for part := range uint32(4096) {
		share[rendezvous(part, []string{"w1", "w2", "w3", "w4"})]++
	}
	for i, n := range share {
		if n < 800 || n > 1250 {
			t.Errorf("worker %d has %d of 4096", i, n)
		}
	}
}

func TestView(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }
	me, other := Member{ID: "me", Started: 1, Addr: "a:1"}, Member{ID: "other", Addr: "b:1", State: Ready}
	fresh := func() *view {
		v := newView(6*time.Second, 4*time.Second)
		v.self(me)
		v.hear(me, at(0), true)
		v.hear(other, at(0), false)
		return &v
	}
	alive := func(v *view) string {
		var ids []string
		for _, m := range v.alive() {
			ids = append(ids, m.ID)
		}
		return fmt.Sprint(ids)
	}
	t.Run("silence while our own heartbeats come through", func(t *testing.T) {
		v := fresh()
		for s := 1.5; s <= 6; s += 1.5 {
			v.hear(me, at(s), true)
		}
		if alive(v) != "[me other]" {
			t.Fatal("dead too early")
		}
		if !v.hear(me, at(7.5), true) || alive(v) != "[me]" {
			t.Fatal("not missed")
		}
	})
	t.Run("nats away", func(t *testing.T) {
		v := fresh()
		v.hear(me, at(60), true) // the first heartbeat after a minute without NATS
		if alive(v) != "[me other]" {
			t.Fatal("dead because NATS was away")
		}
		for s := 61.5; s < 68; s += 1.5 {
			v.hear(me, at(s), true)
		}
		if alive(v) != "[me]" {
			t.Fatal("alive although it did not come back")
		}
	})
	t.Run("suspect until heard of", func(t *testing.T) {
		v := fresh()
		if !v.suspect("other") || alive(v) != "[me]" || v.hasAddr("b:1") {
			t.Fatal("suspect is still there")
		}
		if v.hear(other, at(0), false) {
			t.Fatal("an old heartbeat clears it")
		}
		if !v.hear(other, at(1), false) || alive(v) != "[me other]" {
			t.Fatal("a new heartbeat does not clear it")
		}
	})
	t.Run("leaves and comes back", func(t *testing.T) {
		v := fresh()
		if v.remove("other", at(-1)) {
			t.Fatal("removed by what is older than its heartbeat")
		}
		if !v.remove("other", at(1)) || alive(v) != "[me]" {
			t.Fatal("still there")
		}
		if v.hear(other, at(2), false); alive(v) != "[me other]" {
			t.Fatal("not back")
		}
	})
	t.Run("a double of ours is not a member", func(t *testing.T) {
		v := fresh()
		if v.hear(Member{ID: "me", Started: 2, Addr: "c:1"}, at(1), false) || v.hasAddr("c:1") {
			t.Fatal("taken into the view")
		}
	})
}
