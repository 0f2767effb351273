//go:build interop

package interop

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"hanse/pkg/matrix/id"
	"hanse/tools/hugeroom"
	"hanse/tools/hugeroom/peer"
)

// A third server's room forks into many ends, on both servers and in another order on each. Hanse merges them by dummy events
// (org.matrix.dummy_event), which Synapse takes; then the room forks on Synapse alone, somebody there merges the ends with such an
// event, as Synapse does every few minutes, and Hanse fetches all that is before it.
func TestManyEnds(t *testing.T) {
	const width, depth = 16, 2
	ctx := t.Context()
	l, err := peer.Listen(ctx, authority, 0)
	if err != nil {
		t.Fatal(err)
	}
	size := hugeroom.Scaled(120)
	size.Version, size.Servers, size.Names = "11", 5, hugeroom.LoopbackName(l.Port())
	room, err := hugeroom.New(size)
	if err != nil {
		t.Fatal(err)
	}
	p := peer.New(l, room, peer.Config{Roots: authority.Pool(), OmitMembers: true})
	go func() { _ = p.Serve(ctx) }() // ends with the test
	h, s := sides()
	alice, bob := newPerson(t, h), newPerson(t, s)
	roomID := string(room.ID)
	defer func() {
		if t.Failed() {
			t.Log((&fork{room: roomID}).dump(context.Background()))
		}
	}()
	for _, one := range []*person{alice, bob} {
		_, err := one.Join(ctx, roomID, string(p.Resident()))
		one.must(t, "join", err)
		said := one.say(t, roomID, "hello")
		eventually(t, "the room's servers hear "+one.id, func() error { return booked(p, said) })
	}
	talk(t, roomID, alice, bob) // the peer tells nobody of a join

	forks := func() []int {
		var numbers []int
		err := p.Room(func(r *hugeroom.Room) error {
			branches, err := r.Forks(r.Ends()[len(r.Ends())-1], width, depth, hugeroom.Calm)
			for i := range depth {
				for _, b := range branches {
					numbers = append(numbers, b[i])
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return numbers
	}
	push := func(to server, numbers []int) []string {
		got, err := p.Push(ctx, peer.Pushing{To: id.Server(to.serverName), Origin: p.Resident()}, numbers...)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Refused) > 0 {
			t.Errorf("%s refuses %v", to.name, got.Refused)
		}
		var ids []string
		for e := range got.Taken {
			ids = append(ids, string(e))
		}
		return ids
	}

	numbers := forks()
	events := push(h, numbers)
	reversed := slices.Clone(numbers)
	slices.Reverse(reversed) // what comes first lacks what is before it
	push(s, reversed)
	eventually(t, "Hanse's dummy events merge the ends", func() error { return fewEnds(t, h, roomID) })
	talk(t, roomID, alice, bob)
	takenByBoth(t, events)
	takenByBoth(t, dummies(t, roomID))
	eventually(t, "Synapse's ends are few by Hanse's events", func() error { return fewEnds(t, s, roomID) })

	events = push(s, forks())
	eventually(t, "Synapse has worked on the forks", func() error { return judgedOn(t, s, events) })
	if err := fewEnds(t, s, roomID); err == nil {
		t.Error("Synapse merged the ends at once: nothing is left for the test")
	}
	dummy, err := bob.Send(ctx, roomID, "org.matrix.dummy_event", "merge", struct{}{})
	bob.must(t, "merge", err)
	eventually(t, "Hanse takes the dummy event", func() error {
		got, err := verdictsOn(ctx, h, []string{dummy})
		if err == nil && got[dummy] != accepted {
			err = fmt.Errorf("it is %q", got[dummy])
		}
		return err
	})
	talk(t, roomID, alice, bob)
	takenByBoth(t, events)
}

func booked(p *peer.Peer, event string) error {
	err := fmt.Errorf("%s has not come", event)
	p.Booked(func(b *peer.Book) {
		if _, came := b.Came[id.Event(event)]; came {
			err = nil
		}
	})
	return err
}

// talk lets both say something until the states are the same.
func talk(t *testing.T, room string, a, b *person) {
	t.Helper()
	eventually(t, "the same state on both", func() error {
		a.say(t, room, "how are you?")
		b.say(t, room, "fine")
		return within(2*time.Second, func() error { return agree(t.Context(), room, a, b) })
	})
}

// judgedOn says which of the events a server has no verdict about yet, or rejects.
func judgedOn(t *testing.T, on server, events []string) error {
	got, err := verdictsOn(t.Context(), on, events)
	if err != nil {
		return err
	}
	bad := make(map[string]verdict)
	for _, e := range events {
		if v := got[e]; v == "" || v == rejected {
			bad[e] = v
		}
	}
	if len(bad) > 0 {
		return fmt.Errorf("%d of %d events are not taken by %s: %v", len(bad), len(events), on.name, bad)
	}
	return nil
}

func takenByBoth(t *testing.T, events []string) {
	t.Helper()
	for _, on := range []server{{name: "hanse"}, {name: "synapse"}} {
		eventually(t, on.name+" has all events", func() error { return judgedOn(t, on, events) })
	}
}

// dummies are the dummy events of a room on Hanse: one at least.
func dummies(t *testing.T, room string) []string {
	t.Helper()
	db, err := shards()
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, pool := range db.All() {
		var here []string
		err := pool.QueryRow(t.Context(), `SELECT array_agg(event_id) FROM event JOIN room USING (part, room_nid)
			WHERE room_id = $1 AND convert_from(json, 'UTF8')::jsonb ->> 'type' = 'org.matrix.dummy_event'`, room).Scan(&here)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, here...)
	}
	if len(ids) == 0 {
		t.Error("Hanse has merged nothing")
	}
	return ids
}

// fewEnds says whether a room has more forward extremities than a server leaves alone: ten, for both.
func fewEnds(t *testing.T, on server, room string) error {
	var n int
	if on.name == "synapse" {
		if err := other.query(`SELECT count(*) FROM event_forward_extremities WHERE room_id = ?`, &n, room); err != nil {
			return err
		}
	} else {
		db, err := shards()
		if err != nil {
			return err
		}
		for _, pool := range db.All() {
			var here int
			err := pool.QueryRow(t.Context(), `SELECT coalesce(max(cardinality(extremities)), 0) FROM room WHERE room_id = $1`, room).Scan(&here)
			if err != nil {
				return err
			}
			n += here
		}
	}
	if n > 10 {
		return fmt.Errorf("%d ends", n)
	}
	return nil
}
