package fedout

import (
	"errors"
	"sync/atomic"
	"testing"

	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
)

// standStill makes the next transaction that a worker stores of a partition's destinations, once it is armed, wait.
type standStill struct {
	part           uint32
	armed          atomic.Bool
	stuck, release chan struct{}
}

func (s *standStill) storing(part uint32) {
	if part == s.part && s.armed.CompareAndSwap(true, false) {
		close(s.stuck)
		<-s.release
	}
}

func (k *worker) has(part uint32) bool {
	k.sender.mu.RLock()
	defer k.sender.mu.RUnlock()
	return k.sender.parts[part] != nil
}

// stored is where the only destination that is behind stands, and how far the log was handed to those that keep up.
func (w *world) stored(part, logPart uint32) (behind, cursor int64) {
	w.t.Helper()
	err := w.shards.For(part).QueryRow(w.t.Context(), `SELECT coalesce((SELECT pos FROM destination_behind WHERE part = $1 AND log_part = $2), -1),
		coalesce((SELECT pos FROM fed_cursor WHERE part = $1 AND log_part = $2), -1)`, int32(part), int32(logPart)).Scan(&behind, &cursor)
	if err != nil {
		w.t.Fatal(err)
	}
	return behind, cursor
}

// A worker stands still just before it deletes the row of a destination that has caught up. Another one takes the
// destination, which falls behind again. The late delete has no effect: when that one is killed too, a third one knows what
// was missed.
func TestLateFlushOfFormerOwner(t *testing.T) {
	w := newWorld(t)
	a := w.remote()
	r := w.room("r", a.name)
	s := &standStill{part: partition.Of(a.name), stuck: make(chan struct{}), release: make(chan struct{})}
	w.faults.storing = s.storing
	one := w.start("one")
	a.down()
	sent := r.send("missed")
	w.waitFor("not stored", func() bool { behind, _ := w.stored(s.part, r.part); return behind >= 0 })
	p := one.sender.parts[s.part]
	p.flushing.Lock() // none before it has caught up
	a.up()
	one.sender.revive(id.Server(a.name))
	a.gets(sent...)
	w.waitFor("still behind", func() bool { return behindCount(one) == 0 })
	s.armed.Store(true)
	p.flushing.Unlock()
	<-s.stuck
	one.bus.Conn().Close() // nobody sees it any more

	w.faults = faults{}
	two := w.start("two")
	w.waitFor("not taken", func() bool { return two.has(s.part) })
	w.waitFor("not deleted", func() bool { behind, _ := w.stored(s.part, r.part); return behind < 0 })
	a.down()
	missed := r.send("missed again")
	var behind, cursor int64
	w.waitFor("not stored", func() bool {
		behind, cursor = w.stored(s.part, r.part)
		return behind >= 0 && cursor > behind
	})
	close(s.release)
	w.waitFor("still its", func() bool { return !one.has(s.part) })
	if !p.lost.Load() {
		t.Error("given up for another reason")
	}
	if now, _ := w.stored(s.part, r.part); now != behind {
		t.Errorf("behind %d, and after the late flush %d", behind, now)
	}
	one.stop()
	two.kill()
	a.up()
	w.start("three")
	a.gets(missed...)
}

// Of two workers that both take a partition only the last one stores anything: rows, rooms or cursors.
func TestFence(t *testing.T) {
	w := newWorld(t)
	one, two := w.start("one").sender, w.start("two").sender
	w.waitFor("not shared out", func() bool {
		n, m := len(one.owned()), len(two.owned())
		return n > 0 && m > 0 && n+m == int(w.shards.P())
	})
	const part = 7
	former, err := one.load(t.Context(), part)
	if err != nil {
		t.Fatal(err)
	}
	next, err := two.load(t.Context(), part)
	if err != nil {
		t.Fatal(err)
	}
	fallBehind := func(p *destPart, pos int64) {
		d := p.dest("a.test")
		d.mu.Lock()
		defer d.mu.Unlock()
		d.gone = true // sends nothing
		d.lagAt(3, pos)
		d.addExtra(roomKey{3, 11}, false)
		p.handed[3].Store(pos + 10)
	}
	fallBehind(next, 5)
	if err := next.flush(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	fallBehind(former, 100)
	if err := former.flush(t.Context(), true); !errors.Is(err, errLost) || !former.lost.Load() {
		t.Fatalf("a former owner stored: %v", err)
	}
	upTo, wanted := make([]int64, w.shards.P()), make([]bool, w.shards.P())
	upTo[3], wanted[3] = 110, true
	if err := former.putCursors(t.Context(), upTo, wanted); !errors.Is(err, errLost) {
		t.Fatalf("a former owner stored cursors: %v", err)
	}
	if behind, cursor := w.stored(part, 3); behind != 5 || cursor != 15 {
		t.Errorf("stored are %d and %d", behind, cursor)
	}
	if n := w.rowsOf("destination_room"); n != 1 {
		t.Errorf("%d rooms", n)
	}
}
