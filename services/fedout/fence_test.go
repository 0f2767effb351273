package fedout

import (
	"errors"
	"sync/atomic"
	"testing"

	"hanse/pkg/follow"
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
	_, ok := k.sender.follow.Get(part)
	return ok
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
	p, _ := one.sender.follow.Get(s.part)
	p.rows.Lock() // none before it has caught up
	a.up()
	one.sender.revive(id.Server(a.name))
	a.gets(sent...)
	w.waitFor("still behind", func() bool { return behindCount(one) == 0 })
	s.armed.Store(true)
	p.rows.Unlock()
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
	if !p.Lost() {
		t.Error("given up for another reason")
	}
	if now, _ := w.stored(s.part, r.part); now != behind {
		t.Errorf("behind %d, and after the late flush %d", behind, now)
	}
	one.End()
	two.Kill()
	a.up()
	w.start("three")
	a.gets(missed...)
}

// A worker whose partition somebody else has taken stores nothing any more: no row, no room.
func TestFence(t *testing.T) {
	w := newWorld(t)
	one := w.start("one").sender
	const part = 7
	w.waitFor("not taken", func() bool { return len(one.follow.All()) == int(w.shards.P()) })
	p, _ := one.follow.Get(part)
	fallBehind := func(pos, room int64) {
		d := p.dest("a.test")
		d.mu.Lock()
		defer d.mu.Unlock()
		d.gone = true // sends nothing
		d.behind = nil
		d.lagAt(3, pos)
		d.addExtra(roomKey{3, room}, false)
	}
	upTo := make([]int64, w.shards.P())
	fallBehind(5, 11)
	if err := p.Flush(t.Context(), upTo); err != nil {
		t.Fatal(err)
	}
	if _, err := w.shards.For(part).Exec(t.Context(), `UPDATE fed_owner SET epoch = epoch + 1 WHERE part = $1`, part); err != nil {
		t.Fatal(err)
	}
	fallBehind(100, 12)
	if err := p.Flush(t.Context(), upTo); !errors.Is(err, follow.ErrLost) || !p.Lost() {
		t.Fatalf("a former owner stored: %v", err)
	}
	if behind, _ := w.stored(part, 3); behind != 5 {
		t.Errorf("stored is %d", behind)
	}
	if n := w.rowsOf("destination_room"); n != 1 {
		t.Errorf("%d rooms", n)
	}
}
