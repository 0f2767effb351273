package app_test

import (
	"fmt"
	"testing"
	"time"

	"hanse/pkg/growth"
	"hanse/pkg/pg/pgtest"
	"hanse/services/app"
)

// What clients do costs the same however many rooms and members there are, once these are known: docs/performance.md, "Nothing
// grows with the members" and "Where the time goes".
func TestCostsNothing(t *testing.T) {
	counter := new(pgtest.Counter)
	w := newWorldOf(t, [][]string{nil}, func(cfg *app.Config) { cfg.PostgreSQL.Tracer = counter })
	per := func(times int, op func(i int)) growth.Cost {
		op(-1) // what is read once
		statements, rows := counter.Each(times, op)
		return growth.Cost{"statements": statements, "rows": rows}
	}
	growth.Flat(t, "a first sync of rooms that others have spoken in", 5, 50, 2, func(rooms int) growth.Cost {
		p, other := w.register(t, "reader"), w.register(t, "talker")
		in := make([]string, rooms)
		for n := range in {
			in[n] = other.create(object{"preset": "public_chat"})
			p.join(in[n])
		}
		c := p.client("")
		c.poll(0)
		return per(5, func(i int) {
			// The rooms stay known, whoever speaks in them: only what was said since is new.
			said := other.say(in[(i+1)%rooms], "hello")
			p.everywhere(in[(i+1)%rooms], said)
			c.since = ""
			c.poll(0)
		})
	})

	members := make([]*person, 60)
	for n := range members {
		members[n] = w.register(t, "member")
	}
	rooms := map[int]string{}
	for _, n := range []int{5, len(members)} {
		rooms[n] = members[0].create(object{"preset": "public_chat"})
		for _, p := range members[1:n] {
			p.join(rooms[n])
		}
	}
	c := members[1].client("")
	c.poll(0)
	growth.Flat(t, "a message and its delivery to who polls", 5, len(members), 2, func(n int) growth.Cost {
		return per(10, func(i int) { c.sees(rooms[n], members[0].say(rooms[n], fmt.Sprint(i))) })
	})
	growth.Flat(t, "typing", 5, len(members), 2, func(n int) growth.Cost {
		return per(10, func(i int) {
			members[0].do("PUT", in(rooms[n], "typing", members[0].id), object{"typing": i%2 == 1, "timeout": 30_000}).ok()
		})
	})
	growth.Flat(t, "a receipt", 5, len(members), 2, func(n int) growth.Cost {
		var said []string
		for i := range 11 {
			said = append(said, members[0].say(rooms[n], fmt.Sprint(i)))
		}
		return per(10, func(i int) { members[0].do("POST", in(rooms[n], "receipt", "m.read", said[i+1]), object{}).ok() })
	})
	growth.Flat(t, "a page of history", 5, len(members), 2, func(n int) growth.Cost {
		return per(5, func(int) { members[0].do("GET", in(rooms[n], "messages")+"?dir=b&limit=3", nil).ok() })
	})
	growth.Flat(t, "an incremental sync without news", 5, 50, 2, func(rooms int) growth.Cost {
		p := w.register(t, "quiet")
		for range rooms {
			p.create(object{"preset": "public_chat"})
		}
		c := p.client("")
		c.poll(0)
		return per(10, func(int) { c.poll(time.Millisecond) })
	})
}
