package room

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/event"
	"hanse/pkg/partition"
	"hanse/pkg/state"
	roomv1 "hanse/proto/room/v1"
)

// collect removes states of a room's partition, wherever that is served.
func (c *cluster) collect(roomID string) {
	c.mu.Lock()
	workers := slices.Clone(c.workers)
	c.mu.Unlock()
	for _, w := range workers {
		if p := w.leases[partition.Of(roomID)].Load(); p != nil {
			w.collect(p, 0)
		}
	}
}

// statesReadable demands that all states are stored to which anything refers.
func (c *cluster) statesReadable() {
	c.tb.Helper()
	ctx := context.Background()
	rows, err := c.db.For(0).Query(ctx, `SELECT part, sid FROM event WHERE sid <> 0 UNION SELECT part, sid FROM room WHERE sid <> 0
		UNION SELECT part, current_before FROM log WHERE current_before <> 0 UNION SELECT part, current_after FROM log WHERE current_after <> 0`)
	if err != nil {
		c.tb.Fatal(err)
	}
	refs, err := pgx.CollectRows(rows, pgx.RowToStructByPos[state.Ref])
	if err != nil {
		c.tb.Fatal(err)
	}
	for _, ref := range refs { // one by one, without a cache: no chain may rest on what another has read
		store := state.NewStore(state.DefaultConfig(), nil)
		if _, err := store.Load(ctx, c.db.For(ref.Part), ref.Part, ref.SID); err != nil {
			c.tb.Fatal(err)
		}
		if _, err := state.NewWriter(nil).Open(ctx, c.db.For(ref.Part), ref.Part, ref.SID); err != nil {
			c.tb.Fatal(err)
		}
	}
}

// The states after events of a fork upon which nobody built are removed while the room is in use, by its owner and by the
// next one; whoever builds upon such an event later finds the state after it.
func TestStatesAreCollected(t *testing.T) {
	f := newBranching(t, "11")
	key, other := "", ""
	var ends []*event.PDU
	grow := func() {
		t.Helper()
		for range 60 {
			key = fmt.Sprint(len(ends))
			e := f.event(bert, "org.example.state", &key, `{}`)
			f.a.take(f.room, two, e)
			ends = append(ends, e)
		}
	}
	shrinks := func() {
		t.Helper()
		before := f.a.rows("state_delta")
		f.a.collect(f.room)
		after := f.a.rows("state_delta")
		if t.Logf("%d states, then %d", before, after); after > before-10 {
			t.Errorf("%d states became %d", before, after)
		}
		f.a.statesReadable()
	}
	grow()
	shrinks()
	for i := 3; i < len(ends); i += 10 { // some of which are at hand, most are not
		other = fmt.Sprint(i)
		f.a.take(f.room, two, f.event(bert, "org.example.other", &other, `{}`, ends[i]), f.message(birgt, ends[i]))
	}
	f.a.checkResolved(f.room)
	if removed := counter(f.a.workers[0].metrics.collected); removed < 10 {
		t.Errorf("%v states were counted", removed)
	}
	f.a.replace()
	f.a.settle()
	grow()
	shrinks()
	f.a.take(f.room, two, f.message(bert, ends[7], ends[77]))
	f.a.checkResolved(f.room)
	must[*roomv1.SendResponse](t)(f.a.say(f.room, anna, "goes on"))
	f.a.auditSplit(t, f.room)
	f.a.statesReadable()
}

// Rooms that are cut apart and healed, by owners that come and go, do not notice that states are removed all the time.
func TestStatesAreCollectedDuringSplits(t *testing.T) {
	n := newNetwork()
	sides := []*side{
		{c: newFedCluster(t, n, one, 1), name: one, users: []string{anna, "@adam:one.test"}},
		{c: newFedCluster(t, n, two, 2), name: two, users: []string{bert, birgt}},
	}
	rng := rand.New(rand.NewPCG(8, 15))
	roomID := begin(t, sides, "11")
	over := make(chan struct{})
	var collecting sync.WaitGroup
	for _, s := range sides {
		collecting.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
					s.c.collect(roomID)
				}
			}
		})
	}
	for round := range 8 {
		for _, s := range sides {
			s.act(t, rng, roomID, 3+rng.IntN(8))
		}
		exchange(t, rng, sides, roomID)
		for _, s := range sides {
			s.c.checkResolved(roomID)
		}
		if round%3 == 1 {
			sides[1].c.replace()
			sides[1].c.settle()
		}
	}
	close(over)
	collecting.Wait()
	for _, s := range sides {
		s.c.auditSplit(t, roomID)
		s.c.statesReadable()
	}
}

// What an attempt to make a room whole leaves that did not come to its end is removed; what one that is under way has made
// is not.
func TestStatesOfAttemptsAreCollected(t *testing.T) {
	var b *cluster
	var once sync.Once
	var first int64 // the whole state of the first attempt
	room := make(chan string, 1)
	roots := func(where string, args ...any) (n int64) {
		t.Helper()
		sql := `SELECT coalesce(max(sid), 0) FROM state_delta WHERE parent = 0 AND ` + where
		if err := b.db.For(0).QueryRow(context.Background(), sql, args...).Scan(&n); err != nil {
			t.Error(err)
		}
		return n
	}
	_, a, b := newPartialClusters(t, 1, func(step string) {
		if step != "redo_chunk" {
			return
		}
		once.Do(func() {
			roomID := <-room
			first = roots("true")
			b.collect(roomID)
			if roots("sid = $1", first) == 0 {
				t.Error("a state was removed upon which events are being judged")
			}
			// Somebody else owns the partition for a moment: the attempt fails.
			if _, err := partition.NewRows(b.db).Acquire(context.Background(), partition.Of(roomID), "nobody", "nowhere"); err != nil {
				t.Error(err)
			}
		})
	})
	ok := must[*roomv1.SendResponse](t)
	roomID := a.create("11", anna, "public")
	populate(t, a, roomID, one, 30)
	ok(b.join(roomID, bert, string(one)))
	room <- roomID
	b.whole(roomID)
	b.filled()
	if roots("sid = $1", first) == 0 || roots("sid > $1", first) == 0 {
		t.Fatal("there was one attempt only")
	}
	waitFor(t, func() bool { // the second attempt may not have ended yet, though all of it is stored
		b.collect(roomID)
		return roots("sid = $1", first) == 0
	})
	if roots("sid > $1", first) == 0 {
		t.Error("the state of the second attempt is not left")
	}
	b.statesReadable()
	carry(b, a, two, roomID, 0)
	auditPartial(t, a, b, roomID)
	ok(b.say(roomID, bert, "goes on"))
}

// Partitions are looked at one after the other: an interval of nothing would be a loop that never rests.
func TestCollectEvery(t *testing.T) {
	for every, ok := range map[time.Duration]bool{0: true, time.Minute: true, time.Second: false, -time.Hour: false} {
		cfg := Defaults()
		cfg.CollectEvery = every
		if err := cfg.Validate(); (err == nil) != ok {
			t.Errorf("%s: %v", every, err)
		}
	}
}
