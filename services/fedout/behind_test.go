package fedout

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"

	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
	logv1 "hanse/proto/log/v1"
)

// roomsInOrder makes two rooms for a server, in log partitions that are caught up with in this order.
func (w *world) roomsInOrder(server string) (first, second *room) {
	first = w.room("r", server)
	for i := 0; second == nil || second.part <= first.part; i++ {
		if name := fmt.Sprint("r", i); partition.Of("!"+name+":"+ours) > first.part {
			second = w.room(name, server)
		}
	}
	return first, second
}

func (w *world) rowsOf(table string) (n int) {
	w.t.Helper()
	if err := w.shards.For(0).QueryRow(w.t.Context(), `SELECT count(*) FROM `+table).Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// A destination that has caught up with a log partition misses something of it again while it still reads another one,
// and catches up with that too, all between two flushes: no row is left of it, and nothing comes twice.
func TestBehindAgainBetweenFlushes(t *testing.T) {
	w := newWorld(t)
	a := w.remote()
	first, second := w.roomsInOrder(a.name)
	k := w.start("one")
	a.down()
	sent := first.send("missed")
	w.waitFor("not behind", func() bool { return behindCount(k) > 0 })
	held := second.send("missed too")
	w.waitFor("not stored", func() bool { return w.rowsOf("destination_behind") == 2 })

	p, _ := k.sender.follow.Get(partition.Of(a.name))
	p.rows.Lock() // none from here on
	hold, entered := make(chan struct{}), make(chan struct{})
	wait := func(_ *http.Request, body []byte) int {
		if strings.Contains(string(body), held[0]) {
			close(entered)
			<-hold
		}
		return 0
	}
	a.answer.Store(&wait)
	k.sender.revive(id.Server(a.name))
	<-entered // what was missed of the first one has arrived
	again := first.send("again")
	d := p.peek(id.Server(a.name))
	w.waitFor("not missed", func() bool { d.mu.Lock(); defer d.mu.Unlock(); _, ok := d.behind[first.part]; return ok })
	close(hold)
	a.gets(again...)
	w.waitFor("still behind", func() bool { return behindCount(k) == 0 })
	p.rows.Unlock()

	if err := p.Flush(t.Context(), make([]int64, w.shards.P())); err != nil {
		t.Fatal(err)
	}
	if n := w.rowsOf("destination_behind"); n != 0 {
		t.Errorf("%d rows are left", n)
	}
	once(t, a, slices.Concat(sent, held, again))
}

// tables are destination_behind and destination_room of one destination, and the cursors of its partition.
type tables struct {
	rows   map[uint32]int64
	rooms  map[roomKey]bool
	cursor map[uint32]int64
}

func (s *tables) apply(c *tableChanges) {
	for i, part := range c.rooms.parts {
		s.rooms[roomKey{uint32(part), c.rooms.numbers[i]}] = true
	}
	for i, part := range c.put.parts {
		s.rows[uint32(part)] = c.put.numbers[i]
	}
	for _, part := range c.drop.parts {
		delete(s.rows, uint32(part))
		maps.DeleteFunc(s.rooms, func(key roomKey, _ bool) bool { return key.part == uint32(part) })
	}
}

func (s *tables) read(d *dest) {
	var rows, rooms []behindRow
	for part, pos := range s.rows {
		rows = append(rows, behindRow{part, pos})
	}
	for key := range s.rooms {
		rooms = append(rooms, behindRow{key.part, key.nid})
	}
	d.adopt(rows, rooms, true)
}

// outage is a destination that falls behind and catches up at random, with what is stored of it.
type outage struct {
	t      *testing.T
	rng    *rand.Rand
	d      *dest
	stored tables
	head   map[uint32]int64
	// missing are the entries that did not arrive; the value is a room that the destination is not in, or 0.
	missing map[uint32]map[int64]int64
}

func newOutage(t *testing.T, seed uint64) *outage {
	o := &outage{t: t, rng: rand.New(rand.NewPCG(seed, 0)), head: map[uint32]int64{}, missing: map[uint32]map[int64]int64{},
		stored: tables{map[uint32]int64{}, map[roomKey]bool{}, map[uint32]int64{}}}
	o.takeover()
	return o
}

// takeover begins with what is stored: the last worker was killed.
func (o *outage) takeover() {
	o.d = &dest{f: new(sender), server: "a.test", gone: true} // sends nothing by itself
	o.stored.read(o.d)
	for part, entries := range o.missing {
		for _, pos := range slices.Sorted(maps.Keys(entries)) {
			if pos > o.stored.cursor[part] { // handed again
				o.miss(part, pos, entries[pos])
			}
		}
	}
}

func (o *outage) note(part uint32, pos, room int64) {
	if o.missing[part] == nil {
		o.missing[part] = map[int64]int64{}
	}
	o.missing[part][pos] = room
}

func (o *outage) miss(part uint32, pos, room int64) {
	o.note(part, pos, room)
	o.d.missed(&item{logPart: part, pos: pos, entry: &logv1.Entry{RoomNid: room}}, room == 0)
}

// step is what happens to the destination between two flushes or during one.
func (o *outage) step() {
	part := uint32(o.rng.IntN(2))
	pos, behind := o.d.behind[part]
	switch n := o.rng.IntN(5); {
	case len(o.d.inflight) > 0 && n < 2: // a transaction ends; what came meanwhile was too much for the queue
		if n == 0 {
			it := o.d.inflight[0]
			delete(o.missing[it.logPart], it.pos)
			o.d.delivered()
			return
		}
		o.d.fallBehind(o.d.inflight)
		o.d.inflight = nil
	case len(o.d.inflight) == 0 && n == 0 && !o.d.isBehind():
		o.head[part]++
		o.note(part, o.head[part], 0)
		it := &item{logPart: part, pos: o.head[part], entry: new(logv1.Entry)}
		o.d.f.retain(it)
		o.d.inflight = []*item{it}
	case len(o.d.inflight) == 0 && n == 1 && behind: // a transaction of what was missed arrives
		o.arrive(part, pos, pos+o.rng.Int64N(o.head[part]-pos+1))
	default:
		o.head[part]++
		o.miss(part, o.head[part], int64(o.rng.IntN(3)))
	}
}

// arrive lets what was missed between two positions arrive.
func (o *outage) arrive(part uint32, from, to int64) {
	for pos, room := range o.missing[part] {
		if pos <= from || pos > to {
			continue
		}
		if _, ok := o.d.extras[roomKey{part, room}]; room != 0 && !ok {
			o.t.Fatalf("room %d of partition %d is not known to have something at %d", room, part, pos)
		}
		delete(o.missing[part], pos)
	}
	o.d.caughtUp(part, to, to == o.head[part])
}

// flush stores what has changed while more happens. Its answer may be lost, whether it took place or not.
func (o *outage) flush() {
	heads := maps.Clone(o.head)
	var c tableChanges
	c.collect(o.d)
	for range o.rng.IntN(4) {
		o.step()
	}
	outcome := o.rng.IntN(4)
	if outcome != 0 {
		o.stored.apply(&c)
	}
	if outcome < 2 {
		return
	}
	c.done()
	for range o.rng.IntN(3) {
		o.step()
	}
	upTo := []int64{heads[0], heads[1]}
	o.d.pins(upTo)
	for part, pos := range upTo {
		o.stored.cursor[uint32(part)] = max(o.stored.cursor[uint32(part)], pos)
	}
}

// check holds what a kill at this moment would lose.
func (o *outage) check() {
	for part, entries := range o.missing {
		for pos, room := range entries {
			if pos > o.stored.cursor[part] {
				continue
			}
			if row, ok := o.stored.rows[part]; !ok || row >= pos {
				o.t.Fatalf("entry %d of partition %d is behind the cursor, and the row is %d (%v)", pos, part, row, ok)
			}
			if room != 0 && !o.stored.rooms[roomKey{part, room}] {
				o.t.Fatalf("entry %d of partition %d is behind the cursor, and room %d is not stored", pos, part, room)
			}
		}
	}
}

// Whatever the order of falling behind, catching up, flushes, lost answers of the database and take-overs: a cursor
// passes nothing that did not arrive and that no row covers, and when all has arrived no row is left.
func TestRowsOfOutages(t *testing.T) {
	for seed := range uint64(2000) {
		o := newOutage(t, seed)
		for range 60 {
			switch o.rng.IntN(10) {
			case 0:
				o.takeover()
			case 1:
				o.stored.read(o.d) // the regular look
			case 2, 3, 4:
				o.flush()
			default:
				o.step()
			}
			o.check()
		}
		o.d.fallBehind(o.d.inflight)
		o.d.inflight = nil
		for part, pos := range o.d.behind {
			o.arrive(part, pos, o.head[part])
		}
		for part, entries := range o.missing {
			if len(entries) > 0 {
				t.Fatalf("seed %d: entries %v of partition %d never arrive", seed, entries, part)
			}
		}
		var c tableChanges
		c.collect(o.d)
		o.stored.apply(&c)
		c.done()
		if len(o.stored.rows)+len(o.stored.rooms)+len(o.d.rows)+len(o.d.extras) > 0 {
			t.Fatalf("seed %d: left are rows %v and rooms %v; known are %v and %v", seed, o.stored.rows, o.stored.rooms, o.d.rows, o.d.extras)
		}
	}
}
