package room

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// What is stored by the thousand waits for what somebody waits for, a little of it at a time; the changes of a room stay
// in their order, and none is lost.
func TestLaneOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &Service{cfg: Defaults(), metrics: newMetrics(nil)}
		s.cfg.BatchRows = rapid.IntRange(1, 50).Draw(t, "batch rows")
		l := newLane(s, nil)
		rooms := []*room{{}, {}, {}}
		var put, taken []*change
		take := func() {
			waiting := slices.Clone(l.queue)
			batch := l.take()
			bulky := 0
			for i, c := range batch {
				taken = append(taken, c)
				if slices.Contains(waiting, c) {
					if bulky > 0 {
						t.Fatalf("change %d of a batch comes after bulk", i)
					}
					continue
				}
				bulky += c.weight()
			}
			if len(batch) > 0 && bulky > bulkRows && !(bulky == batch[len(batch)-1].weight()) {
				t.Fatalf("%d rows of bulk in one batch", bulky)
			}
			if len(waiting) > 0 && batch[0] != waiting[0] {
				t.Fatal("who came first is not the first")
			}
		}
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			if rapid.IntRange(0, 3).Draw(t, "take") == 0 {
				take()
				continue
			}
			c := &change{room: rapid.SampledFrom(rooms).Draw(t, "room")}
			c.bulk = rapid.Bool().Draw(t, "bulk")
			c.events = make([]*newEvent, rapid.IntRange(0, 120).Draw(t, "events"))
			if err := l.put(c); err != nil {
				t.Fatal(err)
			}
			put = append(put, c)
		}
		for len(l.queue)+len(l.bulk) > 0 {
			n := len(taken)
			if take(); len(taken) == n {
				t.Fatal("nothing is taken")
			}
		}
		for _, r := range rooms {
			of := func(all []*change) []*change {
				return slices.DeleteFunc(slices.Clone(all), func(c *change) bool { return c.room != r })
			}
			if !slices.Equal(of(put), of(taken)) {
				t.Fatal("changes of a room are out of order")
			}
		}
		if len(put) != len(taken) || l.heavy != 0 || l.bulky != 0 || len(l.bulkOf) != 0 {
			t.Fatalf("%d of %d taken; %d and %d rows, %d rooms left", len(taken), len(put), l.heavy, l.bulky, len(l.bulkOf))
		}
	})
}
