package sync

import (
	"context"
	"errors"
	"sync"
	"testing"

	"hanse/pkg/matrix/id"
	"hanse/pkg/pg/pgtest"
	"hanse/pkg/roomdb"
	"hanse/pkg/session"
	"hanse/pkg/state"
	"hanse/pkg/token"
	"hanse/pkg/userdb"
)

// Of many polls that open the same room at the same moment one works it out, and all get that.
func TestOpenedOnceForAll(t *testing.T) {
	shards := pgtest.New(t)
	storeMessages(t, shards, 5, 7)
	s := &Service{rooms: roomdb.Open(shards, state.NewStore(state.DefaultConfig(), nil), roomdb.DefaultConfig(), nil), openings: newOpenings(1<<20, nil)}
	s.tail, _ = newTestTail(t, 1<<20, 0)
	s.tail.watch(0, 1, "!r:a")
	deliver(t, s.tail, message(t, 5, 1, "one", ""), message(t, 7, 1, "two", ""))
	rooms := []*userdb.Membership{{Room: "!r:a", RoomPart: 0, RoomNID: 1, Membership: "join"}}
	key := roomdb.RoomKey{Part: 0, NID: 1}
	p := &poll{asker: asker{who: &session.Identity{User: id.User("@u:a")}}, filter: noFilter}
	open := func(ctx context.Context) (*opening, error) {
		found, err := s.openingsOf(ctx, p, &moment{joined: rooms, pos: []token.PartPos{{Part: 0, Pos: 7}}}, rooms)
		return found[key], err
	}

	// While another works the room out, it is waited for.
	mine, _ := s.underway.claim([]openingKey{p.openingKey(key)})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := open(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("a poll whose client has gone: %v", err)
	}
	theirs := &opening{pos: 7, last: 7, size: 1}
	var polls sync.WaitGroup
	for range 5 {
		polls.Go(func() {
			if o, err := open(t.Context()); err != nil || o != theirs {
				t.Errorf("%p, %v, want what the other has worked out, %p", o, err, theirs)
			}
		})
	}
	s.openings.Add(p.openingKey(key), theirs)
	s.underway.release(mine)
	polls.Wait()

	// If the other has failed, one takes its place.
	s.openings.Purge()
	mine, _ = s.underway.claim([]openingKey{p.openingKey(key)})
	var mu sync.Mutex
	got := make(map[*opening]bool)
	for range 20 {
		polls.Go(func() {
			o, err := open(t.Context())
			if err != nil || o.timeline.Len() != 2 {
				t.Errorf("%+v, %v", o, err)
			}
			mu.Lock()
			defer mu.Unlock()
			got[o] = true
		})
	}
	s.underway.release(mine)
	polls.Wait()
	if len(got) != 1 || len(s.underway.by) != 0 {
		t.Errorf("worked out %d times, %d under way in the end", len(got), len(s.underway.by))
	}
}

// No two polls wait for each other, in whatever order they open rooms, and no two work out the same room at the same time.
func TestClaims(t *testing.T) {
	var u underway[openingKey]
	var polls sync.WaitGroup
	var mu sync.Mutex
	worked := make(map[openingKey]int)
	keys := make([]openingKey, 50)
	for i := range keys {
		keys[i] = openingKey{room: roomdb.RoomKey{NID: int64(i)}}
	}
	for n := range 40 {
		polls.Go(func() {
			order := make([]openingKey, len(keys))
			for i := range keys {
				order[i] = keys[(7*i+n)%len(keys)]
			}
			mine, others := u.claim(order)
			if len(mine)+len(others) != len(keys) {
				t.Errorf("%d claimed, %d to wait for", len(mine), len(others))
			}
			mu.Lock()
			for k := range mine {
				if worked[k]++; worked[k] > 1 {
					t.Errorf("%v is worked out by two at a time", k)
				}
			}
			mu.Unlock()
			mu.Lock()
			for k := range mine {
				worked[k]--
			}
			mu.Unlock()
			u.release(mine)
			if err := waitAll(t.Context(), others); err != nil {
				t.Error(err)
			}
		})
	}
	polls.Wait()
	if len(u.by) != 0 {
		t.Errorf("%d under way in the end", len(u.by))
	}
}
