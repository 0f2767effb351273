package hugerooms

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"hanse/pkg/matrix/id"
	"hanse/tools/hugeroom"
	"hanse/tools/hugeroom/peer"
	"hanse/tools/loadgen/measure"
	"hanse/tools/mxclient"
)

// Forks of a large room come in from other servers, and heal: readers get each event once, the state is that of plain
// state resolution ("State resolution" of the room versions), and who writes in another room of the same partition does
// not wait for it.
func TestForks(t *testing.T) {
	members := size(t, 2000, 100_000)
	width, depth, versions := 12, 12, []string{"12"}
	if full {
		width, depth, versions = 20, 100, []string{"11", "12"}
	}
	for _, version := range versions {
		t.Run("v"+version, func(t *testing.T) {
			cfg := hugeroom.Scaled(members)
			cfg.Version, cfg.Servers = version, min(cfg.Servers, 100) // which servers get local events is the subject of another test's
			p := serve(t, cfg, peer.Config{})
			f := newForked(t, p, version)
			warm(f.side)
			// Forks without conflicts that decide about others: all must be delivered.
			f.push("calm forks", f.grow(fmt.Sprintf("%d forks of %d", width, depth), func(r *hugeroom.Room) ([]int, error) {
				forks, err := r.Forks(r.History(), width, depth, hugeroom.Calm)
				return interleaved(forks), err
			}), true)
			// Forks such that void each other, and from before all power levels: what is refused for a while is another
			// matter, but the state must be right. (The other way round a join rule of the second, which no branch of the
			// first has, throws everybody out who came by an older one: so the algorithm has it.)
			f.push("forks from the creation", f.grow("forks from the creation", func(r *hugeroom.Room) ([]int, error) {
				forks, err := r.FromCreation(2, fromCreation, hugeroom.Calm)
				return interleaved(forks), err
			}), false)
			f.push("a fierce netsplit", f.grow("a netsplit", func(r *hugeroom.Room) ([]int, error) {
				rounds, err := r.Netsplit(newest(r), 3, depth, 2, hugeroom.Fierce)
				var all []int
				for _, round := range rounds {
					all = append(all, interleaved(round)...)
				}
				return all, err
			}), false)
			f.side.compare("calm forks", "a fierce netsplit", "forks from the creation")
			f.reader.exact(t)
			asked(t, p)
		})
	}
}

// fromCreation is the depth of forks from the creation: each of their state events conflicts with every entry of the state.
const fromCreation = 12

// forked is a room that a cluster has joined and that forks.
type forked struct {
	t      *testing.T
	peer   *peer.Peer
	room   string
	guest  *mxclient.Client
	reader *reader
	side   *side
	within *within
}

func newForked(t *testing.T, p *peer.Peer, name string) *forked {
	t.Helper()
	users := register(t, shared, "forked"+name, "within"+name, "beside"+name, "besides"+name)
	f := &forked{t: t, peer: p, guest: users[0], room: string(roomID(t, p))}
	begin := time.Now()
	if _, err := f.guest.Join(t.Context(), f.room, string(p.Resident())); err != nil {
		t.Fatal(err)
	}
	t.Logf("joined in %s", since(begin))
	if _, err := users[1].Join(t.Context(), f.room); err != nil {
		t.Fatal(err)
	}
	f.within = &within{t: t, room: f.room, user: users[1]}
	f.reader = read(t, f.guest, f.room)
	t.Logf("first sync in %s", f.reader.sync.Round(time.Millisecond))
	f.side = newSide(t, shared, f.room, users[2:])
	return f
}

func roomID(t *testing.T, p *peer.Peer) (out id.Room) {
	t.Helper()
	in(t, p, func(r *hugeroom.Room) error { out = r.ID; return nil })
	return out
}

func in(t *testing.T, p *peer.Peer, do func(*hugeroom.Room) error) {
	t.Helper()
	if err := p.Room(do); err != nil {
		t.Fatal(err)
	}
}

// newest is the last event of the room, whoever sent it.
func newest(r *hugeroom.Room) int { return r.Ends()[len(r.Ends())-1] }

// interleaved mixes branches, each in its order, as they would come from servers that do not know of each other.
func interleaved(branches [][]int) []int {
	var out []int
	for i := 0; ; i++ {
		n := len(out)
		for _, b := range branches {
			if i < len(b) {
				out = append(out, b[i])
			}
		}
		if len(out) == n {
			return out
		}
	}
}

// grow makes events, and one that joins all ends of the room.
func (f *forked) grow(what string, pattern func(*hugeroom.Room) ([]int, error)) (numbers []int) {
	f.t.Helper()
	begin := time.Now()
	in(f.t, f.peer, func(r *hugeroom.Room) (err error) {
		if numbers, err = pattern(r); err != nil {
			return err
		}
		end, err := r.Heal(r.Ends()...)
		numbers = append(numbers, end)
		return err
	})
	f.t.Logf("%s: %d events made in %s", what, len(numbers), since(begin))
	return numbers
}

// push sends events, the last of which heals, while people write in the room itself and beside; then the states must come to be the
// same. All says that every one of the events must be delivered.
func (f *forked) push(what string, numbers []int, all bool) {
	t := f.t
	t.Helper()
	f.peer.Deafen(true)
	f.within.meanwhile(&f.within.quiet, func() { quiet(f.side) })
	var pushed *peer.Pushed
	var took measure.Recorder
	begin := time.Now()
	meanwhile(what, func() {
		f.within.meanwhile(&took, func() {
			var err error
			if pushed, err = f.peer.Push(t.Context(), peer.Pushing{To: id.Server(shared.ServerName), Origin: f.peer.Resident(), PerTransaction: 20}, numbers...); err != nil {
				t.Fatal(err)
			}
			t.Logf("%s: taken in %s", what, since(begin))
		})
		events := names(t, f.peer, numbers)
		if !all {
			events = events[len(events)-1:]
		}
		until(t, what, func() error { return f.reader.lacks(events) })
	}, f.side)
	f.within.compare(what, &took)
	f.peer.Deafen(false)
	if len(pushed.Refused) > 0 {
		t.Errorf("%s: %d were refused, such as %v", what, len(pushed.Refused), some(pushed.Refused))
	}
	until(t, what+": what was said here", f.heard)
	t.Logf("%s: from sending to the reader: %s", what, quantiles(f.reader.delays(pushed.Sent)))
	begin = time.Now()
	until(t, what+": the state", f.agrees)
	t.Logf("%s: compared in %s", what, since(begin))
}

// heard puts what the room's own user said into the other servers' room.
func (f *forked) heard() error {
	left, err := f.peer.CatchUp()
	if err == nil && left > 0 {
		err = fmt.Errorf("%d events have no place yet", left)
	}
	return err
}

// agrees compares the state of the cluster with what plain resolution makes of all ends of the room.
func (f *forked) agrees() error {
	have, err := stateOf(f.t, f.guest, f.room)
	if err != nil {
		return err
	}
	want := make(map[string]id.Event)
	err = f.peer.Room(func(r *hugeroom.Room) error {
		m, err := r.Before(r.Ends()...)
		if err != nil {
			return err
		}
		for k, e := range r.Set(m) {
			want[k.Type+"\x00"+k.StateKey] = e
		}
		return nil
	})
	if err != nil || maps.Equal(have, want) {
		return err
	}
	return differ(have, want)
}

func differ(have, want map[string]id.Event) error {
	var diff []string
	for k := range want {
		if have[k] != want[k] && len(diff) < 5 {
			diff = append(diff, fmt.Sprintf("%q: %s, want %s", k, have[k], want[k]))
		}
	}
	return fmt.Errorf("states of %d and %d entries differ: %v", len(have), len(want), diff)
}

func names(t *testing.T, p *peer.Peer, numbers []int) []id.Event {
	t.Helper()
	var out []id.Event
	in(t, p, func(r *hugeroom.Room) error {
		for _, n := range numbers {
			out = append(out, r.PDU(n).ID)
		}
		return nil
	})
	return out
}

func some(m map[id.Event]string) []string {
	var out []string
	for e, why := range m {
		if out = append(out, string(e)+": "+why); len(out) == 3 {
			break
		}
	}
	return out
}
